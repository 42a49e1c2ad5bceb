"""Files of classes, as benchmarks give and take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pointcept.datasets import BaseDataset, ConcatDataset, NuScenesDataset, SemanticKITTIDataset, WaymoDataset
from pointcept.utils.errors import DataError
from tests.integration.scans import write_scan


@pytest.mark.parametrize("dataset", [SemanticKITTIDataset, NuScenesDataset])
def test_a_prediction_comes_back_as_it_was_written(dataset: type[BaseDataset], tmp_path: Path) -> None:
    classes = np.arange(len(dataset.names)).repeat(2)
    path = tmp_path / f"a{dataset.PREDICTION_SUFFIX}"
    dataset.encode_prediction(classes).tofile(path)
    assert (dataset.read_classes(path, predicted=True) == classes).all()


def test_labels_are_raw_ids(tmp_path: Path) -> None:
    np.array([10 | 7 << 16, 0, 252, 81], np.uint32).tofile(tmp_path / "a.label")
    assert SemanticKITTIDataset.read_classes(tmp_path / "a.label").tolist() == [0, -1, 0, 18]
    np.array([9, 0, 17], np.uint8).tofile(tmp_path / "a.bin")
    assert NuScenesDataset.read_classes(tmp_path / "a.bin").tolist() == [0, -1, 3]
    with pytest.raises(DataError, match=r"numbers from 0 to 17, predictions 1 to 16"):
        NuScenesDataset.read_classes(tmp_path / "a.bin", predicted=True)
    with pytest.raises(DataError, match=r"WaymoDataset has no such files of classes, expected \.npy"):
        WaymoDataset.read_classes(tmp_path / "a.bin")


def test_several_data_sets_read_scans_in_their_common_classes(tmp_path: Path) -> None:
    write_scan(tmp_path, "08", 0, np.random.default_rng(0).uniform(0, 1, (10, 4)))
    own = {"type": "SemanticKITTIDataset", "split": "val", "data_root": str(tmp_path)}
    joint = ConcatDataset([{**own, "loop": 2}], label_space="driving")
    raw = SemanticKITTIDataset("val", tmp_path).read(0)
    for index in (0, 1):
        sample = joint.read(index)
        assert sample["name"] == "0/08_000000"
        assert (sample["coord"] == raw["coord"]).all()
        names = [joint.names[i] if i >= 0 else "" for i in sample["segment"]]
        assert names == [
            "",
            "",
            "car",
            "driveable",
            "sidewalk",
            "structure",
            "vegetation",
            "terrain",
            "structure",
            "car",
        ]
    assert len(joint.colours) == len(joint.names)
