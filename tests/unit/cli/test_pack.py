"""The shipped student: what is packed, and what a package without one says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pointcept import assets
from pointcept.cli.door import run_module
from pointcept.cli.pack import MOST_BYTES, halved, pack
from pointcept.utils.checkpoint import read_checkpoint, save_atomically
from pointcept.utils.errors import CheckpointError, ConfigError

STATE = {
    "conv.weight": torch.tensor([0.1, -3.0]),
    "norm.running_var": torch.tensor([1e-9]),
    "norm.num_batches_tracked": torch.tensor(7),
}


def checkpoint(path: Path, **content: object) -> Path:
    save_atomically({"state_dict": STATE, "optimizer": {"state": {}}, **content}, path)
    return path


def test_weights_are_halved_and_statistics_are_not(tmp_path: Path) -> None:
    size = pack(checkpoint(tmp_path / "model_last.pth", config="epoch = 3\n"), tmp_path / "out" / "shipped.pth")
    content = read_checkpoint(tmp_path / "out" / "shipped.pth", foreign=False)
    assert content.keys() == {"state_dict", "config"}
    assert content["config"] == "epoch = 3\n"
    state = content["state_dict"]
    assert {key: value.dtype for key, value in state.items()} == {
        "conv.weight": torch.float16, "norm.running_var": torch.float32, "norm.num_batches_tracked": torch.int64,
    }  # fmt: skip
    assert state["conv.weight"].tolist() == pytest.approx([0.1, -3.0], rel=1e-3)
    assert state["norm.running_var"].item() == STATE["norm.running_var"].item()
    assert size == (tmp_path / "out" / "shipped.pth").stat().st_size


def test_what_cannot_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=r"in half precision .*weight \(1 of 1 values\)"):
        halved({"weight": torch.tensor([1e5])})
    with pytest.raises(ConfigError, match="carries no config"):
        pack(checkpoint(tmp_path / "bare.pth"), tmp_path / "out.pth")
    large = {"state_dict": {"weight": torch.zeros(MOST_BYTES // 2 + 1)}, "config": ""}
    save_atomically(large, tmp_path / "large.pth")
    assert run_module("pointcept.cli.pack", [str(tmp_path / "large.pth"), "--out", str(tmp_path / "out.pth")]) == 2
    assert "at most 6291456 ship" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_a_package_without_weights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "SHIPPED", tmp_path / "shipped_student.pth")
    with pytest.raises(ConfigError, match=r"--weight FILE, or make them with .*docs/shipped-student\.md"):
        assets.shipped_weight()
    (tmp_path / "shipped_student.pth").touch()
    assert assets.shipped_weight() == tmp_path / "shipped_student.pth"
