"""Neighbour maps against a dictionary of coordinates."""

import pytest
import torch

from pointcept.ops import api as ops
from pointcept.ops.reference.neighbours import submanifold_map as reference


def _voxels(n: int, extent: int, scans: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, extent, (n, 3), generator=generator)
    batch = torch.randint(0, scans, (n,), generator=generator)
    distinct = torch.cat([batch[:, None], rows], 1).unique(dim=0)
    distinct = distinct[torch.randperm(len(distinct), generator=generator)]
    return distinct[:, 1:], distinct[:, 0]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_submanifold_map_against_a_dictionary(kernel_size, device):
    grid, batch = _voxels(300, 8, 3)
    found = ops.submanifold_map(grid.to(device), batch.to(device), kernel_size).cpu()
    row_of = {(*g, b): i for i, (g, b) in enumerate(zip(grid.tolist(), batch.tolist(), strict=True))}
    radius, side = kernel_size // 2, range(kernel_size)
    for i, (g, b) in enumerate(zip(grid.tolist(), batch.tolist(), strict=True)):
        cells = [(g[0] + x - radius, g[1] + y - radius, g[2] + z - radius, b) for x in side for y in side for z in side]
        assert found[i].tolist() == [row_of.get(cell, len(grid)) for cell in cells]


def test_largest_coordinates_do_not_wrap(device):
    top = 2**16 - 1
    grid = torch.tensor([[0, 0, 0], [0, 0, top], [0, 1, 0], [top, top, top], [top, top, 0]], device=device)
    batch = torch.tensor([0, 0, 0, 0, 1], device=device)
    found = ops.submanifold_map(grid, batch, 3)
    assert (found != len(grid)).sum(1).tolist() == [2, 1, 2, 1, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("n", "extent", "scans"), [(1, 4, 1), (513, 9, 1), (200_000, 300, 4)])
def test_the_kernel_finds_what_the_twin_finds(kernel_size, n, extent, scans):
    grid, batch = (t.cuda() for t in _voxels(n, extent, scans))
    found = ops.submanifold_map(grid, batch, kernel_size)
    assert torch.equal(found, reference(grid, batch, kernel_size))
    assert torch.equal(ops.submanifold_map(grid.int(), batch.int(), kernel_size), found)


def test_a_smaller_kernel_is_part_of_a_larger_one():
    grid, batch = _voxels(200, 6, 2)
    cells = ops.centre_cells(5, 3, grid.device)
    assert torch.equal(ops.submanifold_map(grid, batch, 5)[:, cells], ops.submanifold_map(grid, batch, 3))


def test_strided_maps_are_transposes():
    grid, batch = _voxels(400, 10, 2)
    key = torch.cat([batch[:, None], grid >> 1], 1)
    coarse, parent = key.unique(dim=0, return_inverse=True)
    children, parent_cell = ops.strided_maps(grid, parent, len(coarse))
    for i, (g, p) in enumerate(zip(grid.tolist(), parent.tolist(), strict=True)):
        cell = (g[0] & 1) * 4 + (g[1] & 1) * 2 + (g[2] & 1)
        assert children[p, cell] == i
        assert parent_cell[i, cell] == p
    assert (children < len(grid)).sum() == len(grid) == (parent_cell < len(coarse)).sum()
