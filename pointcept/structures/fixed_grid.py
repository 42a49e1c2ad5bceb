"""Voxels in arrays with room for more rows than there are: patches and copies of voxels, in shapes that stay.

Rows of padding follow the real ones. Everything is computed on the device, and nothing waits for it, so that a CUDA
graph can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.ops import api as ops
from pointcept.structures.voxel_grid import CopyMaps, Duplicates, VoxelGrid


def alias(x: Tensor) -> Tensor:
    """The same memory as a new tensor: kernels keep tables for each tensor that holds indices."""
    return x.view(x.shape)


class _PatchLayout:
    """Which positions along an order fill which patch, for all orders of a level.

    Scan after scan fills as many patches of K slots as it needs; the patches after them have no point.

    Attributes:
        patch_size: K.
        patches: P, enough for any scans.
        position: (P·K,) position of the point in each slot; the last position, one of padding, where there is none.
        shift: (N,) slot of a point minus its position, for the scan of each row.
        lengths: (P,) int32 points of each patch.
    """

    def __init__(self, ends: Tensor, batch: Tensor, patch_size: int) -> None:
        k, device = patch_size, ends.device
        capacity, scans = len(batch), len(ends)
        self.patch_size, self.patches = k, -(-capacity // k) + scans
        ends = ends.long()
        self._counts = F.pad(ends, (1, 0)).diff()
        needed = (self._counts + k - 1) // k
        patch_ends = needed.cumsum(0)
        self._first = (patch_ends - needed) * k  # slot of each scan
        self._last = patch_ends * k
        begin = ends - self._counts
        patch = torch.arange(self.patches, device=device)
        scan = torch.searchsorted(patch_ends, patch, right=True)
        used, scan = scan < scans, scan.clamp(max=scans - 1)
        count = self._counts.index_select(0, scan)[:, None]
        lengths = torch.where(used[:, None], count.clamp(max=k), 0)
        place = torch.arange(k, device=device)
        offset = (patch * k - self._first.index_select(0, scan))[:, None] + place
        offset = torch.where(offset >= count, offset - k, offset) + begin.index_select(0, scan)[:, None]
        self.position = torch.where(place < lengths, offset, capacity - 1).view(-1)
        self.shift = (self._first - begin).index_select(0, batch.clamp(max=scans - 1))
        self.lengths = lengths.view(-1).int()

    def short_mask(self) -> Tensor:
        """(P, 1, 1, K) bool, where points lie; everywhere in a patch without points, so that its softmax is finite."""
        place, lengths = torch.arange(self.patch_size, device=self.lengths.device), self.lengths[:, None]
        return ((place < lengths) | (lengths == 0))[:, None, None, :]

    def repeated(self) -> Tensor:
        """(B·K,) slots that complete last patches, and for the rest the last slot, which never has a point."""
        place = torch.arange(self.patch_size, device=self._first.device)
        slot = (self._first + self._counts)[:, None] + place
        completing = (slot < self._last[:, None]) & (self._counts > self.patch_size)[:, None]
        return torch.where(completing, slot, self.patches * self.patch_size - 1).view(-1)


class FixedPatchPlan(ops.PatchPlan):
    """Patches whose number depends on the capacity alone; kernels read rows, slots and lengths only."""

    def __init__(self, rows: Tensor, slot: Tensor, layout: _PatchLayout) -> None:
        self.rows, self.slot = rows, slot
        self.full, self.short = (0, layout.patch_size), (layout.patches, layout.patch_size)
        self.lengths, self.completed = layout.lengths, True
        self._layout = layout

    @cached_property
    def short_mask(self) -> Tensor:  # type: ignore[override]
        """See :class:`PatchPlan`."""
        return self._layout.short_mask()

    @cached_property
    def repeated(self) -> Tensor:  # type: ignore[override]
        """See :class:`PatchPlan`."""
        return self._layout.repeated()


@dataclass
class LevelTables:
    """One level of capacity N; rows of padding have coordinate 0, scan B, no neighbours, and their row as position.

    Attributes:
        grid_coord: (N, 3) int64.
        batch: (N,) int64.
        ends: (B,) int32 cumulative ends of the scans.
        real: (1,) int32 number of real rows.
        maps: kernel size -> (N, kernel_size³) int32, N where no voxel lies.
        permutation: (O, N) int64 row at each position along each order.
        inverse: (O, N) int64 position of each row along each order.
        stride: edge of a voxel in voxels of the finest grid.
    """

    grid_coord: Tensor
    batch: Tensor
    ends: Tensor
    real: Tensor
    maps: dict[int, Tensor]
    permutation: Tensor | None
    inverse: Tensor | None
    stride: int = 1

    def narrow(self, rows: int) -> LevelTables:
        """The same level with a capacity of ``rows`` instead of N, more than there are real rows."""
        if rows == len(self.grid_coord):
            return self
        return replace(
            self,
            grid_coord=self.grid_coord[:rows],
            batch=self.batch[:rows],
            maps={size: cells[:rows].clamp(max=rows) for size, cells in self.maps.items()},
            permutation=None if self.permutation is None else self.permutation[:, :rows],
            inverse=None if self.inverse is None else self.inverse[:, :rows],
        )

    def grid(self, orders: tuple[str, ...], choice: Tensor | None = None) -> FixedGrid:
        """A grid on aliases of these tables; where ``orders[j]`` is asked for, it is table ``choice[j]``."""
        tables: list[dict[str, Tensor]] = []
        for table in (self.permutation, self.inverse):
            if table is not None and choice is not None:
                table = table.index_select(0, choice)
            tables.append({} if table is None else dict(zip(orders, table.unbind(), strict=True)))
        return FixedGrid(self, *tables)


class FixedGrid(VoxelGrid):
    """A :class:`VoxelGrid` with rows of padding; its length is its capacity.

    Args:
        tables: what it consists of.
        permutations: order -> (N,) row at each position.
        inverse: order -> (N,) position of each row.
    """

    def __init__(self, tables: LevelTables, permutations: dict[str, Tensor], inverse: dict[str, Tensor]) -> None:
        self.grid_coord, self.batch, self.stride = alias(tables.grid_coord), alias(tables.batch), tables.stride
        self.real: Tensor = alias(tables.real)
        self.ends = tables.ends
        self.codes: dict[str, Tensor] = {}
        self.permutations, self._inverse = permutations, inverse
        self.duplicates: Duplicates | None = None
        self._neighbours = {size: alias(cells) for size, cells in tables.maps.items()}
        self._patches: dict[tuple[str, int], ops.PatchPlan] = {}
        self._patch_layouts: dict[int, _PatchLayout] = {}

    @property
    def counts(self) -> list[int]:  # type: ignore[override]
        """Not there.

        Raises:
            AssertionError: always.
        """
        raise AssertionError("the sizes of a fixed grid are on the device alone; Sizes has them on the host")

    @cached_property
    def padding(self) -> Tensor:
        """(N,) bool, the rows that are no voxels."""
        return torch.arange(len(self), device=self.real.device) >= self.real

    def _patch_layout(self, patch_size: int) -> _PatchLayout:
        return _PatchLayout(self.ends, self.batch, patch_size)

    def _patch_plan(self, order: str, layout: _PatchLayout) -> ops.PatchPlan:
        """All patches are short ones, see :class:`PatchPlan`."""
        rows = self.permutations[order].index_select(0, layout.position)
        slot = (self._inverse[order] + layout.shift).masked_fill_(self.padding, -1)
        return FixedPatchPlan(rows, slot, layout)

    def neighbours(self, kernel_size: int) -> Tensor:
        """(N, kernel_size³) int32 neighbours of each voxel; the voxels must be distinct."""
        assert self.duplicates is None, "neighbours of duplicated voxels: ask duplicates.grid"
        assert kernel_size in self._neighbours, f"this level has no map of kernel size {kernel_size}"
        return self._neighbours[kernel_size]

    def strided_maps(self, cluster: Tensor, parents: int) -> tuple[Tensor, Tensor]:
        """See :func:`pointcept.ops.reference.neighbours.strided_maps`; rows of padding are in no cell of any."""
        n, device = len(self), self.real.device
        row = torch.arange(n, dtype=torch.int32, device=device)
        bit = self.grid_coord & 1
        cell = bit[:, 0] * 4 + bit[:, 1] * 2 + bit[:, 2]
        place = (cluster * 8 + cell).masked_fill_(self.padding, parents * 8)
        children = torch.full((parents * 8 + 1,), n, dtype=torch.int32, device=device).scatter_(0, place, row)
        own = (cell[:, None] == torch.arange(8, device=device)) & ~self.padding[:, None]
        parent_cell = torch.where(own, cluster.int()[:, None], parents)
        return children[:-1].view(parents, 8), parent_cell.int()


@dataclass
class CopyTables:
    """Which rows of a finest level of capacity N are copies, of D voxels in all.

    Rows ascend along the Morton order, so copies of a voxel stand together.

    Attributes:
        distinct: the distinct voxels, also of capacity N.
        group: (N,) int64 distinct voxel of every row; rows of padding belong to padding.
        representative: (N,) int64 one row of every distinct voxel.
        again: (N,) bool, rows whose voxel the row before has, too.
        room: rows for voxels that occur several times and for their copies, more than there are.
    """

    distinct: LevelTables
    group: Tensor
    representative: Tensor
    again: Tensor
    room: tuple[int, int]


class FixedDuplicates(Duplicates):
    """The distinct voxels of a level with rows of padding.

    Args:
        tables: what it consists of.
        real: (1,) real rows of the level, copies among them.
    """

    def __init__(self, tables: CopyTables, real: Tensor) -> None:
        super().__init__(tables.distinct.grid(()), alias(tables.group), alias(tables.representative))
        self._again, self._room, self._real = tables.again, tables.room, real

    def _make_maps(self, neighbours: Tensor) -> CopyMaps:
        n, centre = len(self.group), neighbours.shape[1] // 2
        voxels, copies = self._room
        end = n + voxels
        row = torch.arange(n, dtype=torch.int32, device=self.group.device)
        copy = self._again | F.pad(self._again[1:], (0, 1))
        first = copy & ~self._again
        number = first.cumsum(0) - 1  # of the voxel with copies
        computed = (number + n).int()  # where what is around it is computed

        def spread(size: int, fill: int, index: Tensor, mask: Tensor, values: Tensor) -> Tensor:
            # one place more than needed: where the rows outside the mask go
            out = torch.full((size + 1,), fill, dtype=values.dtype, device=values.device)
            return out.scatter_(0, index.where(mask, size), values)[:size]

        def rows_of(table: Tensor, missing: int) -> Tensor:
            padded = F.pad(table, (0, 1), value=missing)
            return padded.index_select(0, neighbours.flatten()).view_as(neighbours)

        result = spread(n, end, self.group, ~self._again, torch.where(copy, computed, row))
        repeated = spread(voxels, n - 1, number, first, self.group)  # unused: a row of padding, without neighbours
        place = copy.cumsum(0) - 1
        own = torch.where(row < self._real, row, n)
        index = rows_of(self.representative.int(), n).index_select(0, torch.cat([self.group, repeated]))
        index.masked_fill_(F.pad(copy, (0, voxels))[:, None], n)
        index[:n, centre] = own
        index[n:, centre].fill_(n)

        group, again, real = self.group, self._again, self._real

        def transpose() -> Tensor:
            transposed = rows_of(result, end).flip(1).index_select(0, group)
            transposed.masked_fill_(again[:, None], end)
            transposed[:, centre] = torch.where(row < real, row, end)
            return transposed

        return CopyMaps(
            index,
            copies=spread(copies, n - 1, place, copy, row.long()),
            around=spread(copies, end - 1, place, copy, computed.long()),
            transpose=transpose,
        )

    def mean(self, x: Tensor) -> Tensor:
        """Average of the features of equal voxels: (N, C) -> (N, C); 0 where a row of padding stands for none."""
        size = torch.zeros(len(x), 1, dtype=x.dtype, device=x.device)
        size.index_add_(0, self.group, torch.ones_like(x[:, :1]))
        return torch.zeros_like(x).index_add(0, self.group, x) / size.clamp_(min=1)
