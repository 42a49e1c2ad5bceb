"""Several data sets as one: order, weights, draws, and classes that they share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets import (
    ConcatDataset,
    Draw,
    NuScenesDataset,
    SemanticKITTIDataset,
    WaymoDataset,
    build_dataset,
    point_collate_fn,
)
from pointcept.datasets.base import BaseDataset
from pointcept.datasets.benchmark import measure
from pointcept.datasets.builder import DATASETS
from pointcept.datasets.label_space import LABEL_SPACES, LabelSpace
from pointcept.utils.errors import ConfigError, DataError

SETS: tuple[type[BaseDataset], ...] = (SemanticKITTIDataset, NuScenesDataset, WaymoDataset)
CHAIN = [
    {"type": "RandomJitter"},
    {"type": "Copy", "keys_dict": {"segment": "origin_segment"}},
    {"type": "GridSample", "grid_size": 0.5, "return_grid_coord": True, "return_inverse": True},
    {"type": "ToTensor"},
]
TEST_CFG = {
    "voxelize": {"type": "GridSample", "grid_size": 1.0, "mode": "test", "return_grid_coord": True},
    "post_transform": [
        {"type": "ToTensor"},
        {"type": "Collect", "keys": ("coord", "grid_coord", "index"), "feat_keys": ("coord", "strength")},
    ],
}


def kitti(**changes: Any) -> dict[str, Any]:
    return {"type": "SemanticKITTIDataset", "data_root": "", "split": "train", "sequences": "available", **changes}


@pytest.fixture
def joint(tiny_root: Path) -> Callable[..., ConcatDataset]:
    """Builds a ConcatDataset of the two training scans (twice) and the two validation scans of a small root."""

    def build(transform: list[dict[str, Any]] | None = None, **changes: Any) -> ConcatDataset:
        sets = [kitti(transform=transform, loop=2), kitti(transform=transform, split="val")]
        return build_dataset({"type": "ConcatDataset", "datasets": sets, "data_root": tiny_root, **changes})

    return build


def test_one_set_follows_the_other_and_loops_are_weights(joint: Callable[..., ConcatDataset]) -> None:
    data = joint(loop=2)
    names = ["0/00_000000", "0/00_000001"] * 2 + ["1/08_000000", "1/08_000001"]
    assert [data[i]["name"] for i in range(len(data))] == names * 2
    assert [data.get_data_name(i) for i in range(len(data.data_list))] == names
    assert (data.names, data.num_classes, data.ignore_index) == (SemanticKITTIDataset.names, 19, -1)
    with pytest.raises(IndexError, match=r"outside 0\.\.11"):
        data[12]


def test_a_draw_gives_what_the_data_set_itself_gives(joint: Callable[..., ConcatDataset]) -> None:
    data = joint(CHAIN)
    a, b = data[Draw(5, 42)], data.datasets[1][Draw(1, 42)]
    assert torch.equal(a["coord"], b["coord"])
    assert torch.equal(a["segment"], b["segment"])
    assert not torch.equal(a["coord"], data[Draw(5, 43)]["coord"])


@pytest.mark.parametrize("transform", [None, CHAIN], ids=["arrays", "tensors"])
def test_labels_are_those_of_the_label_space(joint: Callable[..., ConcatDataset], transform: Any) -> None:
    space = LABEL_SPACES["driving"]
    own, mapped = joint(transform), joint(transform, label_space="driving")
    assert mapped.names == space.names
    seen = set()
    for index in range(len(own)):
        a, b = own[Draw(index, 1)], mapped[Draw(index, 1)]
        for key in {"segment", "origin_segment"} & a.keys():
            assert type(a[key]) is type(b[key])
            assert a[key].dtype == b[key].dtype
            for before, after in zip(a[key].tolist(), b[key].tolist(), strict=True):
                name = "ignored" if before < 0 else SemanticKITTIDataset.names[before]
                members = space.classes[space.names[after]]["SemanticKITTIDataset"] if after >= 0 else []
                assert name in members or (after == -1 and name in ("ignored", "other-ground"))
                seen.add((name, after))
    assert {("ignored", -1), ("car", 0), ("other-vehicle", 1), ("vegetation", 8), ("traffic-sign", 9)} <= seen


def test_test_samples_have_the_labels_of_the_label_space(tiny_root: Path) -> None:
    sets = [kitti(split="val", transform=CHAIN[1:3], test_mode=True, test_cfg=TEST_CFG)]
    own, mapped = (ConcatDataset(sets, tiny_root, label_space=space)[Draw(1, 0)] for space in (None, "driving"))
    assert mapped["name"] == "0/08_000001"
    assert len(mapped["fragment_list"]) == len(own["fragment_list"])
    table = LABEL_SPACES["driving"].table("SemanticKITTIDataset", SemanticKITTIDataset.names, -1)
    for key in ("segment", "origin_segment"):
        np.testing.assert_array_equal(mapped[key], np.where(own[key] < 0, -1, table[own[key]]))


def test_unlabelled_samples_stay_so(tiny_root: Path) -> None:
    data = ConcatDataset([kitti(split="test")], tiny_root, label_space="driving")
    assert "segment" not in data[0]
    with pytest.raises(ConfigError, match="no submission format"):
        data.write_submission(tiny_root, "0/11_000000", np.zeros(200, int))


@pytest.mark.parametrize(
    "second",
    [
        {"split": "test", "unlabelled": True},
        {"sequences": [11], "unlabelled": True},
        {"sequences": [8], "unlabelled": True},
    ],
    ids=["raw test split", "folder without labels", "labels dropped"],
)
def test_labelled_and_unlabelled_scans_make_one_batch(tiny_root: Path, second: dict[str, Any]) -> None:
    """With mixes within each set, and Mix3D across them."""
    mixes = [{"type": "LaserMix", "p": 1.0}, {"type": "PolarMix", "p": 1.0}, {"type": "InstancePaste", "p": 1.0}]
    collect = {"type": "Collect", "keys": ("coord", "grid_coord", "segment"), "feat_keys": ("coord", "strength")}
    transform = [*mixes, CHAIN[2], CHAIN[3], collect]
    data = ConcatDataset([kitti(transform=transform), kitti(transform=transform, **second)], tiny_root)
    samples = [data[Draw(0, 1)], data[Draw(2, 2)]]
    assert (samples[0]["segment"] >= 0).any()
    assert samples[1]["segment"].dtype == samples[0]["segment"].dtype
    assert (samples[1]["segment"] == -1).all()
    for mix_prob in (0.0, 1.0):
        batch = point_collate_fn(samples, mix_prob=mix_prob)
        assert len(batch["segment"]) == len(batch["coord"]) == batch["offset"][-1]
        assert len(batch["offset"]) == 2 - mix_prob


def test_absolute_roots_stay_where_they_are(tiny_root: Path) -> None:
    assert len(ConcatDataset([kitti(data_root=tiny_root)], "/nowhere")) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": []}, "datasets: got"),
        ({"loop": 0}, "loop: got 0, allowed: an integer at least 1"),
        ({"datasets": [{"type": "SemanticKITTIDataset"}]}, "needs its data_root"),
        ({"datasets": [kitti(), kitti(ignore_index=-100)]}, "different ignore_index: -1 .* -100"),
        ({"label_space": "drivng"}, "no label space 'drivng': did you mean 'driving'"),
    ],
)
def test_wrong_arguments(joint: Callable[..., ConcatDataset], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        joint(**changes)


def test_sets_of_different_classes_need_a_label_space(
    joint: Callable[..., ConcatDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(SemanticKITTIDataset):
        """SemanticKITTI under other names."""

        names = tuple(name.upper() for name in SemanticKITTIDataset.names)

    monkeypatch.setitem(DATASETS._entries, "Other", Other)
    with pytest.raises(ConfigError, match=r"different names: .*'car'.* of Other; label_space maps"):
        joint(datasets=[kitti(), kitti(type="Other")])
    with pytest.raises(ConfigError, match="no classes of 'Other'"):
        joint(datasets=[kitti(type="Other")], label_space="driving")


def test_missing_files_are_the_data_sets_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        ConcatDataset([kitti(data_root="gone")], tmp_path)


def test_tools_for_one_data_set_say_so(tiny_root: Path) -> None:
    with pytest.raises(ConfigError, match="no single scan files"):
        ConcatDataset.find_scans(tiny_root)
    with pytest.raises(ConfigError, match="ConcatDataset has no transforms to time"):
        measure({"type": "ConcatDataset", "datasets": [kitti(data_root=str(tiny_root))]})


# --- label spaces ---


@pytest.mark.parametrize("space", LABEL_SPACES.values(), ids=LABEL_SPACES)
@pytest.mark.parametrize("dataset", SETS, ids=lambda cls: cls.__name__)
def test_every_class_of_a_data_set_has_one_place(space: LabelSpace, dataset: type[BaseDataset]) -> None:
    table = space.table(dataset.__name__, dataset.names, -1)
    assert set(table.tolist()) - {-1} == set(range(len(space.names))), "each class occurs in each data set"
    ignored = {name for name, index in zip(dataset.names, table, strict=True) if index == -1}
    assert ignored == set(space.ignored[dataset.__name__])


# Written down again, from the definitions of the three data sets.
SAME = [
    ("car", "car", "Car", "car"),
    ("truck", "truck", "Truck", "large-vehicle"),
    ("other-vehicle", "bus", "Bus", "large-vehicle"),
    ("bicyclist", "bicycle", "Bicyclist", "bicycle"),
    ("motorcyclist", "motorcycle", "Motorcyclist", "motorcycle"),
    ("person", "pedestrian", "Pedestrian", "person"),
    ("road", "driveable_surface", "Lane-Marker", "driveable"),
    ("sidewalk", "sidewalk", "Sidewalk", "sidewalk"),
    ("terrain", "terrain", "Walkable", "terrain"),
    ("trunk", "vegetation", "Tree-Trunk", "vegetation"),
    ("pole", "manmade", "Pole", "structure"),
    ("traffic-sign", "manmade", "Sign", "structure"),
]


@pytest.mark.parametrize(("kitti_name", "nuscenes_name", "waymo_name", "common"), SAME)
def test_what_means_the_same(kitti_name: str, nuscenes_name: str, waymo_name: str, common: str) -> None:
    space = LABEL_SPACES["driving"]
    for dataset, name in zip(SETS, (kitti_name, nuscenes_name, waymo_name), strict=True):
        table = space.table(dataset.__name__, dataset.names, -1)
        assert space.names[table[dataset.names.index(name)]] == common


def test_a_label_space_has_to_fit_the_data_set() -> None:
    space = LabelSpace({"vehicle": {"A": ["car", "bus"]}, "rest": {"A": ["tree"]}}, {"A": ["sky"]})
    assert space.table("A", ["sky", "tree", "bus", "car"], -7).tolist() == [-7, 1, 0, 0]
    with pytest.raises(ConfigError, match=r"without exactly one place in the label space: van"):
        space.table("A", ["sky", "tree", "bus", "car", "van"], -1)
    with pytest.raises(ConfigError, match=r"exactly one place .*: sky"):
        space.table("A", ["tree", "bus", "car"], -1)
    twice = LabelSpace({"vehicle": {"A": ["car"]}, "rest": {"A": ["car"]}}, {})
    with pytest.raises(ConfigError, match=r"exactly one place .*: car"):
        twice.table("A", ["car"], -1)
    with pytest.raises(ConfigError, match="no classes of 'B'"):
        space.table("B", ["car"], -1)
