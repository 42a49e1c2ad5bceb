"""Tests that are stopped, repeated, or made in the folder of others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch

from pointcept.engines import kept_results, run_folder
from pointcept.engines import test as tester_module
from pointcept.engines.kept_results import KeptResults, scan_mark
from pointcept.engines.test import build_tester
from pointcept.evaluation import report_dict
from pointcept.utils import comm, lock
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError, DataError

ALL = {"type": "SemSegTester", "save_predictions": True, "submit": True}


@pytest.fixture(autouse=True)
def quick_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "pretty_text", lambda self: "")  # yapf takes longer than the test
    monkeypatch.setattr(run_folder, "write_environment", lambda path, seed: path.write_text("{}"))  # and git


@pytest.fixture
def weight(tmp_path: Path) -> str:
    return weights(tmp_path / "weights.pth", 3)


def weights(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    torch.save({"state_dict": fakes.FakeModel().state_dict()}, path)
    return str(path)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the scans that are predicted."""
    names: list[str] = []
    real = tester_module.predict_scan

    def predict(model: Any, sample: Any, *arguments: Any) -> Any:
        names.append(sample["name"])
        return real(model, sample, *arguments)

    monkeypatch.setattr(tester_module, "predict_scan", predict)
    return names


def config(folder: Path, weight: str, **changes: Any) -> Any:
    return fakes.make_config(folder, weight=weight, **{"test": ALL, **changes})


def run(cfg: Any) -> dict[str, Any]:
    metrics = build_tester(cfg, record=True).test()
    assert metrics is not None
    return report_dict(metrics, "precise")


def stopped(cfg: Any, after: int) -> None:
    """Test, and end before scan number ``after`` + 1."""
    with pytest.MonkeyPatch.context() as patch:
        calls: list[int] = []
        real = tester_module.predict_scan

        def predict(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) > after:
                raise DataError("stopped")
            return real(*arguments)

        patch.setattr(tester_module, "predict_scan", predict)
        with pytest.raises(DataError, match="stopped"):
            build_tester(cfg).test()


def results(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in (folder / "result").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if "progress" not in path.name}


PICTURES = "result/worst_precise.npz"


def without_times(content: dict[str, bytes]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, data in content.items():
        if name.endswith("miou_precise.json"):
            plain[name] = {key: value for key, value in json.loads(data).items() if key != "seconds"}
        elif not name.endswith((".py", "environment.json")):
            plain[name] = data
    return plain


def test_a_stopped_test_goes_on(
    tmp_path: Path, weight: str, predicted: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(config(tmp_path / "whole", weight))
    predicted.clear()
    cfg = config(tmp_path / "run", weight)
    stopped(cfg, 5)
    assert predicted == [f"scan{i}" for i in range(5)]
    assert not (tmp_path / "run" / "result" / "miou_precise.json").exists()
    assert not (tmp_path / "run" / "result" / "lock").exists()
    predicted.clear()
    with caplog.at_level("INFO", logger="pointcept"):
        assert run(cfg) == whole
    assert predicted == ["scan5", "scan6", "scan7"]
    assert without_times(results(tmp_path / "run")) == without_times(results(tmp_path / "whole"))
    assert "the test goes on: 5 of 8 scans are done" in caplog.text
    assert "Test [6/8] scan5" in caplog.text
    assert "submission of 8 scans" in caplog.text


def test_a_finished_test_is_not_repeated(
    tmp_path: Path, weight: str, predicted: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = run(config(tmp_path / "run", weight))
    before = results(tmp_path / "run")
    predicted.clear()
    with caplog.at_level("INFO", logger="pointcept"):
        assert run(config(tmp_path / "run", weight)) == first
    assert not predicted
    assert results(tmp_path / "run") == before
    assert "tested already: the same weights, config and scans; nothing is predicted" in caplog.text
    assert f"fingerprint {json.loads(before['result/miou_precise.json'])['fingerprint']}" in caplog.text
    # With fewer wishes, in another place of the data, with the report elsewhere: still the same.
    path = tmp_path / "report.json"
    assert run(config(tmp_path / "run", weight, test={"type": "SemSegTester"}, miou_result_path=str(path))) == first
    assert not predicted
    assert json.loads(path.read_text())["fingerprint"]
    # Unless that is asked for; the earlier results are put aside.
    assert run(config(tmp_path / "run", weight, test={**ALL, "again": True})) == first
    assert len(predicted) == 8
    assert len(list(tmp_path.glob("run/result_*/miou_precise.json"))) == 1


def test_what_was_not_asked_for_is_made(tmp_path: Path, weight: str, predicted: list[str]) -> None:
    first = run(config(tmp_path, weight, test={"type": "SemSegTester"}))
    predicted.clear()
    assert run(config(tmp_path, weight)) == first
    assert len(predicted) == 8
    assert (tmp_path / "result" / "submission" / "finished").read_text() == "8"


CHANGES: dict[str, Callable[[Any], None]] = {
    "weights": lambda cfg: setattr(cfg, "weight", weights(Path(cfg.save_path) / "other.pth", 4)),
    "views": lambda cfg: setattr(cfg.data.test, "views", 3),
    "precision": lambda cfg: setattr(cfg, "amp_dtype", "bfloat16"),
    "model": lambda cfg: setattr(cfg.model, "dropout", 0.1),
    "names": lambda cfg: setattr(cfg.data.test, "type", "RenamedDataset"),
    "scans": lambda cfg: setattr(cfg.data.test, "scans", 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_results_of_other_tests_are_set_aside(tmp_path: Path, weight: str, predicted: list[str], change: str) -> None:
    over = list(CHANGES).index(change) % 2 == 0
    other = config(tmp_path / "run", weight)
    (tmp_path / "run").mkdir()
    CHANGES[change](other)
    if over:
        run(other)
    else:
        stopped(other, 5)
    earlier = results(tmp_path / "run")
    whole = without_times(run_and_read(config(tmp_path / "whole", weight)))
    predicted.clear()
    assert without_times(run_and_read(config(tmp_path / "run", weight))) == whole
    assert len(predicted) == 8
    (aside,) = tmp_path.glob("run/result_*")
    found = {str(Path("result", p.relative_to(aside))): p.read_bytes() for p in aside.rglob("*") if p.is_file()}
    assert {name: content for name, content in found.items() if "progress" not in name} == earlier
    assert len(list((tmp_path / "run" / "result").glob("progress_*"))) == 1


def run_and_read(cfg: Any) -> dict[str, bytes]:
    run(cfg)
    return results(Path(cfg.save_path))


def test_results_without_a_fingerprint_are_set_aside(tmp_path: Path, weight: str) -> None:
    (tmp_path / "result" / "submission").mkdir(parents=True)
    (tmp_path / "result" / "submission" / "scan99.label").write_bytes(b"x")
    (tmp_path / "result" / "miou_precise.json").write_text("{}")
    (tmp_path / "quick.json").write_text('{"fingerprint": "that of others"}')
    run(config(tmp_path, weight))
    quick = {"type": "SemSegTester", "quick": True}
    run(config(tmp_path, weight, test=quick, miou_result_path=str(tmp_path / "quick.json")))
    (aside,) = tmp_path.glob("result_*")
    assert sorted(path.name for path in aside.iterdir()) == ["miou_precise.json", "submission"]
    assert len(list(tmp_path.glob("quick_*.json"))) == 1
    first, second = (
        json.loads(p.read_text()) for p in (tmp_path / "quick.json", tmp_path / "result/miou_precise.json")
    )
    assert first["fingerprint"] != second["fingerprint"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _turn(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"points":4', b'"points":5', 1)
    path.write_bytes(b"".join(lines))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "a line that was cut off": ("progress_0.txt", _cut, ["scan4"]),
    "a line that has changed": ("progress_0.txt", _turn, ["scan1"]),
    "a prediction that has changed": ("predictions/scan2.npy", lambda path: path.write_bytes(b"x"), ["scan2"]),
    "a part of the submission that is gone": ("submission/scan3.label", os.remove, ["scan3"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_predicted_again(tmp_path: Path, weight: str, predicted: list[str], damage: str) -> None:
    whole = without_times(run_and_read(config(tmp_path / "whole", weight)))
    stopped(config(tmp_path / "run", weight), 5)
    name, spoil, again = DAMAGES[damage]
    spoil(tmp_path / "run" / "result" / name)
    predicted.clear()
    assert without_times(run_and_read(config(tmp_path / "run", weight))) == whole
    assert predicted == sorted([*again, "scan5", "scan6", "scan7"])
    predicted.clear()
    run(config(tmp_path / "run", weight))
    assert not predicted


def test_a_scan_that_has_changed_is_predicted_again(
    tmp_path: Path, weight: str, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = [f"mark{i}" for i in range(8)]
    monkeypatch.setattr(tester_module, "scan_mark", lambda dataset, index: marks[index])
    first = run(config(tmp_path, weight))
    for index in (4, 5):
        predicted.clear()
        marks[index] = "changed"
        (tmp_path / "result" / "submission" / "finished").unlink()
        assert run(config(tmp_path, weight)) == first
        assert predicted == [f"scan{index}"]
        assert (tmp_path / "result" / "submission" / "finished").exists(), "the submission is completed again"


def test_marks_find_the_files_of_a_scan(tmp_path: Path) -> None:
    class Joint:
        def __init__(self, *entries: Any) -> None:
            self.data_list = list(entries)

    (tmp_path / "frame").mkdir()
    (tmp_path / "frame" / "coord.npy").write_bytes(b"1")
    inner = Joint("scan", {"a": [tmp_path / "frame"]}, (tmp_path / "none", None))
    joint = Joint((0, 1))
    joint.datasets = [inner]  # type: ignore[attr-defined]
    assert scan_mark(inner, 0) == ""
    marks = [scan_mark(inner, 1), scan_mark(inner, 2)]
    assert scan_mark(joint, 0) == marks[0] != marks[1]
    (tmp_path / "frame" / "coord.npy").write_bytes(b"12")
    assert scan_mark(inner, 1) != marks[0]


def test_scans_without_labels_go_on_too(tmp_path: Path, weight: str, predicted: list[str]) -> None:
    cfg = config(tmp_path, weight, test={"type": "SemSegTester"})
    cfg.data.test.labels = False
    stopped(cfg, 3)
    predicted.clear()
    for _ in range(2):
        assert build_tester(cfg).test() is None
    assert predicted == [f"scan{i}" for i in range(3, 8)]
    assert (tmp_path / "result" / "submission" / "finished").read_text() == "8"


@pytest.mark.parametrize("sizes", [(1, 2), (2, 3), (3, 1)])
def test_several_processes_share_what_is_left(
    tmp_path: Path, weight: str, predicted: list[str], monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    """Processes one after the other here; each has its own part, and the numbers of processes may differ."""
    cfg = config(tmp_path / "run", weight, batch_size_test=6)
    whole = without_times(run_and_read(config(tmp_path / "whole", weight, batch_size_test=6)))
    predicted.clear()

    def play(size: int, after: int | None) -> None:
        monkeypatch.setattr(comm, "world_size", lambda: size)
        told: list[Any] = []

        def broadcast(value: Any) -> Any:
            if comm.rank() == 0:
                told[:] = [value]
            return told[0]

        monkeypatch.setattr(comm, "broadcast_object", broadcast)
        # Scans for rank 0 to count at the end come from its own part; those of the others are in their files.
        for rank in range(size):
            monkeypatch.setattr(comm, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(comm, "is_main_process", lambda rank=rank: rank == 0)
            monkeypatch.setattr(comm, "all_reduce_sum", lambda tensor: tensor)
            monkeypatch.setattr(comm, "gather_objects", lambda value: [0 if isinstance(value, int) else value])
            if after is not None:
                stopped(cfg, after)
            else:
                build_tester(cfg).test()

    play(sizes[0], 1)
    assert len(predicted) == sizes[0]
    play(sizes[1], None)
    assert sorted(predicted) == [f"scan{i}" for i in range(8)], "each once"
    monkeypatch.undo()
    (tmp_path / "run" / "result" / "miou_precise.json").unlink()
    found = without_times(run_and_read(cfg))
    # Of the scans with the most errors only processes that run at the same time keep all the points.
    assert {**found, PICTURES: None} == {**whole, PICTURES: None}


def test_one_test_at_a_time_in_a_folder(tmp_path: Path, weight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = lock.FolderLock(tmp_path / "result")
    other.acquire()
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/result is in use by process {os.getpid()} on "):
        build_tester(config(tmp_path, weight)).test()
    other.release()
    kept = KeptResults(tmp_path / "result", "mark", tmp_path / "report.json")
    monkeypatch.setattr(kept_results.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot keep results in .*result: .*No space left"):
        kept.take(False, None)
    kept.release()


def test_an_end_without_a_line_break_is_mended(tmp_path: Path) -> None:
    kept = KeptResults(tmp_path, "mark", tmp_path / "report.json")
    entry = kept_results.Entry(0, "a", 3, 1.0, 0.1, None, "", {})
    kept.add(entry)
    path = tmp_path / "progress_0.txt"
    path.write_bytes(path.read_bytes() + b"0000")
    kept.add(kept_results.Entry(1, "b", 3, 1.0, 0.1, None, "", {}))
    kept.finish()
    found = kept.take(False, lambda entry: True)
    assert [entry.name for entry in found] == ["a", "b"]
    assert kept.finished
    kept.release()
    assert path.read_bytes().count(b"fingerprint") == 1
