"""Tables and JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pointcept.evaluation import ConfusionMatrix, Metrics, format_table, report_dict, write_report


@pytest.fixture
def metrics() -> Metrics:
    matrix = ConfusionMatrix(3, names=["road", "traffic-sign", "bus"])
    matrix.update(torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, -1]), num_scans=2)
    return matrix.compute()


def test_table_is_aligned_and_says_how_it_was_made(metrics: Metrics) -> None:
    lines = format_table(metrics, "quick").splitlines()
    title, head, rule = lines[:3]
    assert title.startswith("quick evaluation of 2 scans, 4 points")
    assert "58.33 %" in title
    assert "2 of 3" in title
    assert head.split("  ")[0] == "class"
    for column in ("IoU quick [%]", "acc quick [%]", "precision quick [%]"):
        assert column in head
    end = head.index("IoU quick [%]") + len("IoU quick [%]")
    values = {
        line[:20].split("  ")[0].strip(): line[:end].split()[-1] for line in lines[3:] if not line.startswith("--")
    }
    assert values["road"] == "66.67"
    assert values["traffic-sign"] == "50.00"
    assert values["bus"] == "-"
    assert values["mean over 2 present"] == "58.33"
    assert values["mean over all 3"] == "38.89"
    # The baseline: 3 of 4 points are road.
    always = [line for line in lines if line.startswith("always 'road', ")]
    assert [" ".join(line.removeprefix("always 'road', ").split()) for line in always] == [
        "mean over present 37.50",
        "mean over all 25.00",
        "all points 75.00",
    ]
    assert set(rule) == {"-"}
    assert lines.count(rule) == 2
    assert len(rule) == max(map(len, lines[1:]))


def test_precise_table_never_says_quick(metrics: Metrics) -> None:
    text = format_table(metrics, "precise")
    assert "quick" not in text
    assert "IoU precise [%]" in text


def test_json_carries_kind_scans_points_and_null_for_nan(metrics: Metrics, tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "result.json", metrics, "precise", {"weight": "a.pth", "x": float("nan")})
    report: dict[str, Any] = json.loads(path.read_text())
    assert "NaN" not in path.read_text()
    assert (report["kind"], report["num_scans"], report["num_points"]) == ("precise", 2, 4)
    assert (report["num_classes"], report["num_classes_present"]) == (3, 2)
    assert report["miou_present_precise"] == pytest.approx(7 / 12)
    assert report["all_acc_precise"] == 0.75
    assert report["classes"][0]["iou_precise"] == pytest.approx(2 / 3)
    assert report["classes"][2]["iou_precise"] is None
    assert report["majority_baseline"]["class"] == "road"
    assert report["majority_baseline"]["miou_all"] == 0.25
    assert report["weight"] == "a.pth"
    assert report["x"] is None
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_empty_evaluation_can_be_reported(tmp_path: Path) -> None:
    metrics = ConfusionMatrix(2).compute()
    report = json.loads(write_report(tmp_path / "a.json", metrics, "quick").read_text())
    assert report["miou_present_quick"] is None
    assert report["majority_baseline"]["class"] is None
    assert "always" not in format_table(metrics, "quick")


def test_wrong_arguments(metrics: Metrics) -> None:
    for function in (format_table, report_dict):
        with pytest.raises(ValueError, match=r"'fast'.*'quick' or 'precise'"):
            function(metrics, "fast")  # type: ignore[operator]
    with pytest.raises(ValueError, match="num_scans"):
        report_dict(metrics, "quick", {"num_scans": 3})
