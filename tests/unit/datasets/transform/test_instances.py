"""Objects of rare classes that are cut out of one scan and pasted into another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointcept.datasets import BaseDataset, Draw, SemanticKITTIDataset
from pointcept.datasets.transform import InstancePaste, Scanner
from pointcept.datasets.transform.instances import connected_objects, in_boxes
from pointcept.utils.errors import ConfigError


def block(x: float, y: float, z: float = 0.0, n: int = 30, size: float = 0.8) -> np.ndarray:
    """n points in a cube, its lowest corner at (x, y, z)."""
    rng = np.random.default_rng(abs(int(7 * x + 13 * y)))
    return (np.array([x, y, z]) + rng.uniform(0, size, (n, 3))).astype(np.float32)


def scan(*objects: tuple[np.ndarray, int], name: str = "partner") -> dict[str, Any]:
    """A scan made of (points, class)."""
    coord = np.concatenate([points for points, _ in objects])
    return {
        "coord": coord,
        "strength": np.arange(len(coord), dtype=np.float32)[:, None],
        "segment": np.repeat([c for _, c in objects], [len(points) for points, _ in objects]),
        "name": name,
    }


GROUND = scan(
    (np.random.default_rng(1).uniform((-30, -30, 0), (30, 30, 1), (5000, 3)).astype(np.float32), 0), name="scan"
)
PARTNER = scan((block(5, 5), 1), (block(-8, 0), 1), (block(0, 12, n=60), 2), (block(20, 20, n=4), 3), (block(3, -3), 0))
STARTS = (0, 30, 60, 120)
"""The first rows of its objects."""


def test_objects_are_connected_points_of_one_class() -> None:
    coord = np.array([[0, 0, 0], [0.6, 0.6, 5], [1.2, 0.1, 0], [2.6, 0.1, 0], [0.2, 0.2, 0], [-0.4, 0, 0]])
    segment = np.array([3, 3, 3, 3, 1, 3])
    found = connected_objects(coord.astype(np.float32), segment, 0.5)
    # cells of 0.5 m: (0,0) - (1,1) - (2,0) and (-1,0) touch, (5,0) does not, and class 1 is no class 3
    assert sorted(map(len, map(np.flatnonzero, (found == k for k in range(3))))) == [1, 1, 4]
    assert len({found[0], found[1], found[2], found[5]}) == 1


def test_objects_are_those_of_a_breadth_first_search() -> None:
    rng = np.random.default_rng(0)
    coord = rng.uniform(-6, 6, (400, 3)).astype(np.float32)
    segment = rng.integers(0, 3, 400)
    found = connected_objects(coord, segment, 0.6)
    cells = np.floor(coord[:, :2].astype(float) / 0.6)
    near = (np.abs(cells[:, None] - cells[None]) <= 1).all(-1) & (segment[:, None] == segment[None])
    expected = np.full(400, -1)
    for start in range(400):
        if expected[start] < 0:
            front = {start}
            while front:
                expected[list(front)] = start
                front = {int(j) for i in front for j in np.flatnonzero(near[i]) if expected[j] < 0}
    np.testing.assert_array_equal(found[:, None] == found[None], expected[:, None] == expected[None])
    assert 10 < len(np.unique(found)) < 200


def test_boxes_lie_along_the_line_of_sight() -> None:
    angle = np.radians(30)
    ahead, aside = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])

    def at(along: float, across: float, z: float) -> list[float]:
        return [*(np.array([1.0, 2.0]) + along * ahead + across * aside), z]

    corners = np.array([at(d, s, z) for d in (9, 11) for s in (-1, 1) for z in (0, 2)], np.float32)
    points = [at(10, 0, 1), at(9.1, 0.9, 1.9), at(8.9, 0, 1), at(10, 1.1, 1), at(10, 0, 2.1), at(-10, 0, 1)]
    found = in_boxes(np.array(points, np.float32), [corners], (1.0, 2.0, 0.0))
    assert found.tolist() == [True, True, False, False, False, False]


def paste(
    seed: int = 0, partner: dict[str, Any] = PARTNER, **arguments: Any
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The mixed scan, and the pasted objects as rows of the partner."""
    mix = InstancePaste(**{"p": 1, "classes": [1, 2, 3], **arguments})
    np.random.seed(seed)
    mixed = mix.mix(GROUND, partner)
    new = mixed["segment"] > 0
    rows = mixed["strength"][new, 0].astype(int)
    return mixed, np.split(rows, np.flatnonzero((np.diff(rows) != 1) | np.isin(rows[1:], STARTS)) + 1)


def test_an_object_keeps_range_height_and_all_its_points() -> None:
    for seed in range(10):
        mixed, objects = paste(seed)
        assert 1 <= len(objects) <= 10
        assert mixed["name"] == f"scan+{len(objects)} objects"
        new = {key: mixed[key][mixed["segment"] > 0] for key in ("coord", "segment")}
        rows = np.concatenate(objects)
        old = PARTNER["coord"][rows]
        np.testing.assert_allclose(np.hypot(*new["coord"][:, :2].T), np.hypot(*old[:, :2].T), rtol=1e-5)
        np.testing.assert_array_equal(new["coord"][:, 2], old[:, 2])
        np.testing.assert_array_equal(new["segment"], PARTNER["segment"][rows])
        assert {len(rows) for rows in objects} <= {30, 60}, "whole objects; that of four points is left out"
    turn = paste(angle=(90, 90), count=(1, 1))[0]
    (row,) = paste(angle=(90, 90), count=(1, 1))[1]
    x, y, _ = PARTNER["coord"][row].T
    np.testing.assert_allclose(turn["coord"][turn["segment"] > 0][:, :2], np.stack([-y, x], 1), atol=1e-5)


def test_pasted_objects_stand_alone_in_their_boxes() -> None:
    mixed, _ = paste(count=(5, 5))
    coord, new = mixed["coord"], mixed["segment"] > 0
    ground = {tuple(point) for point in GROUND["coord"].tolist()}
    kept = {tuple(point) for point in coord[~new].tolist()}
    assert kept < ground
    removed = np.array(sorted(ground - kept))
    assert all(np.linalg.norm(coord[new] - point, axis=1).min() < 1.5 for point in removed)
    assert len(paste(count=(5, 5), clear=False)[0]["coord"]) == len(coord) + len(removed)


def test_classes_are_equally_likely_and_few_points_are_no_object() -> None:
    drawn = np.zeros(4, int)
    for seed in range(100):
        for rows in paste(seed, count=(2, 2), angle=(0, 360))[1]:
            drawn[PARTNER["segment"][rows[0]]] += 1
    assert drawn[0] == drawn[3] == 0
    assert 60 < drawn[1] < 140, "two objects of class 1 are as likely as the one of class 2"
    small = [rows for seed in range(30) for rows in paste(seed, min_points=4, count=(2, 2))[1]]
    assert min(map(len, small)) == 4


def test_instance_ids_make_the_objects() -> None:
    partner = {**PARTNER, "instance": np.where(PARTNER["segment"] == 1, 7, -1)}
    sizes = {int((paste(seed, partner, count=(1, 1))[0]["segment"] > 0).sum()) for seed in range(10)}
    assert sizes == {60}, "both blocks of class 1 are one object, and what has no instance is none"
    mixed, _ = paste(0, partner, count=(2, 2))
    assert set(mixed["instance"].tolist()) == {-1, 7, 15}


@pytest.mark.parametrize(
    "partner",
    [scan((block(1, 1), 0)), scan((block(1, 1, n=3), 2)), {k: v for k, v in PARTNER.items() if k != "segment"}],
)
def test_nothing_to_paste(partner: dict[str, Any]) -> None:
    assert paste(0, partner)[0] is GROUND


def test_an_object_around_the_scanner() -> None:
    mix = InstancePaste(p=1, classes=[1], cell=3, count=(1, 1), angle=(0, 0))
    mix.scanner = Scanner((0.0, 0.0, 1.0))
    around = scan((np.float32([[1, 0, 0], [-1, 0, 0], [0, 1, 1], [0, -1, 1]] * 10), 1))
    mixed = mix.mix(GROUND, around)
    assert (mixed["segment"] == 1).sum() == 40
    inside = (np.abs(GROUND["coord"][:, :2]) <= 1).all(axis=1)
    assert (mixed["segment"] == 0).sum() == 5000 - inside.sum() < 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": -0.1}, "p: got -0.1, allowed: a finite number"),
        ({"classes": 3}, "classes: got 3, allowed: a list of class names"),
        ({"scans": 0}, "scans: got 0, allowed: an integer at least 1"),
        ({"scans": 1.5}, "scans: got 1.5"),
        ({"scans": True}, "scans: got True"),
        ({"count": (0, 3)}, "count: .* 2 integers at least 1"),
        ({"count": (1, 2.5)}, "count: .* 2 integers at least 1"),
        ({"count": (3, 1)}, "count: .* low not above high"),
        ({"angle": (0, float("nan"))}, "angle: got .* 2 finite numbers"),
        ({"min_points": 0}, "min_points: got 0, allowed: an integer at least 1"),
        ({"cell": 0}, "cell: got 0, allowed: a finite number above 0"),
        ({"clear": 1}, "clear: got 1, allowed: True or False"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InstancePaste(**arguments)


# --- the objects of a data set ---


class Streets(BaseDataset):
    """Ten scans of ground with a block of class 1 each; only the last has one of class 2."""

    names = ("ground", "usual", "seldom")
    rare = names[1:]
    reads = 0

    def get_data_list(self) -> list[Any]:
        return list(range(10))

    def get_data_name(self, idx: int) -> str:
        return f"street{idx}"

    def get_data(self, idx: int) -> dict[str, Any]:
        self.reads += 1
        seldom = [(block(0, 9), 2)] if idx == 9 else []
        return scan((GROUND["coord"][:500], 0), (block(5, 5), 1), *seldom, name=self.get_data_name(idx))


def with_class(dataset: BaseDataset, number: int, draws: int = 60) -> int:
    """How many of these samples have the class."""
    return sum((dataset[Draw(i % 9, i)]["segment"] == number).any() for i in range(draws))


def test_a_class_of_one_scan_is_as_likely_as_the_others() -> None:
    dataset = Streets(transform=[{"type": "InstancePaste", "p": 1, "count": (1, 1)}])
    assert 18 < with_class(dataset, 2) < 42
    assert dataset.reads == 60 + 10, "all scans are read once for their objects"
    assert dataset[Draw(0, 0)]["name"] == "street0+1 objects"


def test_few_scans_give_objects_from_first_to_last() -> None:
    dataset = Streets(transform=[{"type": "InstancePaste", "p": 1, "scans": 2}])
    assert with_class(dataset, 2, 20) > 10
    assert dataset.reads == 22
    dataset = Streets(transform=[{"type": "InstancePaste", "p": 1, "scans": 1}])
    assert with_class(dataset, 2, 20) == 0


def test_objects_do_not_depend_on_who_draws() -> None:
    first, second = (Streets(transform=[{"type": "InstancePaste", "p": 0.7}]) for _ in range(2))
    draws = [Draw(i, 100 + i) for i in range(8)]
    expected = [first[draw]["coord"] for draw in draws]
    for draw, coord in reversed(list(zip(draws, expected, strict=True))):
        np.testing.assert_array_equal(second[draw]["coord"], coord)


def test_a_data_set_without_its_classes(caplog: pytest.LogCaptureFixture) -> None:
    dataset = Streets(transform=[{"type": "InstancePaste", "p": 1, "classes": ["seldom"], "scans": 1}])
    assert [dataset[Draw(0, i)]["name"] for i in range(3)] == ["street0"] * 3
    assert caplog.text.count("1 scans have no object of its classes, so that it pastes none") == 1


def test_rare_classes_grow_on_real_scans(kitti_root: Path) -> None:
    dataset = SemanticKITTIDataset("train", kitti_root, [{"type": "InstancePaste", "p": 1}], sequences="available")
    ids = [dataset.names.index(name) for name in dataset.rare]
    before = after = 0
    for index in range(10):
        plain, mixed = dataset.get_data(index), dataset[Draw(index, index)]
        before += np.isin(plain["segment"], ids).sum()
        after += np.isin(mixed["segment"], ids).sum()
        assert abs(len(mixed["coord"]) - len(plain["coord"])) < 20_000
    assert after > 2 * before > 0


def test_connected_points_are_the_instances_of_real_scans(kitti_root: Path) -> None:
    dataset = SemanticKITTIDataset("train", kitti_root, sequences="available")
    sample = dataset.get_data(0)
    raw = np.fromfile(dataset.data_list[0].labels, np.uint32)
    chosen = (sample["segment"] >= 0) & (sample["segment"] < 8)
    found = connected_objects(sample["coord"][chosen], sample["segment"][chosen], 0.5)
    instance = np.unique(raw[chosen], return_inverse=True)[1]
    shared = np.zeros((found.max() + 1, instance.max() + 1), int)
    np.add.at(shared, (found, instance), 1)
    assert shared.max(axis=1).sum() > 0.97 * chosen.sum(), "an object holds hardly more than one instance"
    assert shared.max(axis=0).sum() > 0.9 * chosen.sum(), "an instance is hardly split"
