"""Differences, scores and the worst scans against known answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scans import BUILDING, CAR, ROAD, street

from pointcept.utils.errors import DataError
from pointcept.views.scene import NOTHING, count, difference, error_rate, worst


def without(*names: str):
    scene = street()
    return dataclasses.replace(scene, layers={k: v for k, v in scene.layers.items() if k not in names})


def test_difference_of_two_predictions_and_the_truth() -> None:
    found = difference(street())
    assert found is not None
    assert found.labels == ("both right", "only student wrong", "only teacher wrong", "both wrong")
    assert found.codes[[0, 40, 70, 300, 595, 850]].tolist() == [2, 3, 1, 0, NOTHING, 1]
    assert np.bincount(found.codes)[:4].tolist() == [900 - 10 - 30 - 30 - 30 - 100, 130, 30, 30]


def test_difference_of_one_prediction() -> None:
    found = difference(without("teacher"))
    assert found is not None
    assert found.labels == ("right", "wrong")
    assert (found.codes == 1).sum() == 160
    assert len(found.colours) == 1


def test_difference_without_a_truth_is_where_two_disagree() -> None:
    found = difference(without("truth"))
    assert found is not None
    assert found.labels == ("the same class", "teacher and student differ")
    assert (found.codes == 1).sum() == 90 + 100
    assert difference(without("truth", "teacher")) is None
    assert difference(without("student", "teacher")) is None


def test_scores_leave_out_what_has_no_class() -> None:
    metrics = count(street(), "student").compute()
    assert metrics.num_points == 890
    assert metrics.iou[CAR] == 0
    assert metrics.iou[ROAD] == pytest.approx((590 - 60) / 590)
    assert metrics.iou[BUILDING] == pytest.approx(200 / (200 + 160))


def test_points_without_a_prediction_do_not_count() -> None:
    scene = street()
    student = scene.layers["student"].copy()
    student[:300] = -1
    scene = dataclasses.replace(scene, layers={**scene.layers, "student": student})
    assert count(scene, "student").compute().num_points == 590
    assert error_rate(scene) == pytest.approx(100 / 590)


def test_the_worst_come_first() -> None:
    scenes = []
    for name, wrong in (("a", 10), ("b", 300), ("c", 0), ("d", 100)):
        scene = street(name)
        student = scene.layers["truth"].copy()
        student[:wrong] = CAR
        scenes.append(dataclasses.replace(scene, layers={"truth": scene.layers["truth"], "student": student}))
    assert [scene.name for scene in worst(iter(scenes), 2)] == ["b", "d"]
    assert [scene.name for scene in worst(iter(scenes), 9)] == ["b", "d", "a", "c"]


def test_layers_fit_the_scan_and_the_classes() -> None:
    with pytest.raises(DataError, match="student has 5 classes, the scan 900 points"):
        street(layers={"student": np.zeros(5, np.int16)})
    with pytest.raises(DataError, match="has class 19, the data set has 0 to 18"):
        street(layers={"student": np.full(900, 19, np.int16)})
