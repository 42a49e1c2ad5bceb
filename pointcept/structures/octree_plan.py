"""The octree of a batch in arrays of fixed capacity: what a CUDA graph needs to serve scans of other sizes.

:func:`survey` sorts the voxels and counts those of every level. The counts go to the host, once, to choose
capacities; :func:`build_levels` then lays out the levels, without another transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.ops import padded
from pointcept.ops.api import MAX_DEPTH
from pointcept.utils.errors import DataError

SMALLEST_CAPACITY = 64
_HEAD_ROOM = 1.125


@dataclass
class Survey:
    """The sorted voxels of a batch.

    Attributes:
        keys: (capacity,) int64 sorted keys along the Morton order.
        source: (O, capacity) int64 input row at each position along each order.
        position: (capacity,) int64 position of each input row along the Morton order.
        ranks: (L, O, capacity) int32, see :func:`pointcept.ops.reference.octree.octree_level`.
        ends: (L, B) int32 cumulative ends of the scans at each level, counting every voxel once.
        report: int64 numbers for the host: ends of all levels, ends of the input, lowest and largest coordinate,
            how many voxels occur several times, and how many rows they fill.
        feat: (capacity, C) input features in Morton order, if they were given.
    """

    keys: Tensor
    source: Tensor
    position: Tensor
    ranks: Tensor
    ends: Tensor
    report: Tensor
    feat: Tensor | None = None


@dataclass(frozen=True)
class Sizes:
    """What the host knows of a batch.

    Attributes:
        ends: per level the cumulative ends of the scans; at the finest level those of the input.
        distinct: cumulative ends of the scans at the finest level, counting every voxel once.
        repeated: voxels of the finest level that occur several times.
        copies: rows that they fill.
    """

    ends: list[list[int]]
    distinct: list[int]
    repeated: int = 0
    copies: int = 0

    @property
    def rows(self) -> list[int]:
        """Voxels of every level, at the finest one rows of the input."""
        return [ends[-1] for ends in self.ends]

    @property
    def counts(self) -> list[list[int]]:
        """Voxels of every scan, per level."""
        return [per_scan(ends) for ends in self.ends]

    def union(self, other: Sizes) -> Sizes:
        """The larger of the sizes at every level, as of one scan."""
        rows = [max(pair) for pair in zip(self.rows, other.rows, strict=True)]
        repeated, copies = max(self.repeated, other.repeated), max(self.copies, other.copies)
        return Sizes([[n] for n in rows], rows[:1], repeated, copies)


def level_shifts(strides: Sequence[int]) -> list[int]:
    """Octree levels from the finest grid to each level, 0 first; ``strides`` are powers of two."""
    return [0, *accumulate(stride.bit_length() - 1 for stride in strides)]


def per_scan(ends: Sequence[int]) -> list[int]:
    """Cumulative ends -> the size of every scan."""
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


@dataclass
class PaddedLevel:
    """One resolution.

    Attributes:
        ends: (B,) int32 cumulative ends of the scans.
        octree: rows, orders and links.
        shift: octree levels between the finest one and this one.
    """

    ends: Tensor
    octree: padded.OctreeLevel
    shift: int

    @property
    def count(self) -> Tensor:
        """(1,) int32 real rows."""
        return self.ends[-1:]

    def neighbours(self, kernel_size: int, coarse: PaddedLevel | None = None, cells: Tensor | None = None) -> Tensor:
        """(kernel_size³, capacity) int32 map of a submanifold convolution.

        ``coarse`` is the next coarser level and ``cells`` its map of kernel size 3, where they are known.
        """
        known = None
        if coarse is not None and cells is not None and coarse.shift > self.shift:
            octree = coarse.octree
            known = octree.parent, octree.begin, cells, coarse.count, coarse.shift - self.shift
        return padded.octree_neighbours(self.octree.keys, self.count, kernel_size, self.shift, known)


def neighbour_maps(levels: Sequence[PaddedLevel]) -> list[Tensor]:
    """The maps of kernel size 3 of all levels; each coarser one helps to find the next."""
    maps: list[Tensor] = []
    coarse: PaddedLevel | None = None
    for level in reversed(levels):
        maps.insert(0, level.neighbours(3, coarse, maps[0] if maps else None))
        coarse = level
    return maps


def survey(
    grid_coord: Tensor, feat: Tensor | None, ends: Tensor, orders: tuple[str, ...], shifts: Sequence[int]
) -> Survey:
    """Sort the voxels of a batch along all orders and count those of every level.

    Rows of equal voxels and padding rows stay in the order of the input.

    Args:
        grid_coord: (capacity, 3) int64.
        feat: (capacity, C), or None.
        ends: (B,) int32 cumulative ends of the scans; rows from the last one on are padding.
        orders: serialization orders, "z" first.
        shifts: octree levels from the finest one to each level, 0 first.
    """
    capacity, device = len(grid_coord), grid_coord.device
    row = torch.arange(capacity, device=device)
    real = grid_coord * (row < ends[-1])[:, None]
    lowest, largest = (extreme.view(1) for extreme in torch.aminmax(real))
    keys = padded.octree_keys(grid_coord, ends, largest, orders)
    keys, index = (t.view(len(orders), capacity) for t in keys.view(-1).sort(stable=True))
    # Keys of one order stand together and have as many rows as the others, so each keeps its place.
    source = index % capacity
    position = torch.empty_like(row).scatter_(0, source[0], row)
    difference = keys[:, 1:] ^ keys[:, :-1]
    changes = torch.stack([difference >= 1 << 3 * shift for shift in shifts])
    ranks = F.pad(changes, (1, 0)).view(-1).cumsum(0, dtype=torch.int32).view(len(shifts), len(orders), capacity)
    final = (ends.long() - 1).clamp(0, capacity - 1)
    level_ends = ranks[:, 0].index_select(1, final) - ranks[:, 0, :1] + 1
    again = F.pad((keys[0, 1:] == keys[0, :-1]) & (row[1:] < ends[-1]), (1, 1))
    copies = (again[1:] | again[:-1]).sum().view(1)
    repeated = copies - again.sum()
    report = torch.cat([level_ends.flatten().long(), ends.long(), lowest, largest, repeated, copies])
    # rows of 16 bytes: one alignment, so one compiled kernel, for all levels
    level_ends = F.pad(level_ends, (0, -len(ends) % 4))[:, : len(ends)]
    sorted_feat = None if feat is None else feat[source[0]]
    return Survey(keys[0], source, position, ranks, level_ends, report, sorted_feat)


def read_report(report: Tensor, levels: int, voxels: int) -> Sizes:
    """Bring the sizes of all levels to the host and check the batch.

    Args:
        report: of a :class:`Survey`.
        levels: L.
        voxels: rows that the caller gave.

    Raises:
        DataError: an empty scan, offsets that do not fit, or coordinates out of range.
    """
    *numbers, lowest, largest, repeated, copies = report.tolist()
    scans = len(numbers) // (levels + 1)
    distinct, *coarser, ends = (numbers[i : i + scans] for i in range(0, len(numbers), scans))
    if ends[-1] != voxels or min(per_scan(ends)) < 1:
        raise DataError(
            f"offset must be the cumulative ends of non-empty scans and end at {voxels} voxels, got {ends[:8]}"
            f"{' ...' if scans > 8 else ''}"
        )
    if lowest < 0 or (largest + 1).bit_length() > MAX_DEPTH:
        raise DataError(
            f"grid_coord goes from {lowest} to {largest}, allowed is 0 to {2**MAX_DEPTH - 2}: subtract the minimum of "
            "each scan, and use a larger grid_size or leave out far outliers"
        )
    return Sizes([ends, *coarser], distinct, repeated, copies)


def build_levels(
    batch: Survey, shifts: Sequence[int], capacities: Sequence[int], count: Tensor | None = None
) -> list[PaddedLevel]:
    """Lay out the levels of a batch in arrays with room for ``capacities`` rows.

    Args:
        batch: the sorted voxels.
        shifts: octree levels from the finest one to each level, 0 first.
        capacities: rows of each level.
        count: (1,) int32 rows of the input, where voxels may occur several times; they are one at every level.
    """
    count = batch.ends[0, -1:] if count is None else count
    finer = [capacities[0], *capacities[:-1]]
    return [
        PaddedLevel(
            batch.ends[i],
            padded.octree_level(batch.keys, batch.source, batch.position, batch.ranks, count, i, shift, (above, own)),
            shift,
        )
        for i, (shift, above, own) in enumerate(zip(shifts, finer, capacities, strict=True))
    ]


def round_up(rows: int) -> int:
    """The next capacity: some head room, then the next quarter of a power of two, at least 64."""
    wanted = max(SMALLEST_CAPACITY, int(rows * _HEAD_ROOM))
    step = max(SMALLEST_CAPACITY // 4, 1 << max(0, (wanted - 1).bit_length() - 3))
    return -(-wanted // step) * step


def choose_capacities(counts: Sequence[int]) -> tuple[int, ...]:
    """Capacities for a batch with ``counts`` voxels at each level, never growing from level to level."""
    capacities: list[int] = []
    for count in counts:
        capacities.append(min([round_up(count), *capacities[-1:]]))
    return tuple(capacities)
