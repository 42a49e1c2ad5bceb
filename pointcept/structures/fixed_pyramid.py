"""The grid pyramid of a batch in arrays of fixed shapes, built on the device without waiting for it.

    sorted = survey(grid_coord, None, ends, orders, shifts)     # room for capacities.rows[0] rows
    sizes = read_report(sorted.report, len(shifts), voxels)     # the one transfer to the host
    capacities = Capacities.choose(len(grid_coord), sizes)      # or known ones that fit
    pyramid = FixedPyramid(sorted, ends, orders, strides, capacities)
    view = pyramid.view()                                       # what a network takes in place of a GridPyramid

The network reads ``feat[pyramid.source]``; ``logits[pyramid.position]`` are in the order of the input. At every level
real rows come first and ascend along the Morton order; rows of padding follow, which no real row reads. Every row of
padding has a coarse row of padding, and a coarse row of padding may have no fine ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.ops import padded
from pointcept.structures.fixed_grid import CopyTables, FixedDuplicates, FixedGrid, LevelTables, alias
from pointcept.structures.octree_plan import (
    PaddedLevel,
    Sizes,
    Survey,
    build_levels,
    level_shifts,
    neighbour_maps,
    per_scan,
)
from pointcept.structures.voxel_grid import GridPyramid, Pooling, VoxelGrid

_UNIT = 64  # capacities are multiples of this
_SMALL = 128  # rows to spare at every level, since small numbers vary more


def room_for(rows: int) -> int:
    """Room for the finest level of a batch: 2 to 5 % more, in steps of a thirty-second of a power of two."""
    step = max(_UNIT, 1 << max(0, rows.bit_length() - 6))
    return -(-max(rows + _UNIT, rows * 51 // 50) // step) * step


def room_for_coarse(rows: int) -> int:
    """Room for a coarser level: 2 % more, and some rows, since small numbers vary more."""
    return -(-(rows * 51 // 50 + _SMALL) // _UNIT) * _UNIT


def has_room(capacities: Sequence[int], rows: Sequence[int]) -> bool:
    """Whether levels of these capacities hold so many rows, with at least one row of padding each."""
    return all(n < capacity for n, capacity in zip(rows, capacities, strict=True))


@dataclass(frozen=True)
class Capacities:
    """How many rows the arrays of a pyramid have.

    Attributes:
        rows: of each level, finest first.
        repeated: room for voxels that occur several times; 0: there are none.
        copies: room for the rows that they fill.
    """

    rows: tuple[int, ...]
    repeated: int = 0
    copies: int = 0

    def fits(self, sizes: Sizes) -> bool:
        """Whether a batch fits, with at least one row of padding at each level."""
        if not has_room(self.rows, sizes.rows):
            return False
        if not self.repeated:
            return not sizes.copies
        return sizes.repeated < self.repeated and sizes.copies < self.copies

    @classmethod
    def choose(cls, room: int, sizes: Sizes) -> Capacities:
        """Capacities for a batch and batches like it.

        Args:
            room: rows of the finest level, at least one more than the batch has.
            sizes: of the batch.
        """
        repeated, copies = (
            -(-(n * 3 // 2 + 1) // _UNIT) * _UNIT if sizes.copies else 0 for n in (sizes.repeated, sizes.copies)
        )
        chosen = cls((room, *map(room_for_coarse, sizes.rows[1:])), repeated, copies)
        assert chosen.fits(sizes), f"{room} rows are not enough for {sizes.rows}"
        return chosen


class _Extent:
    """The rows of one level: ``padding`` (N,) number of each row of padding, negative at real rows."""

    def __init__(self, capacity: int, real: Tensor) -> None:
        self.capacity, self.real = capacity, real
        self.row = torch.arange(capacity, device=real.device)
        self.padding = self.row - real
        self.spare = capacity - real.long()

    def identity_in_padding(self, x: Tensor) -> Tensor:
        """x (..., N) with every row of padding its own value."""
        return torch.where(self.padding < 0, x, self.row)


def _link(parent: Tensor, begin: Tensor, fine: _Extent, coarse: _Extent) -> tuple[Pooling, Tensor]:
    """The pooling between two levels, and the first fine row of every coarse one.

    Args:
        parent: (N,) coarse row of each real fine row.
        begin: (M,) first fine row of each real coarse row.
        fine: its N rows.
        coarse: its M rows.
    """
    cluster = torch.where(fine.padding < 0, parent, coarse.real + fine.padding * coarse.spare // fine.spare)
    first = fine.real + (coarse.padding * fine.spare + coarse.spare - 1) // coarse.spare
    first = torch.where(coarse.padding < 0, begin, first)
    lengths = F.pad(first, (0, 1), value=fine.capacity).diff()
    return Pooling(cluster, fine.row, lengths, fine_real=fine.real, coarse_real=coarse.real), first


class FixedPyramid:
    """The voxel grids of all resolutions of a batch, for networks with these orders and strides.

    Args:
        survey: the sorted batch.
        ends: (B,) int32 cumulative ends of the scans in the input.
        orders: of the survey, "z" first.
        strides: downsampling factor from each level to the next, powers of two.
        capacities: rows of the arrays; the batch must fit.
        kernel_sizes: of the convolutions on the finest level; on the others it is 3.
        maps: kernel size -> (N, kernel_size³) int32 where the finest level's map shall lie; new memory by default.

    Attributes:
        source: (N,) input row of every finest row; rows of padding are their own.
        position: (N,) finest row of every input row.
        levels: the tables of each level.
        poolings: from each level to the next.
        copies: what the finest level looks like without copies; None if ``capacities`` has no room for any.
        distinct_pooling: from the distinct finest voxels to the next level.
    """

    def __init__(
        self,
        survey: Survey,
        ends: Tensor,
        orders: Sequence[str],
        strides: tuple[int, ...],
        capacities: Capacities,
        kernel_sizes: tuple[int, ...] = (3, 5),
        maps: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.orders, self.strides, self.capacities = tuple(orders), strides, capacities
        self.source, self.position = survey.source[0], survey.position
        self._staged: tuple[Sizes, list[VoxelGrid], list[VoxelGrid]] | None = None
        shifts = level_shifts(strides)
        octree = build_levels(survey, shifts, capacities.rows, ends[-1:])
        extents = [_Extent(n, level.count) for n, level in zip(capacities.rows, octree, strict=True)]
        cells = neighbour_maps(octree)
        finest = self._finest(octree, extents[0], cells, kernel_sizes, maps or {})
        self.levels, self.poolings = [finest], []
        for i, climb in enumerate(after - before for before, after in pairwise(shifts)):
            above, extent = octree[i + 1], extents[i + 1]
            pooling, first = _link(above.octree.parent, above.octree.begin, extents[i], extent)
            coord = self.levels[i].grid_coord.index_select(0, first.clamp(max=extents[i].capacity - 1)) >> climb
            permutation, inverse = map(extent.identity_in_padding, (above.octree.permutation, above.octree.inverse))
            coarse = {3: cells[i + 1].t().contiguous()}
            batch, stride = _scan(extent, above.ends), self.levels[i].stride << climb
            self.levels.append(LevelTables(coord, batch, above.ends, extent.real, coarse, permutation, inverse, stride))
            self.poolings.append(pooling)
        self.copies: CopyTables | None = None
        self.distinct_pooling = self.poolings[0] if self.poolings else None
        if capacities.repeated:
            self._add_copies(survey, octree, extents, ends)

    @staticmethod
    def _finest(
        octree: list[PaddedLevel],
        extent: _Extent,
        cells: list[Tensor],
        kernel_sizes: tuple[int, ...],
        room: Mapping[int, Tensor],
    ) -> LevelTables:
        """The distinct voxels of the finest level."""
        level = octree[0]
        coarse = (octree[1], cells[1]) if len(octree) > 1 else ()
        maps = {}
        for size in kernel_sizes:
            found = (cells[0] if size == 3 else level.neighbours(size, *coarse)).t()
            maps[size] = room[size].copy_(found) if size in room else found.contiguous()
        code = torch.where(extent.padding < 0, level.octree.keys, 0)
        coord = padded.coordinates(code).contiguous()
        permutation, inverse = map(extent.identity_in_padding, (level.octree.permutation, level.octree.inverse))
        return LevelTables(coord, _scan(extent, level.ends), level.ends, extent.real, maps, permutation, inverse)

    def _add_copies(self, survey: Survey, octree: list[PaddedLevel], extents: list[_Extent], ends: Tensor) -> None:
        """Replace the finest level by one with a row for every row of the input."""
        distinct, fewer, n = self.levels[0], extents[0], self.capacities.rows[0]
        extent = _Extent(n, ends[-1:])
        number = survey.ranks[0, 0] - survey.ranks[0, 0, :1]
        group = torch.where(extent.padding < 0, number, fewer.real + extent.padding)
        again = F.pad(group[1:] == group[:-1], (1, 0))
        # unused: a row of padding; one place more than needed, where copies go
        representative = group.new_full((n + 1,), n - 1).scatter_(0, group.where(~again, n), extent.row)[:n]
        room = self.capacities.repeated, self.capacities.copies
        self.copies = CopyTables(replace(distinct, permutation=None, inverse=None), group, representative, again, room)
        permutation = self.position.index_select(0, survey.source.view(-1)).view_as(survey.source)
        self.levels[0] = LevelTables(
            grid_coord=distinct.grid_coord.index_select(0, group),
            batch=_scan(extent, ends),
            ends=ends,
            real=extent.real,
            maps={},
            permutation=permutation,
            inverse=torch.empty_like(permutation).scatter_(1, permutation, extent.row.expand_as(permutation)),
        )
        if self.poolings:
            above = octree[1].octree
            parent = above.parent.index_select(0, group)
            begin = representative.index_select(0, above.begin)
            self.poolings[0], _ = _link(parent, begin, extent, extents[1])

    def view(self, choice: Tensor | None = None, rows: Sequence[int] | None = None) -> FixedView:
        """What a network takes in place of a :class:`GridPyramid`.

        A view makes its patches and maps when they are first asked for, so each capture needs one of its own.

        Args:
            choice: (levels, O) int64; at level l the network's order ``orders[j]`` is table ``choice[l, j]``. By
                default every order is itself.
            rows: capacities that suffice for the batch: those of the pyramid, or smaller ones at the coarser levels.
        """
        return FixedView(self, choice, self.capacities.rows if rows is None else rows)

    def stage_grids(self, sizes: Sizes, distinct: bool = False) -> list[VoxelGrid]:
        """The real rows of all levels as ordinary grids, without orders; they change with the pyramid.

        Args:
            sizes: of the batch.
            distinct: with every voxel of the finest level once.
        """
        if self._staged is None or self._staged[0] is not sizes:
            grids = [_real_rows(t, counts) for t, counts in zip(self.levels, sizes.counts, strict=True)]
            others = grids
            if self.copies is not None:
                others = [_real_rows(self.copies.distinct, per_scan(sizes.distinct)), *grids[1:]]
            self._staged = sizes, grids, others
        _, grids, others = self._staged
        return others if distinct else grids


def _scan(extent: _Extent, ends: Tensor) -> Tensor:
    """(N,) scan of every row, B in padding."""
    return torch.searchsorted(ends, extent.row.to(ends.dtype), right=True)


def _real_rows(tables: LevelTables, counts: list[int]) -> VoxelGrid:
    n = sum(counts)
    return VoxelGrid(tables.grid_coord[:n], tables.batch[:n], counts, {}, {}, tables.stride)


def _view_pooling(pooling: Pooling, rows: int, parents: int) -> Pooling:
    """The pooling on tensors of its own, between capacities of so many fine and coarse rows."""
    assert pooling.fine_real is not None
    assert pooling.coarse_real is not None
    if (rows, parents) != (len(pooling.cluster), len(pooling.lengths)):
        begin = pooling.lengths.cumsum(0) - pooling.lengths
        fine, coarse = _Extent(rows, pooling.fine_real), _Extent(parents, pooling.coarse_real)
        return _link(pooling.cluster[:rows], begin[:parents], fine, coarse)[0]
    return replace(
        pooling,
        cluster=alias(pooling.cluster),
        permutation=alias(pooling.permutation),
        lengths=alias(pooling.lengths),
    )


class FixedView(GridPyramid):
    """A :class:`GridPyramid` on the tables of a :class:`FixedPyramid`, see :meth:`FixedPyramid.view`."""

    fixed = True

    def __init__(self, pyramid: FixedPyramid, choice: Tensor | None, rows: Sequence[int]) -> None:
        self.orders, self.strides = pyramid.orders, pyramid.strides
        assert rows[0] == pyramid.capacities.rows[0], "the finest level has one capacity"
        self.levels: list[VoxelGrid] = [
            tables.narrow(n).grid(self.orders, None if choice is None else choice[i])
            for i, (tables, n) in enumerate(zip(pyramid.levels, rows, strict=True))
        ]
        self.poolings = [_view_pooling(p, *pair) for p, pair in zip(pyramid.poolings, pairwise(rows), strict=True)]
        self._rows, self._distinct_pooling = tuple(rows), pyramid.distinct_pooling
        if pyramid.copies is not None:
            self.levels[0].duplicates = FixedDuplicates(pyramid.copies, pyramid.levels[0].real)

    @cached_property
    def _distinct(self) -> tuple[list[VoxelGrid], list[Pooling]]:
        levels, poolings = list(self.levels), list(self.poolings)
        duplicates = levels[0].duplicates
        if duplicates is not None:
            levels[0] = duplicates.grid
            if self._distinct_pooling is not None:
                poolings[0] = _view_pooling(self._distinct_pooling, *self._rows[:2])
        for i, pooling in enumerate(poolings):
            fine = levels[i]
            assert isinstance(fine, FixedGrid)
            maps = fine.strided_maps(pooling.cluster, len(levels[i + 1]))
            poolings[i] = replace(pooling, strided_maps=maps)
        return levels, poolings

    def serves(self, orders: tuple[str, ...], strides: tuple[int, ...]) -> bool:
        """Whether a network with these orders and strides can use this pyramid; its rows have one order for all."""
        return set(orders) <= set(self.orders) and strides == self.strides
