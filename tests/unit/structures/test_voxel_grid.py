"""The pyramid of voxel grids: rows, poolings, orders, duplicates, and bad input."""

import pytest
import torch

from pointcept.ops import api as ops
from pointcept.structures import GridPyramid
from pointcept.utils.errors import DataError


def _scans(sizes=(300, 200), extent=40, seed=0, distinct=True):
    generator = torch.Generator().manual_seed(seed)
    grids = []
    for n in sizes:
        grid = torch.randint(0, extent, (n, 3), generator=generator)
        if distinct:
            grid = grid.unique(dim=0)
            grid = grid[torch.randperm(len(grid), generator=generator)]
        grids.append(grid)
    return torch.cat(grids), torch.tensor([len(g) for g in grids]).cumsum(0)


def test_levels_hold_each_coarse_voxel_once(device):
    grid, offset = _scans()
    pyramid = GridPyramid(grid.to(device), offset.to(device), ops.ORDERS, (2, 4))
    assert [level.stride for level in pyramid.levels] == [1, 2, 8]
    fine_batch = pyramid.levels[0].batch.cpu()
    for level, shift in zip(pyramid.levels[1:], (1, 3), strict=True):
        expected = torch.cat([fine_batch[:, None], grid >> shift], 1).unique(dim=0)
        found = torch.cat([level.batch[:, None], level.grid_coord], 1).cpu()
        assert torch.equal(found.unique(dim=0), expected)
        assert len(found) == len(expected) == sum(level.counts)
        assert level.counts == torch.bincount(level.batch.cpu()).tolist()


def test_poolings_connect_the_levels():
    pyramid = GridPyramid(*_scans(), ops.ORDERS, (2, 2))
    for fine, coarse, pooling in zip(pyramid.levels, pyramid.levels[1:], pyramid.poolings, strict=False):
        assert torch.equal(coarse.grid_coord[pooling.cluster], fine.grid_coord >> 1)
        assert torch.equal(coarse.batch[pooling.cluster], fine.batch)
        clusters = pooling.cluster[pooling.permutation]
        assert torch.equal(clusters, clusters.sort().values)
        assert torch.equal(pooling.lengths, torch.bincount(pooling.cluster))


def test_orders_of_coarse_levels_need_no_sorting_of_their_own():
    pyramid = GridPyramid(*_scans(), ops.ORDERS, (2, 2, 2))
    for level in pyramid.levels:
        for order in ops.ORDERS:
            assert torch.equal(level.permutations[order], level.codes[order].argsort())
            assert torch.equal(level.permutations[order][level.inverse(order)], torch.arange(len(level)))


def test_rows_of_coarse_levels_follow_the_first_order():
    pyramid = GridPyramid(*_scans(), ("hilbert", "z"), (2,))
    coarse = pyramid.levels[1]
    assert torch.equal(coarse.codes["hilbert"], coarse.codes["hilbert"].sort().values)


def test_more_strides_than_octree_levels_stop_at_one_voxel():
    pyramid = GridPyramid(torch.tensor([[0, 0, 0], [1, 1, 1]]), torch.tensor([1, 2]), ("z",), (2, 2, 2, 2))
    assert [len(level) for level in pyramid.levels] == [2, 2, 2, 2, 2]
    assert pyramid.levels[-1].batch.tolist() == [0, 1]


def test_duplicates_are_found_and_merged():
    grid = torch.tensor([[3, 0, 1], [2, 2, 2], [3, 0, 1], [0, 0, 0], [3, 0, 1]])
    pyramid = GridPyramid(grid, torch.tensor([4, 5]), ("z", "hilbert"), (2,))
    duplicates = pyramid.levels[0].duplicates
    assert duplicates is not None
    assert torch.equal(duplicates.grid.grid_coord[duplicates.group], grid)
    assert torch.equal(grid[duplicates.representative], duplicates.grid.grid_coord)
    assert duplicates.grid.counts == [3, 1]
    x = torch.arange(5.0)[:, None]
    assert duplicates.mean(x)[duplicates.group].flatten().tolist() == [1.0, 1.0, 1.0, 3.0, 4.0]
    levels, poolings = pyramid.distinct()
    assert torch.equal(levels[1].grid_coord[poolings[0].cluster], levels[0].grid_coord >> 1)
    assert poolings[0].lengths.sum() == 4


def test_a_grid_without_duplicates_is_its_own_distinct_grid():
    pyramid = GridPyramid(*_scans(), ("z",), (2,))
    assert pyramid.levels[0].duplicates is None
    assert pyramid.distinct()[0] is pyramid.levels


def test_neighbours_of_a_smaller_kernel_come_from_the_larger_one():
    grid = GridPyramid(*_scans(), ("z",), ()).levels[0]
    grid.neighbours(5)
    assert torch.equal(grid.neighbours(3), ops.submanifold_map(grid.grid_coord, grid.batch, 3))


def test_serves_networks_with_the_same_first_order_and_strides():
    pyramid = GridPyramid(*_scans(), ops.ORDERS, (2, 2))
    assert pyramid.serves(("z", "hilbert"), (2, 2))
    assert not pyramid.serves(("hilbert", "z"), (2, 2))
    assert not pyramid.serves(("z",), (2, 2, 2))


@pytest.mark.parametrize(
    ("grid", "offset", "message"),
    [
        (torch.zeros(0, 3, dtype=torch.int64), torch.tensor([0]), "no voxel"),
        (torch.tensor([[0, 0, -1]]), torch.tensor([1]), "must be >= 0, got -1"),
        (torch.tensor([[0, 0, 65536]]), torch.tensor([1]), "goes up to 65536.*larger grid_size"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([1]), "end at 2 voxels"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([2, 2]), r"scans of \[2, 0\] voxels"),
    ],
)
def test_bad_batches_are_named(grid, offset, message):
    with pytest.raises(DataError, match=message):
        GridPyramid(grid, offset, ("z",), (2,))


def test_bad_orders_and_strides_are_named():
    with pytest.raises(ValueError, match="did you mean 'hilbert'"):
        GridPyramid(*_scans(), ("hilbertt",), (2,))
    with pytest.raises(ValueError, match="powers of two"):
        GridPyramid(*_scans(), ("z",), (3,))


def test_the_largest_coordinate_is_served():
    top = 2**16 - 2
    pyramid = GridPyramid(torch.tensor([[0, 0, 0], [top, top, top]]), torch.tensor([2]), ops.ORDERS, (2,) * 4)
    assert pyramid.levels[-1].grid_coord.max() == top >> 4
