"""Two official layouts trained on and tested together, in the classes that they share."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("embreex", reason="the simulator needs the extra 'simulator'")

from pointcept.datasets import BaseDataset, NuScenesDataset, SemanticKITTIDataset
from pointcept.datasets.label_space import LABEL_SPACES
from pointcept.engines.defaults import load_config, train_main
from pointcept.utils.config import parse_options
from pointcept.utils.logging import close_logging
from tests.integration.test_layouts import FRAMES, write_set
from tests.paths import CONFIGS

CONFIG = """# A small student on tiny sets of two layouts: configs/_base_/datasets/driving.py without Waymo.
_base_ = [
    "{configs}/_base_/runtime_cpu.py",
    "{configs}/_base_/datasets/driving.py",
    "{configs}/_base_/models/ptv3_small_student.py",
    "{configs}/_base_/schedules/smoke.py",
]
num_worker = 0
log_freq = 1
seed = 3
data = dict(
    train=dict(
        datasets=[
            dict({{{{_base_.data.train.datasets.0}}}}, sequences="available"),
            {{{{_base_.data.train.datasets.1}}}},
        ],
    ),
    val=dict(datasets=[{{{{_base_.data.val.datasets.0}}}}, {{{{_base_.data.val.datasets.1}}}}]),
    test=dict(datasets=[{{{{_base_.data.test.datasets.0}}}}, {{{{_base_.data.test.datasets.1}}}}]),
)
model = dict({{{{_base_.student}}}}, num_classes={{{{_base_.num_classes}}}})
"""


def points_of_classes(data: BaseDataset) -> Counter[str]:
    """How many points each common class has, by the names of the data set's own classes."""
    common = {
        own: name for name, members in LABEL_SPACES["driving"].classes.items() for own in members[type(data).__name__]
    }
    counts: Counter[str] = Counter()
    for index in range(len(data)):
        segment = data.get_data(index)["segment"]
        for label in segment[segment >= 0].tolist():
            if data.names[label] in common:
                counts[common[data.names[label]]] += 1
    return counts


def test_two_layouts_are_trained_on_and_tested_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTCEPT_DEVICE", "cpu")
    root, config = tmp_path / "data", tmp_path / "config.py"
    for layout in ("semantic_kitti", "nuscenes"):
        write_set(layout, root / layout)
    config.write_text(CONFIG.format(configs=CONFIGS))
    options = [f"data_root={root}", f"save_path={tmp_path / 'exp'}", "train.max_iter=4"]
    views = ["data.test.datasets.0.test_cfg.aug_transform=[[]]", "data.test.datasets.1.test_cfg.aug_transform=[[]]"]
    try:
        train_main(load_config(config, parse_options([*options, *views])))
    finally:
        close_logging()

    log = (tmp_path / "exp" / "train.log").read_text()
    assert re.search(rf"SemanticKITTIDataset: {FRAMES} scans x 1, split train, {root}/semantic_kitti\n", log)
    assert re.search(rf"NuScenesDataset: {FRAMES} scans x 1, split train, {root}/nuscenes\n", log)
    assert f"training on {2 * FRAMES} scans: 4 iterations of 2 scans" in log
    assert f"quick evaluation of {2 * FRAMES} scans" in log
    assert (
        len(re.findall(r"Test \[\d/4\] 0/08_\d{6}: ", log)) == len(re.findall(r"Test \[\d/4\] 1/\w+: ", log)) == FRAMES
    )

    report = json.loads((tmp_path / "exp" / "result" / "miou_precise.json").read_text())
    expected = points_of_classes(SemanticKITTIDataset("val", root / "semantic_kitti"))
    expected += points_of_classes(NuScenesDataset("val", root / "nuscenes"))
    assert [entry["name"] for entry in report["classes"]] == list(LABEL_SPACES["driving"].names)
    assert {entry["name"]: entry["points"] for entry in report["classes"] if entry["points"]} == dict(expected)
    assert len(expected) > 5
