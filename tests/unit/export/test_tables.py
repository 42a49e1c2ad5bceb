"""The tables that NumPy makes are those that the plain network computes with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.ops import api as ops
from pointcept.structures import GridPyramid
from pointcept_runtime.curves import ORDERS
from pointcept_runtime.errors import ScanError
from pointcept_runtime.tables import Octree, parse_table

from .conftest import grid_of, street


def check(grid: np.ndarray, orders: tuple[str, ...], strides: tuple[int, ...], patch: int) -> None:
    pyramid = GridPyramid(torch.from_numpy(grid), torch.tensor([len(grid)]), orders, strides)
    octree = Octree(grid, orders, strides)
    for s, level in enumerate(pyramid.levels):
        np.testing.assert_array_equal(octree.levels[s].grid, level.grid_coord)
        for kernel in (5, 3):
            np.testing.assert_array_equal(octree.table(f"neighbours.{s}.{kernel}"), level.neighbours(kernel))
        for order in orders:
            plan = level.patches(order, patch)
            np.testing.assert_array_equal(octree.table(f"rows.{s}.{order}.{patch}").ravel(), plan.rows)
            np.testing.assert_array_equal(octree.table(f"slot.{s}.{order}"), plan.slot)
    for s, pooling in enumerate(pyramid.poolings):
        parent, cells = octree.table(f"parent.{s}"), strides[s] ** 3
        np.testing.assert_array_equal(parent, pooling.cluster)
        place, children = octree.table(f"place.{s}"), octree.table(f"children.{s}")
        np.testing.assert_array_equal(place // cells, parent)
        np.testing.assert_array_equal(children.ravel()[place], np.arange(len(parent)))
        assert (children < len(parent)).sum() == len(parent), "every row is a child once"
        if strides[s] == 2:
            maps = ops.strided_maps(pyramid.levels[s].grid_coord, pooling.cluster, len(pooling.lengths))
            np.testing.assert_array_equal(children, maps[0])


@pytest.mark.parametrize("orders", [("z",), ORDERS, ("hilbert-trans", "z")])
@pytest.mark.parametrize("strides", [(2, 2, 2), (4, 1, 2), ()])
def test_random_clouds(orders: tuple[str, ...], strides: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for voxels, edge in ((1, 1), (6, 3), (300, 9), (500, 65535)):
        check(rng.permutation(np.unique(rng.integers(0, edge, (voxels, 3)), axis=0)), orders, strides, 64)
    for points in (63, 64, 65, 200):
        check(grid_of(street(points), 0.2), orders, strides, 64)


def test_a_real_scan(sweep: np.ndarray) -> None:
    check(grid_of(sweep[::2], 0.05), ORDERS, (2, 2, 2, 2), 1024)


def test_names_of_tables() -> None:
    for name in ("neighbours.0.5", "rows.2.z-trans.1024", "slot.1.z", "children.1", "parent.0", "place.1"):
        assert str(parse_table(name, ORDERS, (2, 2))) == name
    for name, words in {
        "neighbours.0.4": "odd",
        "neighbours.0.9": "at most 7",
        "neighbours.0": "no name",
        "neighbours.00.3": "no name",
        "neighbours.3.3": "level 3, the last one is 2",
        "children.2": "level 2, the last one is 1",
        "slot.0.spiral": "order",
        "slot.0.z.5": "no name",
        "rows.0.z.99999": "at most 65536",
        "feat": "no name",
        "../../etc": "no name",
    }.items():
        with pytest.raises(ValueError, match=words):
            parse_table(name, ORDERS, (2, 2))


def test_voxels_that_have_no_octree() -> None:
    for grid, words in (
        (np.zeros((0, 3), np.int64), "N > 0"),
        (np.zeros((2, 3)), "integers"),
        (np.array([[0, 0, -1]]), "from -1"),
        (np.array([[0, 0, 65535]]), "to 65535, allowed is 0 to 65534"),
        (np.array([[1, 2, 3], [1, 2, 3]]), "twice"),
    ):
        with pytest.raises(ScanError, match=words):
            Octree(grid, ("z",), (2,))
