"""Codes along space-filling curves: golden file, the defining properties, and the fast implementations."""

import numpy as np
import pytest
import torch

from pointcept.ops import api as ops
from pointcept.ops import backend
from pointcept.ops.reference import serialization as reference


def _grid(depth: int, n: int = 2000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**depth, (n, 3), generator=generator)


def test_golden_codes(golden_dir, device):
    data = np.load(golden_dir / "serialization_depth12.npz")
    grid, batch = (torch.from_numpy(data[k]).to(device) for k in ("grid_coord", "batch"))
    codes = ops.serialization_codes(grid, batch, 12, ops.ORDERS).cpu().numpy()
    for row, order in zip(codes, ops.ORDERS, strict=True):
        np.testing.assert_array_equal(row, data[order.replace("-", "_")])


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 12, 15, 16])
def test_every_implementation_agrees_with_the_reference(depth, device):
    grid = _grid(depth).to(device)
    batch = torch.arange(len(grid), device=device) % 5
    codes = ops.serialization_codes(grid, batch, depth, ops.ORDERS)
    expected = reference.serialization_codes(grid.cpu(), batch.cpu(), depth, ops.ORDERS)
    assert torch.equal(codes.cpu(), expected)


@pytest.mark.parametrize("order", ["hilbert", "hilbert-trans"])
def test_hilbert_visits_every_voxel_by_unit_steps(order):
    side = torch.arange(8)
    grid = torch.cartesian_prod(side, side, side)
    codes = ops.serialization_codes(grid, torch.zeros(512, dtype=torch.int64), 3, (order,))[0]
    assert torch.equal(codes.sort().values, torch.arange(512))
    path = grid[codes.argsort()]
    assert torch.equal((path[1:] - path[:-1]).abs().sum(1), torch.ones(511, dtype=torch.int64))


def test_morton_interleaves_x_highest():
    grid = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [65535, 65535, 65535]])
    assert reference.morton_code(grid).tolist() == [4, 2, 1, 32, 2**48 - 1]


def test_trans_swaps_x_and_y():
    grid, batch = _grid(6), torch.zeros(2000, dtype=torch.int64)
    for order in ("z", "hilbert"):
        swapped = ops.serialization_codes(grid[:, [1, 0, 2]], batch, 6, (order,))
        assert torch.equal(ops.serialization_codes(grid, batch, 6, (f"{order}-trans",)), swapped)


def test_the_scan_is_in_the_high_bits():
    grid = _grid(5, 10)
    low = ops.serialization_codes(grid, torch.zeros(10, dtype=torch.int64), 5, ("z",))
    high = ops.serialization_codes(grid, torch.full((10,), 3), 5, ("z",))
    assert torch.equal(high - low, torch.full((1, 10), 3 << 15))


@pytest.mark.parametrize("order", ["hilbert", "hilbert-trans"])
def test_parents_are_prefixes(order):
    """Climbing the octree shortens a code: pooling may shift codes instead of computing them again."""
    grid, batch = _grid(6), torch.zeros(2000, dtype=torch.int64)
    fine = ops.serialization_codes(grid, batch, 6, (order,))[0] >> 3
    parent = (grid[:, 0] >> 1) * 10000 + (grid[:, 1] >> 1) * 100 + (grid[:, 2] >> 1)
    pairs = torch.stack([parent, fine], 1).unique(dim=0)
    assert len(pairs) == len(parent.unique()) == len(fine.unique())


def test_unknown_backend_is_named(monkeypatch):
    monkeypatch.setenv(backend.ENVIRONMENT, "serialization=tirton")
    with pytest.raises(ValueError, match="did you mean 'triton'"):
        ops.serialization_codes(_grid(3), torch.zeros(2000, dtype=torch.int64), 3, ("z",))


def test_triton_on_a_cpu_is_refused():
    with backend.override("serialization=triton"), pytest.raises(ValueError, match="cuda only"):
        ops.serialization_codes(_grid(3), torch.zeros(2000, dtype=torch.int64), 3, ("z",))


def test_override_ends_with_its_block():
    with backend.override("torch"):
        pass
    assert not backend._overrides
    with pytest.raises(ValueError, match="unknown operation 'attention'"), backend.override("attention=torch"):
        pass
