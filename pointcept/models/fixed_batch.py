"""Batches in buffers of fixed shapes, with their octree laid out by CUDA graphs: what a captured network reads.

A batch takes one transfer to the host, the sizes of its octree levels. Batches of similar sizes share buffers and
graphs. Where a new layout is needed, it gets room for all batches seen so far, so that soon none is needed any more.

Scans differ most at the coarser levels, where networks are widest: on SemanticKITTI, room for all batches is half as
much again as the mean batch needs. So a layout learns a few smaller sizes from the batches that it has held, and says
for each batch which is enough; networks then compute on the first rows of its tables only.
"""

from __future__ import annotations

import functools
import gc
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pointcept.structures import (
    Capacities,
    FixedPyramid,
    Sizes,
    Survey,
    VoxelGrid,
    has_room,
    level_shifts,
    read_report,
    room_for,
    room_for_coarse,
    survey,
)
from pointcept.utils import device
from pointcept.utils.errors import DataError

logger = logging.getLogger(__name__)

MAX_LAYOUTS = 6
"""Layouts that are kept; the one that was not used for longest goes first, and with it what was captured for it."""
_MOST_WASTE = 1.5  # buffers are used where they have room for at most this multiple of the batch
_GROWTH = 1.1  # room that a layout may get beyond the batches that it is for
_OBSERVED = 16  # batches from which a layout learns its smaller sizes
_SHARES = (0.5, 0.85)  # of these batches, that the smaller sizes are for
_WORTHWHILE = 0.95  # of the next larger size, at most: each is captured once


@dataclass(eq=False)
class Layout:
    """Buffers of one shape: the sorted inputs and the octree of the batch that was laid out last.

    Attributes:
        pyramid: the octree.
        feat: (capacity, C) features along the Morton order.
        segment: (capacity,) labels in the same order, ``ignore_index`` in padding; None where batches have none.
        replay: fills all of it from the input buffers.
    """

    pyramid: FixedPyramid
    feat: Tensor
    segment: Tensor | None
    replay: Callable[[], Any]
    _held: list[list[int]] = field(default_factory=list)
    _smaller: list[tuple[int, ...]] = field(default_factory=list)

    def rows_for(self, sizes: Sizes) -> tuple[int, ...]:
        """Capacities of the levels that suffice for a batch, those of the pyramid or smaller ones."""
        rows, full = sizes.rows, self.pyramid.capacities.rows
        if len(self._held) < _OBSERVED:
            self._held.append(rows)
            if len(self._held) == _OBSERVED:
                self._smaller = smaller_sizes(self._held, full)
        return next((smaller for smaller in self._smaller if has_room(smaller, rows)), full)


def smaller_sizes(batches: Sequence[Sequence[int]], full: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Capacities for the smaller ones of some batches, ascending; none that is hardly smaller than the next.

    Args:
        batches: rows at each level.
        full: capacities that all of them fit; the finest level keeps its own.
    """
    found: list[tuple[int, ...]] = []
    ascending, above = sorted(batches, key=lambda rows: sum(rows[1:])), full
    for share in reversed(_SHARES):
        some = ascending[: int(share * len(ascending))]
        largest = [max(rows) for rows in zip(*some, strict=True)][1:]
        fitting = (full[0], *(min(room_for_coarse(n), room) for n, room in zip(largest, full[1:], strict=True)))
        if sum(fitting[1:]) < _WORTHWHILE * sum(above[1:]):
            found.insert(0, fitting)
            above = fitting
    return found


@dataclass(eq=False)
class FixedBatch:
    """A batch that lies in a :class:`Layout`, until the next one is laid out; stands in for a ``GridPyramid``.

    Attributes:
        layout: where it lies.
        sizes: of its octree levels.
        voxels: N, rows of the batch.
        version: of the layouts when the batch was laid out, see :meth:`Layouts.check`.
        rows: capacities of the levels that a network is to use, see :meth:`Layout.rows_for`.
        levels: the grids of all resolutions with their real rows.
        distinct_levels: the same with every voxel of the finest grid once.
    """

    layout: Layout
    sizes: Sizes
    voxels: int
    version: int
    rows: tuple[int, ...]
    levels: list[VoxelGrid]
    distinct_levels: list[VoxelGrid]

    def distinct(self) -> tuple[list[VoxelGrid], list[Any]]:
        """The grids with every voxel once; poolings are inside the graphs."""
        return self.distinct_levels, []

    @property
    def strides(self) -> tuple[int, ...]:
        """Downsampling factors between levels."""
        return self.layout.pyramid.strides

    def serves(self, orders: tuple[str, ...], strides: tuple[int, ...]) -> bool:
        """Whether a network with these orders and strides can use this octree."""
        return set(orders) <= set(self.layout.pyramid.orders) and strides == self.strides


@dataclass(eq=False)
class _Inputs:
    """Input buffers, the graph that sorts what lies in them, and the layout that is made of it."""

    grid_coord: Tensor
    feat: Tensor
    segment: Tensor | None
    ends: Tensor
    replay: Callable[[], Survey]
    sorted: Survey | None = None
    layout: Layout | None = None


class Layouts:
    """Lays out batches for networks with the same orders and strides.

    Args:
        in_channels: C.
        orders: serialization orders.
        strides: downsampling factor from each level to the next, powers of two.
        ignore_index: label of padding.
        where: the device; on the CPU the same work is done without graphs.

    Raises:
        DataError: strides that are no powers of two.
    """

    def __init__(
        self,
        in_channels: int,
        orders: Sequence[str],
        strides: tuple[int, ...],
        ignore_index: int,
        where: torch.device,
    ) -> None:
        if any(stride < 1 or stride & (stride - 1) for stride in strides):
            raise DataError(f"strides must be powers of two, got {strides}")
        self.orders = ("z", *(order for order in orders if order != "z"))
        self.in_channels, self.strides, self.ignore_index, self.device = in_channels, strides, ignore_index, where
        self._shifts = level_shifts(strides)
        self._inputs: OrderedDict[tuple[tuple[int, bool], int], _Inputs] = OrderedDict()
        self._seen: dict[tuple[int, bool], Sizes] = {}
        self._pool = device.graph_pool(where)
        self._maps = {size: torch.empty(0, size**3, dtype=torch.int32, device=where) for size in (3, 5)}
        self._version = 0

    def serves(self, orders: tuple[str, ...], strides: tuple[int, ...]) -> bool:
        """Whether a network with these orders and strides can use these layouts."""
        return set(orders) <= set(self.orders) and strides == self.strides

    def lay_out(self, batch: Mapping[str, Tensor]) -> FixedBatch:
        """Put a batch into buffers of fixed shapes.

        Args:
            batch: ``grid_coord`` (N, 3), ``feat`` (N, C), ``offset`` (B,), and ``segment`` (N,) if there are labels.

        Raises:
            DataError: no voxel, an empty scan, offsets that do not fit, coordinates out of range, or ``feat`` or
                ``segment`` with other rows.
        """
        n = len(batch["grid_coord"])
        if n == 0 or len(batch["offset"]) == 0:
            raise DataError("the batch has no voxel" if n == 0 else "offset must be the cumulative ends of scans: none")
        for key in ("feat", "segment"):
            if key in batch and len(batch[key]) != n:
                raise DataError(f"{key} must have a row for each of {n} voxels, got {tuple(batch[key].shape)}")
        kind = len(batch["offset"]), "segment" in batch
        self._version += 1
        inputs = self._fill(kind, self._room(kind, n), batch)
        assert inputs.sorted is not None
        sizes = read_report(inputs.sorted.report, len(self._shifts), n)
        self._seen[kind] = sizes.union(self._seen.get(kind, sizes))
        layout = self._known(inputs, sizes) or self._new(kind, inputs, sizes, batch)
        layout.replay()
        grids = [layout.pyramid.stage_grids(sizes, distinct) for distinct in (False, True)]
        return FixedBatch(layout, sizes, n, self._version, layout.rows_for(sizes), *grids)

    def check(self, batch: FixedBatch) -> None:
        """Raise RuntimeError if another batch has taken the buffers meanwhile."""
        if batch.version != self._version:
            raise RuntimeError(
                "the octree of this batch has been overwritten by a later batch: finish forward and backward of one "
                "batch before the next, or train without graphs (cuda_graphs=False)"
            )

    def _room(self, kind: tuple[int, bool], n: int) -> int:
        """Room for a batch of n voxels: the largest that there is, unless it is far too large, or new room."""
        fitting = [room for known, room in self._inputs if known == kind and n < room <= _MOST_WASTE * n]
        return max(fitting, default=room_for(n))

    def _fill(self, kind: tuple[int, bool], room: int, batch: Mapping[str, Tensor]) -> _Inputs:
        """Put a batch into input buffers, made now if there are none, and sort it."""
        inputs = self._inputs.get((kind, room))
        if inputs is None:
            if len(self._inputs) == MAX_LAYOUTS:
                self._inputs.popitem(last=False)
            inputs = self._inputs[kind, room] = self._make_inputs(kind, room)
        self._inputs.move_to_end((kind, room))
        n = len(batch["grid_coord"])
        inputs.grid_coord[:n].copy_(batch["grid_coord"], non_blocking=True)
        inputs.feat[:n].copy_(batch["feat"], non_blocking=True)
        inputs.ends.copy_(batch["offset"], non_blocking=True)
        if inputs.segment is not None:
            inputs.segment[:n].copy_(batch["segment"], non_blocking=True)
        inputs.sorted = inputs.replay()
        return inputs

    def _make_inputs(self, kind: tuple[int, bool], room: int) -> _Inputs:
        scans, labelled = kind
        grid_coord = torch.zeros(room, 3, dtype=torch.int64, device=self.device)
        ends = torch.arange(1, scans + 1, dtype=torch.int32, device=self.device)
        replay = device.capture(
            lambda: survey(grid_coord, None, ends, self.orders, self._shifts), self.device, self._pool
        )
        return _Inputs(
            grid_coord,
            torch.zeros(room, self.in_channels, device=self.device),
            torch.full((room,), self.ignore_index, dtype=torch.int64, device=self.device) if labelled else None,
            ends,
            replay,
        )

    @staticmethod
    def _known(inputs: _Inputs, sizes: Sizes) -> Layout | None:
        """The latest layout behind these buffers, if the batch fits into it."""
        layout = inputs.layout
        return layout if layout is not None and layout.pyramid.capacities.fits(sizes) else None

    def _new(self, kind: tuple[int, bool], inputs: _Inputs, sizes: Sizes, batch: Mapping[str, Tensor]) -> Layout:
        """A layout with room for all batches like this one so far, in the place of those that it makes superfluous.

        Batches of other numbers of scans get the same room, so that one's memory serves the other.
        """
        similar = [seen for seen in self._seen.values() if seen.rows[0] <= _MOST_WASTE / _GROWTH * sizes.rows[0]]
        rows = functools.reduce(Sizes.union, similar, sizes)
        if self._seen[kind] not in similar:
            self._seen[kind] = sizes  # batches have become much smaller
        seen = Sizes(rows.ends, rows.distinct, self._seen[kind].repeated, self._seen[kind].copies)
        room = room_for(rows.rows[0])
        for known in [known for known in self._inputs if room / _MOST_WASTE < known[1] < room]:
            del self._inputs[known]
        if len(inputs.grid_coord) < room:
            inputs = self._fill(kind, room, batch)
        inputs.layout = None  # its memory serves the next one
        inputs.layout = self._capture(inputs, Capacities.choose(len(inputs.grid_coord), seen))
        logger.info("graphs: room for %s voxels of %d scans", inputs.layout.pyramid.capacities.rows, kind[0])
        return inputs.layout

    def _capture(self, inputs: _Inputs, capacities: Capacities) -> Layout:
        for size, cells in self._maps.items():
            if len(cells) < capacities.rows[0]:
                self._maps[size] = cells.new_empty(capacities.rows[0], size**3)
        if self.device.type == "cuda":
            gc.collect()  # reference cycles, such as an exception with its frames, may hold the last layout for long
            device.warm_up(lambda: self._build(inputs, capacities), self.device)
            layout, replay = device.record(lambda: self._build(inputs, capacities), self.device, self._pool)
            layout.replay = replay
            return layout
        layout, owner = self._build(inputs, capacities), weakref.ref(inputs)  # which holds the layout

        def refill() -> None:
            inputs = owner()
            assert inputs is not None
            assert inputs.layout is not None
            layout, fresh = inputs.layout, self._build(inputs, capacities)
            layout.pyramid, layout.feat, layout.segment = fresh.pyramid, fresh.feat, fresh.segment

        layout.replay = refill
        return layout

    def _build(self, inputs: _Inputs, capacities: Capacities) -> Layout:
        batch = inputs.sorted
        assert batch is not None
        # The largest tables, of which all layouts share the memory: one batch is in use at a time.
        maps = {size: cells[: capacities.rows[0]] for size, cells in self._maps.items()}
        pyramid = FixedPyramid(batch, inputs.ends, self.orders, self.strides, capacities, tuple(maps), maps)
        feat = inputs.feat[pyramid.source]
        segment = None
        if inputs.segment is not None:
            padding = torch.arange(len(feat), device=self.device) >= inputs.ends[-1]
            segment = inputs.segment.index_select(0, pyramid.source).masked_fill_(padding, self.ignore_index)
        return Layout(pyramid, feat, segment, lambda: None)
