"""Octree levels of padded scans: the sizes stay on the device, so that a CUDA graph can hold all of it.

Arrays have room for ``capacity`` rows; how many of them are real is a tensor. Real rows come first and are
sorted by Morton code at every level, so the children of a coarse voxel are neighbours in memory and a voxel
is found by binary search.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pointcept.ops.reference.serialization import hilbert_from_morton, morton_code

SCAN_SHIFT = 48
"""Bits of a code; the number of the scan stands above them."""
ORDER_SHIFT = 60
"""Bits of scan and code; the number of the order stands above them."""
MAX_SCANS = (1 << (ORDER_SHIFT - SCAN_SHIFT)) - 1
_COORD_BITS = 16


class OctreeLevel(NamedTuple):
    """One level; rows beyond the real ones hold anything that is a valid row number.

    Attributes:
        keys: (capacity,) int64 scan << (48 − 3·shift) | Morton code, ascending over the real rows.
        permutation: (O, capacity) int32 row at each position along each order.
        inverse: (O, capacity) int32 position of each row along each order.
        parent: (finer capacity,) int32 row of this level that each row of the finer level lies in.
        begin: (capacity,) int32 first row of the finer level in each row.
    """

    keys: Tensor
    permutation: Tensor
    inverse: Tensor
    parent: Tensor
    begin: Tensor


def octree_keys(grid_coord: Tensor, ends: Tensor, largest: Tensor, orders: tuple[str, ...]) -> Tensor:
    """Sort keys of voxels along several orders: order << 60 | scan << 48 | code, the largest for padding.

    Args:
        grid_coord: (capacity, 3) integer voxel coordinates, 0 <= value < 2**16.
        ends: (B,) int32 cumulative ends of the scans; rows from the last one on are padding.
        largest: (1,) largest coordinate of the real rows: Hilbert codes depend on its bit length.
        orders: names out of :data:`pointcept.ops.api.ORDERS`.

    Returns:
        (O, capacity) int64.
    """
    row = torch.arange(len(grid_coord), dtype=ends.dtype, device=ends.device)
    scan = torch.searchsorted(ends, row, right=True).clamp(max=len(ends) - 1) << SCAN_SHIFT
    bits = ((largest.long() + 1) >> torch.arange(_COORD_BITS + 1, device=ends.device)) > 0
    depth = bits.sum().clamp(min=1)
    coord = grid_coord.long() & ((1 << _COORD_BITS) - 1)
    keys = []
    for number, order in enumerate(orders):
        x, y, z = coord.unbind(1)
        code = morton_code(torch.stack([y, x, z], 1) if order.endswith("-trans") else coord)
        if order.startswith("hilbert"):
            # Leading zero levels turn the curve with a period of three: only depth mod 3 matters.
            turned = torch.stack([hilbert_from_morton(code, d) for d in (18, 16, 17)])
            code = turned.index_select(0, (depth % 3).view(1))[0]
        key = torch.where(row < ends[-1], scan | code, (1 << ORDER_SHIFT) - 1)
        keys.append(key | (number << ORDER_SHIFT))
    return torch.stack(keys)


def octree_level(
    keys: Tensor,
    source: Tensor,
    position: Tensor,
    ranks: Tensor,
    count: Tensor,
    level: int,
    shift: int,
    capacities: tuple[int, int],
) -> OctreeLevel:
    """Rows, orders and links of one level.

    Args:
        keys: (capacity,) int64 sorted keys of the finest voxels along the Morton order.
        source: (O, capacity) int64 input row at each position along each order; the first order is Morton's.
        position: (capacity,) int64 position of each input row along the first order.
        ranks: (L, O, capacity) int32 running number of the level's voxels along each sorted order, up to a
            constant for each order.
        count: (1,) int32 real finest voxels.
        level: which of the L levels.
        shift: octree levels between the finest one and this one.
        capacities: rows of the next finer level (of this one for level 0) and of this one.
    """
    finer, capacity = capacities
    orders, n = source.shape
    valid = torch.arange(n, device=keys.device) < count
    rank = (ranks[level] - ranks[level, :, :1]).long()
    fine = (ranks[max(level - 1, 0), 0] - ranks[max(level - 1, 0), 0, 0]).long()
    cluster = rank[0]

    def scatter(size: int, index: Tensor, value: Tensor) -> Tensor:
        # one row more than needed: where padding goes
        out = value.new_zeros(size + 1).scatter_(0, index.where(valid, size).clamp(max=size), value)
        return out[:size]

    first = torch.ones_like(valid)
    first[1:] = cluster[1:] != cluster[:-1]
    permutation, inverse = [], []
    for o in range(orders):
        own = cluster.index_select(0, position.index_select(0, source[o]))
        permutation.append(scatter(capacity, rank[o], own.int()))
        inverse.append(scatter(capacity, own, rank[o].int()))
    return OctreeLevel(
        keys=scatter(capacity, cluster, keys >> (3 * shift)),
        permutation=torch.stack(permutation),
        inverse=torch.stack(inverse),
        parent=scatter(finer, fine, cluster.int()),
        begin=scatter(capacity, cluster.where(first, capacity), fine.int()),
    )


def coordinates(code: Tensor) -> Tensor:
    """Morton codes (N,) -> voxel coordinates (N, 3) int64; bits above the code are ignored."""
    c = torch.stack([code >> 2, code >> 1, code]) & 0x249249249249
    for step, mask in ((2, 0x0C30C30C30C3), (4, 0x00F00F00F00F), (8, 0x00FF0000FF), (16, 0xFFFF)):
        c = (c | (c >> step)) & mask
    return c.t()


Coarse = tuple[Tensor, Tensor, Tensor, Tensor, int]


def octree_neighbours(
    keys: Tensor, count: Tensor, kernel_size: int, shift: int, coarse: Coarse | None = None
) -> Tensor:
    """Neighbours of every voxel of a level inside a cubic kernel.

    Args:
        keys: (capacity,) int64 as :class:`OctreeLevel` has them.
        count: (1,) int32 real rows.
        kernel_size: odd edge K of the kernel, at most 5.
        shift: octree levels between the finest one and this one.
        coarse: what may shorten the search (here nothing does): parent (capacity,), begin (M,), the map of kernel
            size 3 (27, M) and count (1,) of a coarser level, int32, and how many octree levels it lies above.

    Returns:
        (K³, capacity) int32 rows, kernel cells in x, y, z order with z fastest; ``capacity`` where no voxel
        lies, and in the columns of padding.
    """
    capacity, radius = len(keys), kernel_size // 2
    valid = torch.arange(capacity, device=keys.device) < count
    scan_shift = SCAN_SHIFT - 3 * shift
    code = keys & ((1 << scan_shift) - 1)
    table = torch.where(valid, keys, torch.iinfo(torch.int64).max)
    steps = torch.arange(-radius, radius + 1, device=keys.device)
    offsets = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).view(-1, 1, 3)
    coord = coordinates(code) + offsets
    inside = ((coord >= 0) & (coord < 1 << _COORD_BITS)).all(-1) & valid
    query = morton_code(coord.clamp(0, (1 << _COORD_BITS) - 1)) | (keys - code)
    place = torch.searchsorted(table, query.view(-1)).clamp(max=capacity - 1).view_as(query)
    hit = inside & (table[place] == query)
    return torch.where(hit, place, capacity).int()
