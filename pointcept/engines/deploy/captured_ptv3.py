"""A deployed Point Transformer V3 as CUDA graphs over padded sizes.

A batch takes one transfer to the host (the sizes of its octree levels) and two graphs. A graph serves every
batch that fits into its capacities; a new one is captured where none fits.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pointcept.engines.deploy.network_graphed import duplicates
from pointcept.engines.deploy.network_ptv3 import DeployedPTv3
from pointcept.structures.octree_plan import (
    Survey,
    build_levels,
    choose_capacities,
    level_shifts,
    read_report,
    round_up,
    survey,
)
from pointcept.utils import device
from pointcept.utils.errors import DataError

logger = logging.getLogger(__name__)

MAX_GRAPHS = 8
"""Graphs of the network that are kept; the one that was not used for longest goes first."""
_MOST_WASTE = 4  # a graph is used where its finest capacity is at most this multiple of the batch


@dataclass
class _Entry:
    """The input buffers of one capacity and the sorted batch that comes out of them."""

    grid_coord: Tensor
    feat: Tensor
    ends: Tensor
    replay: Callable[[], Survey]
    batch: Survey | None = None


class CapturedPTv3:
    """Replays a deployed network.

    Args:
        network: with folded weights.
        where: its device; on the CPU the same work is done without graphs.
    """

    def __init__(self, network: DeployedPTv3, where: torch.device) -> None:
        self.num_classes, self.in_channels = network.num_classes, network.in_channels
        self._network, self._device = network, where
        self.not_finite = network.not_finite
        self._shifts = level_shifts(network.strides)
        self._pool = device.graph_pool(where)
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._graphs: OrderedDict[tuple[int, int, tuple[int, ...]], Callable[[], Tensor]] = OrderedDict()

    def __call__(self, grid_coord: Tensor, feat: Tensor, offset: Tensor) -> Tensor:
        """Voxels of a batch -> logits (N, K) float32 in a buffer that the next batch overwrites.

        Raises:
            DataError: an empty scan, offsets that do not fit, coordinates out of range, or voxels that occur twice.
        """
        n = len(grid_coord)
        key = self._room(n), len(offset)
        entry = self._entry(key)
        entry.grid_coord[:n].copy_(grid_coord, non_blocking=True)
        entry.feat[:n].copy_(feat, non_blocking=True)
        entry.ends.copy_(offset, non_blocking=True)
        entry.batch = entry.replay()
        sizes = read_report(entry.batch.report, len(self._shifts), n)
        if sizes.copies:
            raise DataError(duplicates(sizes.copies - sizes.repeated, n))
        return self._graph(key, sizes.rows)()[:n]

    def _room(self, n: int) -> int:
        """The smallest capacity of input buffers that there is and suits, or a new one."""
        fitting = [room for room, _ in self._entries if n <= room <= _MOST_WASTE * n]
        return min(fitting, default=round_up(n))

    def _entry(self, key: tuple[int, int]) -> _Entry:
        """The input buffers for a capacity and a number of scans, made now if there are none."""
        room, scans = key
        if key not in self._entries:
            if len(self._entries) == MAX_GRAPHS:
                oldest = next(iter(self._entries))
                del self._entries[oldest]
                for graph in [graph for graph in self._graphs if graph[:2] == oldest]:
                    del self._graphs[graph]
            grid_coord = torch.zeros(room, 3, dtype=torch.int64, device=self._device)
            feat = torch.zeros(room, self._network.in_channels, device=self._device)
            ends = torch.arange(1, scans + 1, dtype=torch.int32, device=self._device)
            orders, shifts = self._network.orders, self._shifts
            replay = device.capture(lambda: survey(grid_coord, feat, ends, orders, shifts), self._device, self._pool)
            self._entries[key] = _Entry(grid_coord, feat, ends, replay)
        return self._entries[key]

    def _graph(self, key: tuple[int, int], counts: list[int]) -> Callable[[], Tensor]:
        """A graph whose capacities hold ``counts``, captured now if there is none."""
        entry, room = self._entries[key], key[0]
        for known in reversed(self._graphs):
            fits = all(count <= capacity for count, capacity in zip(counts, known[2], strict=True))
            if known[:2] == key and fits:
                self._graphs.move_to_end(known)
                return self._graphs[known]
        capacities = (room, *(min(room, capacity) for capacity in choose_capacities(counts)[1:]))
        if len(self._graphs) == MAX_GRAPHS:
            self._graphs.popitem(last=False)
        start, network, shifts = time.perf_counter(), self._network, self._shifts

        def run() -> Tensor:
            batch = entry.batch
            assert batch is not None
            assert batch.feat is not None
            return network(batch.feat, batch.position, build_levels(batch, shifts, capacities))

        replay = device.capture(run, self._device, self._pool)
        self._graphs[room, key[1], capacities] = replay
        logger.info(
            "inference engine: ready for up to %s voxels per level after %.2f s (%d graphs, %d input buffers)",
            capacities,
            time.perf_counter() - start,
            len(self._graphs),
            len(self._entries),
        )
        return replay
