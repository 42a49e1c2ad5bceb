"""Neighbour maps of submanifold convolutions: one sort of Morton codes, and one kernel that looks all neighbours up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pointops.octree import _gather_bits
from pointops.serialization import _morton, serialization_codes
from pointops.steps import first_not_below

_DEPTH = 16  # bits of a coordinate
_TILE = 512  # rows times kernel cells that a program looks up


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
    query = scan[:, None] | _morton(x & 0xFFFF, y & 0xFFFF, z & 0xFFFF)
    low = tl.zeros((ROWS, CELLS), dtype=tl.int32)
    low = first_not_below(keys_ptr, query, inside, low, low + n, steps)
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
    keys, row = serialization_codes(grid_coord, batch, _DEPTH, ("z",))[0].sort()
    width = max(16, triton.next_power_of_2(cells))
    rows = max(1, _TILE // width)
    with torch.cuda.device(grid_coord.device):
        _lookup_kernel[(triton.cdiv(n, rows),)](keys, row, out, n, n.bit_length(), 3 * _DEPTH, kernel_size, width, rows)
    return out
