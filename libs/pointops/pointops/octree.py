"""Octree levels of padded scans, with sizes that stay on the device: keys, links between levels, neighbours."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pointops.serialization import _KINDS, _curve_code, _morton
from pointops.steps import first_not_below

_SCAN_SHIFT = 48
_ORDER_SHIFT = 60
_BLOCK = 256


@triton.jit
def _keys_kernel(
    grid_ptr,
    ends_ptr,
    largest_ptr,
    out_ptr,
    n,
    SCANS: tl.constexpr,
    ORDERS: tl.constexpr,
    KINDS: tl.constexpr,
    SCAN_SHIFT: tl.constexpr,
    ORDER_SHIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    count = tl.load(ends_ptr + SCANS - 1)
    largest = tl.load(largest_ptr).to(tl.int64) + 1
    depth = tl.zeros((), dtype=tl.int32)
    for i in range(17):
        depth += ((largest >> i) > 0).to(tl.int32)
    depth = tl.maximum(depth, 1)
    x = tl.load(grid_ptr + row * 3, mask=inside, other=0).to(tl.int64) & 0xFFFF
    y = tl.load(grid_ptr + row * 3 + 1, mask=inside, other=0).to(tl.int64) & 0xFFFF
    z = tl.load(grid_ptr + row * 3 + 2, mask=inside, other=0).to(tl.int64) & 0xFFFF
    scan = tl.zeros((BLOCK,), dtype=tl.int64)
    for b in range(SCANS - 1):
        scan += (row >= tl.load(ends_ptr + b)).to(tl.int64)
    padding = (row >= count).to(tl.int64) * ((1 << ORDER_SHIFT) - 1)
    for i in tl.static_range(ORDERS):
        code = _curve_code(x, y, z, depth, (KINDS >> (2 * i)) & 3)
        key = tl.where(row < count, (scan << SCAN_SHIFT) | code, padding)
        order = tl.full((BLOCK,), i, dtype=tl.int64) << ORDER_SHIFT
        tl.store(out_ptr + i * n + row, key | order, mask=inside)


def octree_keys(
    grid_coord: torch.Tensor, ends: torch.Tensor, largest: torch.Tensor, orders: tuple[str, ...]
) -> torch.Tensor:
    """Sort keys of voxels along several orders: order << 60 | scan << 48 | code, the largest for padding.

    Args:
        grid_coord: (capacity, 3) integer on a CUDA device.
        ends: (B,) int32 cumulative ends of the scans; rows from the last one on are padding.
        largest: (1,) integer, largest coordinate of the real rows.
        orders: out of ``z``, ``z-trans``, ``hilbert``, ``hilbert-trans``.

    Returns:
        (O, capacity) int64.
    """
    n = len(grid_coord)
    out = torch.empty(len(orders), n, dtype=torch.int64, device=grid_coord.device)
    kinds = sum(_KINDS[order] << (2 * i) for i, order in enumerate(orders))
    with torch.cuda.device(grid_coord.device):
        _keys_kernel[(triton.cdiv(n, _BLOCK),)](
            grid_coord, ends, largest, out, n, len(ends), len(orders), kinds, _SCAN_SHIFT, _ORDER_SHIFT, _BLOCK
        )
    return out


@triton.jit
def _level_kernel(
    keys_ptr,
    source_ptr,
    position_ptr,
    rank_ptr,
    finer_rank_ptr,
    count_ptr,
    out_keys_ptr,
    permutation_ptr,
    inverse_ptr,
    parent_ptr,
    begin_ptr,
    n,
    capacity,
    shift,
    ORDERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < tl.load(count_ptr)
    base = tl.load(rank_ptr)
    for o in tl.static_range(ORDERS):
        at = o * n + place
        rank = tl.load(rank_ptr + at, mask=inside, other=0) - tl.load(rank_ptr + o * n)
        source = tl.load(source_ptr + at, mask=inside, other=0)
        row = tl.load(position_ptr + source, mask=inside, other=0)
        cluster = tl.load(rank_ptr + row, mask=inside, other=0) - base
        tl.store(permutation_ptr + o * capacity + rank, cluster, mask=inside)
        tl.store(inverse_ptr + o * capacity + cluster, rank, mask=inside)
    cluster = tl.load(rank_ptr + place, mask=inside, other=0) - base
    before = tl.load(rank_ptr + place - 1, mask=inside & (place > 0), other=-1) - base
    first = inside & ((place == 0) | (cluster != before))
    fine = tl.load(finer_rank_ptr + place, mask=inside, other=0) - tl.load(finer_rank_ptr)
    key = tl.load(keys_ptr + place, mask=inside, other=0) >> (3 * shift)
    tl.store(out_keys_ptr + cluster, key, mask=first)
    tl.store(begin_ptr + cluster, fine, mask=first)
    tl.store(parent_ptr + fine, cluster, mask=inside)


def octree_level(
    keys: torch.Tensor,
    source: torch.Tensor,
    position: torch.Tensor,
    ranks: torch.Tensor,
    count: torch.Tensor,
    level: int,
    shift: int,
    capacities: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, orders and links of one level.

    Args:
        keys: (capacity,) int64 sorted keys of the finest voxels along the first order, Morton's.
        source: (O, capacity) int64 input row at each position along each order.
        position: (capacity,) int64 position of each input row along the first order.
        ranks: (L, O, capacity) int32 running numbers of the voxels of each level along each order.
        count: (1,) int32 real finest voxels.
        level: which of the L levels.
        shift: octree levels between the finest one and this one.
        capacities: rows of the next finer level (of this one for level 0) and of this one.

    Returns:
        keys (capacity,) int64, permutation and inverse (O, capacity), parent (finer,), begin (capacity,) int32;
        rows beyond the real ones are zero.
    """
    finer, capacity = capacities
    orders, n = source.shape
    table = torch.zeros((2 * orders + 1) * capacity + finer, dtype=torch.int32, device=keys.device)
    permutation, inverse, begin, parent = table.split([orders * capacity, orders * capacity, capacity, finer])
    out_keys = torch.zeros(capacity, dtype=torch.int64, device=keys.device)
    with torch.cuda.device(keys.device):
        _level_kernel[(triton.cdiv(n, _BLOCK),)](
            keys,
            source,
            position,
            ranks[level],
            ranks[max(level - 1, 0)],
            count,
            out_keys,
            permutation,
            inverse,
            parent,
            begin,
            n,
            capacity,
            shift,
            orders,
            _BLOCK,
        )
    return out_keys, permutation.view(orders, capacity), inverse.view(orders, capacity), parent, begin


@triton.jit
def _gather_bits(c):
    """Every third bit of a Morton code, from bit 0 on: the inverse of spreading."""
    c = c & 0x249249249249
    c = (c | (c >> 2)) & 0x0C30C30C30C3
    c = (c | (c >> 4)) & 0x00F00F00F00F
    c = (c | (c >> 8)) & 0x00FF0000FF
    return (c | (c >> 16)) & 0xFFFF


@triton.jit
def _neighbours_kernel(
    keys_ptr,
    count_ptr,
    parent_ptr,
    begin_ptr,
    coarse_map_ptr,
    coarse_count_ptr,
    out_ptr,
    capacity,
    coarse_capacity,
    scan_shift,
    steps,
    CLIMB: tl.constexpr,
    EDGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    cell = tl.program_id(1)
    count = tl.load(count_ptr)
    inside = row < count
    key = tl.load(keys_ptr + row, mask=inside, other=0)
    scan = (key >> scan_shift) << scan_shift
    code = key - scan
    x0, y0, z0 = _gather_bits(code >> 2), _gather_bits(code >> 1), _gather_bits(code)
    x = x0 + (cell // (EDGE * EDGE) - EDGE // 2)
    y = y0 + (cell // EDGE % EDGE - EDGE // 2)
    z = z0 + (cell % EDGE - EDGE // 2)
    # one test for all axes: a negative number has bits above the sixteenth, too
    inside = inside & (((x | y | z) >> 16) == 0)
    query = scan | _morton(x & 0xFFFF, y & 0xFFFF, z & 0xFFFF)
    low = tl.zeros((BLOCK,), dtype=tl.int32)
    high = low + count
    if CLIMB > 0:
        # the neighbour's parent is a neighbour of the parent, and its children stand together
        coarse_count = tl.load(coarse_count_ptr)
        parent = tl.load(parent_ptr + row, mask=inside, other=0)
        step = ((x >> CLIMB) - (x0 >> CLIMB)) * 9 + ((y >> CLIMB) - (y0 >> CLIMB)) * 3 + ((z >> CLIMB) - (z0 >> CLIMB))
        place = (step.to(tl.int32) + 13) * coarse_capacity + parent
        above = tl.load(coarse_map_ptr + place, mask=inside, other=coarse_capacity)
        inside = inside & (above < coarse_count)
        low = tl.load(begin_ptr + above, mask=inside, other=0)
        end = tl.load(begin_ptr + above + 1, mask=inside & (above + 1 < coarse_count), other=0)
        high = tl.where(above + 1 == coarse_count, count, end)
    low = first_not_below(keys_ptr, query, inside, low, high, steps)
    found = tl.load(keys_ptr + low, mask=inside & (low < high), other=-1) == query
    neighbour = tl.where(inside & found, low, capacity)
    tl.store(out_ptr + cell * capacity + row, neighbour, mask=row < capacity)


def octree_neighbours(
    keys: torch.Tensor,
    count: torch.Tensor,
    kernel_size: int,
    shift: int,
    coarse: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int] | None = None,
) -> torch.Tensor:
    """Neighbours of every voxel of a level inside a cubic kernel.

    Args:
        keys: (capacity,) int64 scan << (48 − 3·shift) | Morton code, ascending over the real rows.
        count: (1,) int32 real rows.
        kernel_size: odd edge K of the kernel, at most 5.
        shift: octree levels between the finest one and this one.
        coarse: what shortens the search: parent (capacity,), begin (M,), the map of kernel size 3 (27, M) and
            count (1,) of a coarser level, int32, and how many octree levels it lies above, at least 1.

    Returns:
        (K³, capacity) int32 rows, kernel cells in x, y, z order with z fastest; ``capacity`` where no voxel
        lies, and in the columns of padding.
    """
    capacity, cells = len(keys), kernel_size**3
    out = torch.empty(cells, capacity, dtype=torch.int32, device=keys.device)
    if coarse is None:
        tables, width, climb, steps = (count, count, count, count), 0, 0, capacity.bit_length()
    else:
        *tables, climb = coarse
        width, steps = tables[2].shape[1], 3 * climb + 1
    with torch.cuda.device(keys.device):
        _neighbours_kernel[(triton.cdiv(capacity, _BLOCK), cells)](
            keys,
            count,
            *tables,
            out,
            capacity,
            width,
            _SCAN_SHIFT - 3 * shift,
            steps,
            climb,
            kernel_size,
            _BLOCK,
        )
    return out
