"""The index tables of a scan in arrays of fixed capacity: no value reaches the host, so a program can hold it all."""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.export.graph import Graph
from pointcept.export.torch_program import VALID
from pointcept.structures.octree_plan import PaddedLevel, Survey, build_levels, level_shifts, survey
from pointcept_runtime.tables import parse_table

ROOM = (0.85, 0.65, 0.45, 0.3, 0.18, 0.12)
"""Rows of a level for each point, by its octree levels above the finest, with room for denser scans: real ones of
SemanticKITTI and nuScenes have at most 0.77, 0.56, 0.37, 0.23, 0.13 voxels of 0.05, 0.1, ... m for each point."""
_STEP = 256


def level_capacities(points: int, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Rows of every level of a program for scans of up to ``points`` points, never growing from level to level."""
    rows: list[int] = []
    for shift in level_shifts(strides):
        wanted = max(_STEP, int(points * ROOM[min(shift, len(ROOM) - 1)]))
        rows.append(min([-(-wanted // _STEP) * _STEP, *rows[-1:]]))
    return tuple(rows)


class PaddedOctree:
    """The octree of one scan.

    Args:
        graph: says orders, strides and which tables are needed.
        capacities: rows of each level.
        grid: (capacity, 3) int64 voxel coordinates; rows from ``count`` on hold zeros.
        count: (1,) int64 voxels.

    Attributes:
        source: (capacity,) input row of each row, which ascend along the Morton order.
        position: (capacity,) row of each input row.
        counts: (L,) int64 voxels of each level, at most its capacity or the scan does not fit.
    """

    def __init__(self, graph: Graph, capacities: tuple[int, ...], grid: Tensor, count: Tensor) -> None:
        self.graph, self.capacities = graph, capacities
        self.orders = ("z", *(order for order in graph.orders if order != "z"))
        self.shifts = level_shifts(graph.strides)
        batch: Survey = survey(grid, None, count.int().clamp(max=len(grid)), self.orders, self.shifts)
        self.levels: list[PaddedLevel] = build_levels(batch, self.shifts, capacities)
        self.source, self.position = batch.source[0], batch.position
        self.counts = torch.cat([level.count for level in self.levels]).long()

    def tables(self) -> dict[str, Tensor]:
        """Every table of the graph, int32, and the ``valid`` ones beside those of patches."""
        found: dict[str, Tensor] = {}
        for name in self.graph.tables:
            table = parse_table(name, self.graph.orders, self.graph.strides)
            level = self.levels[table.level]
            if table.kind == "neighbours":
                found[name] = level.neighbours(table.size).t().contiguous()
            elif table.kind == "slot":
                slot = level.octree.inverse[self.orders.index(table.order)]
                found[name] = slot.clamp(max=self.capacities[table.level] - 1)
            elif table.kind == "rows":
                rows, valid = self._patches(table.level, table.order, table.size)
                found[name], found[f"{VALID}.{table.level}.{table.size}"] = rows, valid
            elif table.kind == "parent":
                found[name] = self._parent(table.level)
            else:
                place, cells = self._places(table.level)
                found[name] = place if table.kind == "place" else self._children(table.level, place, cells)
        return found

    def _real(self, level: int) -> Tensor:
        row = torch.arange(self.capacities[level], device=self.source.device)
        return row < self.levels[level].count

    def _parent(self, level: int) -> Tensor:
        """Where a scan has no room, rows beyond it are asked for: any other will do, since nothing of it is valid."""
        return self.levels[level + 1].octree.parent.clamp(max=self.capacities[level + 1] - 1)

    def _patches(self, level: int, order: str, size: int) -> tuple[Tensor, Tensor]:
        """Rows in each slot, and which slots of a scan's only patch hold one; all of them where there are more."""
        capacity, n = self.capacities[level], self.levels[level].count.long()
        length = min(size, capacity)
        position = torch.arange(-(-capacity // length) * length, device=n.device)
        completed = torch.where((position >= n) & (n > length), position - length, position)
        # Slots beyond the scan read its last row: padding may hold NaN, which no mask would keep out.
        place = torch.minimum(completed.clamp(min=0), n - 1)
        along = self.levels[level].octree.permutation[self.orders.index(order)]
        rows = along.index_select(0, place).clamp(max=capacity - 1)
        return rows.view(-1, length), torch.arange(length, device=n.device) < n

    def _places(self, level: int) -> tuple[Tensor, int]:
        """parent · cells + the place in it of every row, 0 for padding."""
        fine, coarse = self.levels[level], self.levels[level + 1]
        cells = 1 << 3 * (coarse.shift - fine.shift)
        place = self._parent(level) * cells + (fine.octree.keys & (cells - 1)).int()
        return torch.where(self._real(level), place, 0), cells

    def _children(self, level: int, place: Tensor, cells: int) -> Tensor:
        capacity, slots = self.capacities[level], self.capacities[level + 1] * cells
        row = torch.arange(capacity, dtype=torch.int32, device=place.device)
        # one more than needed: where padding goes
        target = torch.where(self._real(level), place, slots).long().clamp(max=slots)
        children = row.new_full((slots + 1,), capacity).scatter(0, target, row)
        return children[:slots].view(-1, cells)
