"""Neighbour maps of submanifold convolutions: one sort of Morton keys, and one kernel that looks all neighbours up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pointops.octree import _gather_bits
from pointops.serialization import _spread

_SCAN_SHIFT = 48
_BLOCK = 256
_TILE = 512  # rows times kernel cells that a program looks up


@triton.jit
def _morton(x, y, z):
    return (_spread(x & 0xFFFF) << 2) | (_spread(y & 0xFFFF) << 1) | _spread(z & 0xFFFF)


@triton.jit(do_not_specialize=["n"])
def _keys_kernel(grid_ptr, batch_ptr, out_ptr, n, SCAN_SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    x = tl.load(grid_ptr + row * 3, mask=inside, other=0).to(tl.int64)
    y = tl.load(grid_ptr + row * 3 + 1, mask=inside, other=0).to(tl.int64)
    z = tl.load(grid_ptr + row * 3 + 2, mask=inside, other=0).to(tl.int64)
    scan = tl.load(batch_ptr + row, mask=inside, other=0).to(tl.int64) << SCAN_SHIFT
    tl.store(out_ptr + row, scan | _morton(x, y, z), mask=inside)


@triton.jit(do_not_specialize=["n", "steps"])
def _lookup_kernel(
    keys_ptr,
    row_ptr,
    out_ptr,
    n,
    steps,
    SCAN_SHIFT: tl.constexpr,
    EDGE: tl.constexpr,
    CELLS: tl.constexpr,
    ROWS: tl.constexpr,
):
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cell = tl.arange(0, CELLS)
    here = place < n
    key = tl.load(keys_ptr + place, mask=here, other=0)
    scan = (key >> SCAN_SHIFT) << SCAN_SHIFT
    code = key - scan
    x = _gather_bits(code >> 2)[:, None] + (cell // (EDGE * EDGE) - EDGE // 2)[None, :]
    y = _gather_bits(code >> 1)[:, None] + (cell // EDGE % EDGE - EDGE // 2)[None, :]
    z = _gather_bits(code)[:, None] + (cell % EDGE - EDGE // 2)[None, :]
    known = here[:, None] & (cell < EDGE * EDGE * EDGE)[None, :]
    # one test for all axes: a negative number has bits above the sixteenth, too
    inside = known & (((x | y | z) >> 16) == 0)
    query = scan[:, None] | _morton(x, y, z)
    low = tl.zeros((ROWS, CELLS), dtype=tl.int32)
    high = low + n
    for _ in range(steps):
        middle = (low + high) >> 1
        searching = inside & (low < high)
        smaller = tl.load(keys_ptr + middle, mask=searching, other=0) < query
        low = tl.where(searching & smaller, middle + 1, low)
        high = tl.where(searching & (smaller == 0), middle, high)
    inside = inside & (low < n)
    found = inside & (tl.load(keys_ptr + low, mask=inside, other=-1) == query)
    neighbour = tl.where(found, tl.load(row_ptr + low, mask=found, other=0), n)
    row = tl.load(row_ptr + place, mask=here, other=0)
    target = out_ptr + row[:, None] * (EDGE * EDGE * EDGE) + cell[None, :]
    tl.store(target, neighbour.to(tl.int32), mask=known)


def submanifold_map(grid_coord: torch.Tensor, batch: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Find the neighbours of every voxel inside a cubic kernel.

    Args:
        grid_coord: (N, 3) integer voxel coordinates on a CUDA device, 0 <= value < 2**16, each voxel of a scan once.
        batch: (N,) integer scan of each voxel, below 2**15.
        kernel_size: odd edge K of the kernel.

    Returns:
        (N, K³) int32 rows, kernel cells in x, y, z order with z fastest; N where no voxel lies.
    """
    n, cells = len(grid_coord), kernel_size**3
    out = torch.empty(n, cells, dtype=torch.int32, device=grid_coord.device)
    keys = torch.empty(n, dtype=torch.int64, device=grid_coord.device)
    width = max(16, triton.next_power_of_2(cells))
    rows = max(1, _TILE // width)
    with torch.cuda.device(grid_coord.device):
        _keys_kernel[(triton.cdiv(n, _BLOCK),)](
            grid_coord.contiguous(), batch.contiguous(), keys, n, _SCAN_SHIFT, _BLOCK
        )
        keys, row = keys.sort()
        _lookup_kernel[(triton.cdiv(n, rows),)](
            keys, row, out, n, n.bit_length(), _SCAN_SHIFT, kernel_size, width, rows
        )
    return out
