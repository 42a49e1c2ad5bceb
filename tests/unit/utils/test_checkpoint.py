"""Weight files: atomic writing, and reading that names whatever does not fit."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pointcept.utils.checkpoint import export_weights, load_weights, read_checkpoint, save_atomically
from pointcept.utils.errors import CheckpointError


def make_model(width: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("moment", ["write", "fsync", "rename"])
def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    path = tmp_path / "a.pth"
    save_atomically({"x": torch.ones(2)}, path)
    before = path.read_bytes()

    def crash(*args: Any, **kwargs: Any) -> None:
        if moment == "write":
            args[1].write(b"half of it")
        raise OSError("no space left on device")

    target = {"write": "torch.save", "fsync": "os.fsync", "rename": "os.replace"}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, crash)
        with pytest.raises(CheckpointError, match=r"cannot write .*a\.pth: no space left"):
            save_atomically({"x": torch.zeros(2)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    save_atomically({"x": torch.zeros(2)}, path)
    assert read_checkpoint(path)["x"].sum() == 0


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file/a\.pth: (Not a directory|File exists); an earlier"):
        save_atomically({}, tmp_path / "file" / "a.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*folder\.pth: Is a directory"):
        save_atomically({}, tmp_path / "folder.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.pth"]
    os.mkfifo(tmp_path / "pipe.pth")
    for path, what in (
        (tmp_path / "pipe.pth", "a pipe, a device or a socket"),
        (Path("/dev/zero"), "a pipe"),
        (tmp_path / "folder.pth", "a folder"),
    ):
        with pytest.raises(CheckpointError, match=f"is {what}.*expected a file"):
            read_checkpoint(path)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_atomically({}, tmp_path / "a.pth")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.pth"))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(CheckpointError, match=r"a\.pth cannot be read: Permission denied"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named_although_torch_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open
    monkeypatch.setattr("builtins.open", lambda path, mode="r": real("/dev/full" if mode == "wb" else path, mode))
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.pth: .*No space left on device"):
        save_atomically({"x": torch.zeros(100_000)}, tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_published_forms_load(tmp_path: Path, prefix: str, wrapped: bool) -> None:
    source, model = make_model(seed=1), make_model(seed=2)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    content: Any = {"state_dict": state, "epoch": 50, "best_metric_value": np.float64(0.8)} if wrapped else state
    torch.save(content, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert equal(source, model)


def test_what_does_not_fit_is_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model()
    state = dict(make_model(5).state_dict())
    state["extra"] = state.pop("1.running_mean")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as error:
        load_weights(model, tmp_path / "a.pth")
    text = str(error.value)
    assert "a.pth does not fit the model (7 entries, 1 fit)" in text
    assert "1 missing from the file: 1.running_mean" in text
    assert "1 unknown to the model: extra" in text
    assert "5 of another shape: 0.weight (file (5, 3), model (4, 3)), " in text
    assert "to train from the 1 entries that fit, give the hook CheckpointLoader strict=False" in text
    before = model[0].weight.clone()  # type: ignore[index, operator, union-attr]
    load_weights(model, tmp_path / "a.pth", strict=False)
    assert "fits the model in 1 of 7 entries" in caplog.text
    assert torch.equal(model[0].weight, before)  # type: ignore[index, union-attr]
    torch.save({"other": torch.ones(1)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"(?s)0 fit.*CheckpointLoader renames: keywords='module\.'"):
        load_weights(model, tmp_path / "b.pth", strict=False)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    model = nn.ModuleList(nn.Linear(1, 1) for _ in range(20))
    torch.save({"0.weight": torch.ones(1, 1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"39 missing from the file: 0\.bias, .* and 29 more"):
        load_weights(model, tmp_path / "a.pth")


def test_what_stays_as_it_is_is_logged_to_the_last_entry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleList(nn.Linear(1, 2) for _ in range(20))
    torch.save({"0.weight": torch.ones(2, 1), "0.bias": torch.ones(3)}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", strict=False)
    assert "fits the model in 1 of 40 entries, the others stay:" in caplog.text
    assert "1 of another shape: 0.bias (file (3,), model (2,))" in caplog.text
    assert all(f"{i}.{name}" in caplog.text for i in range(1, 20) for name in ("weight", "bias"))


def test_the_log_says_which_form_a_network_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = nn.ModuleDict({"backbone": make_model()})
    torch.save(model.state_dict(), tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert caplog.messages == [f"loaded weights from {tmp_path / 'a.pth'}"]
    model["backbone"].weight_form = "Net with option='a', for weights of version 1"
    load_weights(model, tmp_path / "a.pth")
    assert (
        caplog.messages[-1]
        == f"loaded weights from {tmp_path / 'a.pth'}; Net with option='a', for weights of version 1"
    )


def test_keys_are_renamed_as_in_pointcept(tmp_path: Path) -> None:
    source, model = make_model(seed=1), nn.ModuleDict({"backbone": make_model(seed=2)})
    torch.save({"state_dict": source.state_dict()}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", keywords="module.", replacement="module.backbone.")
    assert equal(source, model["backbone"])


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth does not exist$"):
        read_checkpoint(tmp_path / "gone.pth")
    path = tmp_path / "a.pth"
    path.touch()
    with pytest.raises(CheckpointError, match=r"a\.pth is empty"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)
    buffer = io.BytesIO()
    torch.save(make_model().state_dict(), buffer)
    for content in (buffer.getvalue()[:-200], buffer.getvalue()[:100], b"hello", b"\x80\x02"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"a.pth \({len(content)} bytes\) is damaged"):
            read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"gone\.pth does not exist; the folder holds a\.pth"):
        read_checkpoint(tmp_path / "gone.pth")


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_changes_nothing_or_is_refused(tmp_path: Path) -> None:
    state = {"a.weight": torch.randn(3, 4), "b": torch.arange(5)}
    plain = {"epoch": 3, "config": "x = 1\n", "sampler": {"seed": 1, "position": 7}}
    path = tmp_path / "a.pth"
    save_atomically({"state_dict": state, **plain}, path)
    whole = path.read_bytes()
    messages = []
    # 11 has no factor in common with 8: every kind of byte in the archive meets every bit.
    for bit in range(0, 8 * len(whole), 11):
        path.write_bytes(flipped(whole, bit))
        try:
            content = read_checkpoint(path, foreign=False)
        except CheckpointError as error:
            messages.append(str(error))
            continue
        found = content.pop("state_dict")
        assert content == plain
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) and found[key].dtype == state[key].dtype for key in state)
    assert len(messages) > len(whole) * 8 / 11 / 3
    line = re.compile(rf"weight file {path} \({len(whole)} bytes\) is damaged.*")
    assert all(line.fullmatch(message) for message in messages)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_atomically({"x": torch.ones(4096), "y": torch.zeros(4)}, path)
    whole = path.read_bytes()
    start = whole.index(torch.ones(8).numpy().tobytes())
    path.write_bytes(whole[: start + 4096] + bytes(4096) + whole[start + 8192 :])
    with pytest.raises(CheckpointError, match=r"a\.pth \(.*record 'archive/data/0' changed after it was written$"):
        read_checkpoint(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    # Torch takes what has the attribute of a folder for read, and leaves the tensor to chance.
    attributes = whole.index(b"PK\x01\x02", whole.index(b"archive/data/0", start) - 46) + 38
    path.write_bytes(flipped(whole, 8 * attributes + 4))
    with pytest.raises(CheckpointError, match=r"record 'archive/data/0' changed"):
        read_checkpoint(path)
    path.write_bytes(whole[:-30])
    with pytest.raises(CheckpointError, match="the list of records at its end changed"):
        read_checkpoint(path)
    path.write_bytes(flipped(whole, 5))
    with pytest.raises(CheckpointError, match="its first bytes changed"):
        read_checkpoint(path)


@pytest.mark.parametrize("form", ["without checksums", "before 1.6"])
def test_files_without_checksums_load_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"x": torch.ones(3)}, path, _use_new_zipfile_serialization=form != "before 1.6")
    if form == "without checksums":
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            place = archive.start_dir
            for _ in archive.infolist():  # as torch writes it after set_crc32_options(False)
                content[place + 16 : place + 20] = bytes(4)
                place = content.find(b"PK\x01\x02", place + 4)
        path.write_bytes(content)
    assert read_checkpoint(path)["x"].sum() == 3
    assert form in caplog.text
    assert "damage cannot be seen" in caplog.text


def test_weights_of_another_kind_are_refused_and_of_another_width_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    state = {key: value.double() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    assert "a.pth: 6 entries are float64 in the file and float32 in the model" in caplog.text
    state["0.bias"] = torch.ones(4, dtype=torch.int64)
    state["1.num_batches_tracked"] = torch.tensor(1.0)
    torch.save(state, tmp_path / "b.pth")
    words = (
        r"2 of another kind: 0\.bias \(file int64, model float32\), 1\.num_batches_tracked \(file float32, model int64"
    )
    with pytest.raises(CheckpointError, match=words):
        load_weights(model, tmp_path / "b.pth")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must not be printed",)


def test_no_code_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="Python objects besides tensors"):
        read_checkpoint(tmp_path / "a.pth")
    assert capsys.readouterr().out == ""


def test_other_contents_are_described(tmp_path: Path) -> None:
    for content, words in (({"epoch": 3, "model": 1}, r"keys \['epoch', 'model'\]"), ([1], "list"), ({}, "keys")):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=words):
            load_weights(make_model(), tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        ("0.bias", {1: float("nan")}, r"0\.bias \(1 of 4 values\)"),
        ("0.weight", {0: float("inf"), 2: float("-inf")}, r"0\.weight \(6 of 12 values\)"),
        ("1.running_mean", {0: float("nan")}, r"1\.running_mean \(1 of 4 values\)"),
        ("1.running_var", {3: -1e-3}, r"1\.running_var \(1 of 4 values\)"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite_are_named(
    tmp_path: Path, key: str, values: dict[int, float], shown: str, dtype: torch.dtype
) -> None:
    model = make_model(seed=1)
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in make_model(seed=2).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth")
    for row, value in values.items():
        state[key][row] = value
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=rf"a\.pth: 1 of 7 entries hold NaN, infinity or a .*: {shown}$"):
            load_weights(model, tmp_path / "a.pth", strict)
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items()), "nothing is loaded"


def test_values_are_judged_as_the_model_holds_them(tmp_path: Path) -> None:
    model, state = make_model(seed=1), make_model(seed=2).double().state_dict()
    state["0.bias"][0] = 1e300
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"0\.bias \(1 of 4 values\)"):
        load_weights(model, tmp_path / "a.pth")
    load_weights(model.double(), tmp_path / "a.pth")
    state["0.bias"] = torch.full((5,), float("nan"))  # of another shape, so that it is not loaded
    torch.save(state, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", strict=False)
    many = nn.ModuleList(nn.Linear(1, 1) for _ in range(20))
    torch.save({k: v * float("nan") for k, v in many.state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"40 of 40 entries .*: 0\.weight \(1 of 1 values\), .* and 30 more$"):
        load_weights(many, tmp_path / "a.pth")


def test_export_keeps_the_weights_alone(tmp_path: Path) -> None:
    source, model = make_model(seed=1), make_model(seed=2)
    torch.save({"state_dict": source.state_dict(), "optimizer": {"m": torch.ones(100)}}, tmp_path / "a.pth")
    export_weights(tmp_path / "a.pth", tmp_path / "sub" / "b.pth")
    assert read_checkpoint(tmp_path / "sub" / "b.pth").keys() == {"state_dict"}
    load_weights(model, tmp_path / "sub" / "b.pth")
    assert equal(source, model)
