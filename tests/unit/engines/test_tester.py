"""The tester's table, JSON file, predictions and submissions."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch

from pointcept.engines.test import build_tester
from pointcept.utils.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def weight(tmp_path: Path) -> str:
    torch.manual_seed(3)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in fakes.FakeModel().state_dict().items()}}, path)
    return str(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_precise_and_quick_have_their_own_names(tmp_path: Path, weight: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pointcept"):
        precise = build_tester(fakes.make_config(tmp_path, weight=weight, batch_size_test=3)).test()
        quick = build_tester(
            fakes.make_config(tmp_path, weight=weight, test={"type": "SemSegTester", "quick": True})
        ).test()
    assert precise is not None
    assert quick is not None
    first, second = read(tmp_path / "result" / "miou_precise.json"), read(tmp_path / "result" / "miou_quick.json")
    assert (first["kind"], second["kind"]) == ("precise", "quick")
    assert first["miou_present_precise"] == precise.miou_present
    assert "miou_present_quick" not in first
    assert second["miou_all_quick"] == quick.miou_all
    assert first["num_scans"] == 8
    assert first["weight"] == weight
    assert first["parameters"] == (3 + 1) * 16 + 2 * 16 + (16 + 1) * 3, "linear, normalisation, head"
    assert len(first["classes"]) == 3
    assert "IoU precise" in caplog.text
    assert "IoU quick" in caplog.text
    assert "mean over all 3" in caplog.text
    assert "Test [8/8] scan7: 47 points, 2.0 passes per point" in caplog.text


def test_result_path_is_a_file_or_a_folder(tmp_path: Path, weight: str) -> None:
    build_tester(fakes.make_config(tmp_path, weight=weight, miou_result_path=str(tmp_path / "a.json"))).test()
    build_tester(fakes.make_config(tmp_path, weight=weight, miou_result_path=str(tmp_path / "b"))).test()
    assert read(tmp_path / "a.json")["num_points"] == read(tmp_path / "b" / "miou_precise.json")["num_points"]


def test_scans_without_labels_become_a_submission(tmp_path: Path, weight: str) -> None:
    cfg = fakes.make_config(tmp_path, weight=weight)
    cfg.data.test.labels = False
    assert build_tester(cfg).test() is None
    files = sorted((tmp_path / "result" / "submission").iterdir())
    assert [f.name for f in files] == ["finished", *(f"scan{i}.label" for i in range(8))]
    assert files[0].read_text() == "8", "finished after the last scan"
    assert files[3].stat().st_size == 42
    assert not list((tmp_path / "result").glob("*.json"))


def test_labelled_scans_are_submitted_on_request(tmp_path: Path, weight: str) -> None:
    assert build_tester(fakes.make_config(tmp_path / "a", weight=weight)).test() is not None
    assert not (tmp_path / "a" / "result" / "submission").exists()
    tester = build_tester(
        fakes.make_config(tmp_path / "b", weight=weight, test={"type": "SemSegTester", "submit": True})
    )
    assert tester.test() is not None
    assert (tmp_path / "b" / "result" / "submission" / "finished").read_text() == "8"


@pytest.mark.parametrize("where", ["write_submission", "finish_submission"])
def test_a_full_disk_is_said_in_one_sentence(
    tmp_path: Path, weight: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fakes.FakeDataset, where, full)
    cfg = fakes.make_config(tmp_path, weight=weight)
    cfg.data.test.labels = False
    with pytest.raises(DataError, match=r"cannot (write|complete).*result.*No space left on device"):
        build_tester(cfg).test()


def test_predictions_are_kept_on_request(tmp_path: Path, weight: str) -> None:
    cfg = fakes.make_config(tmp_path, weight=weight, test={"type": "SemSegTester", "save_predictions": True})
    cfg.data.test.full_resolution = True
    metrics = build_tester(cfg).test()
    kept = np.load(tmp_path / "result" / "predictions" / "scan1.npy")
    assert kept.shape == (82,)
    assert set(np.unique(kept)) <= {0, 1, 2}
    assert metrics is not None
    assert metrics.num_points == 2 * (sum(range(40, 48)) - 8)


def test_a_distillation_is_tested_by_its_student(tmp_path: Path, weight: str) -> None:
    model = {"type": "FakeDistiller", "student": {"type": "FakeModel"}}
    plain = build_tester(fakes.make_config(tmp_path, weight=weight)).test()
    distilled = build_tester(fakes.make_config(tmp_path, weight=weight, model=model)).test()
    assert plain is not None
    assert distilled is not None
    assert distilled.iou == plain.iou


def test_what_is_missing_is_named(tmp_path: Path, weight: str) -> None:
    with pytest.raises(ConfigError, match="weight=PATH"):
        build_tester(fakes.make_config(tmp_path))
    with pytest.raises(CheckpointError, match=r"gone\.pth does not exist; the folder holds weights\.pth"):
        build_tester(fakes.make_config(tmp_path, weight=str(tmp_path / "gone.pth")))
    cfg = fakes.make_config(tmp_path, weight=weight)
    cfg.data.test.test_mode = False
    with pytest.raises(ConfigError, match="test_mode=True"):
        build_tester(cfg).test()
    with pytest.raises(ConfigError, match="takes no 'quik': did you mean 'quick'"):
        build_tester(fakes.make_config(tmp_path, weight=weight, test={"type": "SemSegTester", "quik": True}))
