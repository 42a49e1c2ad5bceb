"""Programs that libtorch runs without Python: ``torch.export`` and AOTInductor, for scans of up to a capacity.

``points_<capacity>.pt2`` takes points (capacity, 4) float32 x, y, z [m], strength and count (1,) int64, and returns
labels (capacity,) int64 and report (R,) int64. ``voxels_<capacity>.pt2`` takes grid (capacity, 3) int64, feat
(capacity, C) float32 and count, and returns logits (capacity, K) float32 and the report. The report holds in turn the
voxels of each level, the numbers of :data:`REPORT`, and the capacity of each level: a scan fits where no level has more
voxels than its capacity, and nothing else of the result is valid where it does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointcept.export.graph import Graph
from pointcept.export.padded_tables import PaddedOctree, level_capacities
from pointcept.export.torch_program import TableNetwork
from pointcept.ops.api import ORDERS
from pointcept.ops.padded import octree_keys
from pointcept.utils.checks import check_integers
from pointcept.utils.device import get_device
from pointcept.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

CAPACITIES = (40960, 131072)
"""Points: a scan of nuScenes has about 35 000, one of SemanticKITTI 125 000."""

REPORT = ("points that are not finite", "points with another strength", "voxels along the longest axis", "bad scores")
MAX_VOXELS = (1 << 16) - 1
_BITS = 17


class VoxelProgram(nn.Module):
    """Voxels -> logits.

    Args:
        graph: the network.
        capacities: rows of each level.
    """

    def __init__(self, graph: Graph, capacities: tuple[int, ...]) -> None:
        super().__init__()
        self.graph, self.capacities = graph, capacities
        self.network = TableNetwork(graph)

    def forward(self, grid: Tensor, feat: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """grid (capacity, 3) int64, feat (capacity, C), count (1,) int64 -> logits (capacity, K) and the report."""
        logits, counts, bad = self.run(grid, feat, count)
        rest = count.new_zeros(len(REPORT) - 1)
        return logits, torch.cat([counts, rest, bad, self._rooms(count)])

    def _rooms(self, like: Tensor) -> Tensor:
        return torch.cat([like.new_full((1,), rows) for rows in self.capacities])

    def run(self, grid: Tensor, feat: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, voxels of each level, and how many voxels have scores that are not finite."""
        real = torch.arange(len(grid), device=grid.device) < count
        octree = PaddedOctree(self.graph, self.capacities, torch.where(real[:, None], grid, 0), count)
        rows = self.network(feat.index_select(0, octree.source), octree.tables())
        logits = rows.index_select(0, octree.position)
        bad = (real & ~logits.isfinite().all(1)).sum().view(1)
        # The voxels that were given, not those that had room.
        counts = torch.cat([torch.maximum(octree.counts[:1], count), octree.counts[1:]])
        return logits, counts, bad


class PointProgram(nn.Module):
    """Points -> labels: one pass, each voxel stands for its points, and its first point for it.

    Args:
        graph: the network.
        capacities: rows of each level.
        voxels, features: of the card.
    """

    size: Tensor
    box: Tensor | None
    columns: Tensor

    def __init__(
        self, graph: Graph, capacities: tuple[int, ...], voxels: Mapping[str, Any], features: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.program = VoxelProgram(graph, capacities)
        self.register_buffer("size", torch.tensor(voxels["grid_size"], dtype=torch.float64))
        clip = voxels["clip"]
        self.register_buffer("box", None if clip is None else torch.tensor(clip, dtype=torch.float32))
        self.strength = features["strength_range"]
        columns = {"coord": [0, 1, 2], "strength": [3]}
        self.register_buffer("columns", torch.tensor([c for key in features["keys"] for c in columns[key]]))

    def forward(self, points: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """points (capacity, 4) float32 and count (1,) int64 -> labels (capacity,) int64 and the report."""
        real = torch.arange(len(points), device=points.device) < count
        finite = points.isfinite().all(1)
        points = torch.where((real & finite)[:, None], points, 0.0)
        coord = points[:, :3]
        if self.box is not None:
            coord = torch.minimum(torch.maximum(coord, self.box[:3]), self.box[3:])
        # float64, as in training: at 80 m a float32 quotient is only good to 1e-4 voxels
        voxel = (coord.double() / self.size).floor()
        low = torch.where(real[:, None], voxel, torch.inf).amin(0)
        grid = torch.where(real[:, None], voxel - low, 0.0)
        extent = grid.amax().view(1) + 1
        grid = grid.clamp(max=MAX_VOXELS - 1).long()
        key = (grid[:, 0] << 2 * _BITS) + (grid[:, 1] << _BITS) + grid[:, 2]
        key, order = torch.where(real, key, torch.iinfo(torch.int64).max).sort(stable=True)
        first = torch.cat([torch.ones_like(real[:1]), key[1:] != key[:-1]]) & real
        rank = first.long().cumsum(0) - 1
        voxels = first.sum().view(1)
        room = self.program.capacities[0]
        # one row more than needed: where points go that are not the first of a voxel, or that have no room
        target = torch.where(first, rank, room).clamp(max=room)
        chosen = order.new_zeros(room + 1).scatter(0, target, order)[:room]
        feat = torch.cat([coord, points[:, 3:]], 1).index_select(0, chosen).index_select(1, self.columns)
        logits, counts, bad = self.program.run(grid.index_select(0, chosen), feat, voxels)
        labels = logits.argmax(1).index_select(0, rank.clamp(0, room - 1))
        inverse = torch.empty_like(order).scatter(0, order, labels)
        wrong = self._wrong_strengths(points[:, 3], real & finite)
        numbers = [counts, (real & ~finite).sum().view(1), wrong, extent.clamp(max=2.0**40).long(), bad]
        return inverse, torch.cat([*numbers, self.program._rooms(count)])

    def _wrong_strengths(self, strength: Tensor, real: Tensor) -> Tensor:
        if self.strength is None:
            return torch.zeros(1, dtype=torch.int64, device=real.device)
        low, high = self.strength
        return (real & ((strength < low) | (strength > high))).sum().view(1)


def compile_programs(graph: Graph, card: Mapping[str, Any], folder: Path, capacities: list[int]) -> dict[str, Any]:
    """Compile the programs of all capacities into a folder.

    Args:
        graph: the network.
        card: says voxels and features.
        folder: where the files go.
        capacities: points.

    Returns:
        Their entry in the card.

    Raises:
        ConfigError: a capacity is out of range, or the compiler fails.
    """
    check_integers("--capacities", capacities, low=256)
    where, names, rooms = get_device(), [], []
    for points in sorted(set(capacities)):
        rows = level_capacities(points, graph.strides)
        program = PointProgram(graph, rows, card["voxels"], card["features"])
        inputs = torch.zeros(points, 4), torch.ones(1, dtype=torch.int64)
        names.append(_compile(program, inputs, folder / f"points_{points}.pt2", where))
        voxels = VoxelProgram(graph, rows)
        grid, feat = torch.zeros(rows[0], 3, dtype=torch.int64), torch.zeros(rows[0], graph.in_channels)
        names.append(_compile(voxels, (grid, feat, inputs[1]), folder / f"voxels_{points}.pt2", where))
        rooms.append([points, *rows])
    version = torch.__version__.split("+")[0]
    return {"files": names, "device": where.type, "input": ["points", "voxels"], "capacities": rooms, "torch": version}


def traced(program: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The program as ``torch.export`` sees it; what is cached on first use is made before, or stand-ins would be."""
    rows = torch.zeros(1, 3, dtype=torch.int64, device=inputs[0].device)
    octree_keys(rows, rows.new_ones(1).int(), rows.new_zeros(1), ORDERS)
    with torch.no_grad():
        return torch.export.export(program, inputs)


def _compile(program: nn.Module, inputs: tuple[Tensor, ...], path: Path, where: torch.device) -> str:
    start = time.perf_counter()
    program = program.eval().to(where)
    try:
        exported = traced(program, tuple(tensor.to(where) for tensor in inputs))
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(exported, package_path=str(path))
    except Exception as error:  # compilers fail in ways of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"{path.name} cannot be compiled (is there a C++ compiler, g++?): {lines[0][:300]}"
        ) from error
    logger.info("%s: compiled in %.0f s, %.1f MB", path.name, time.perf_counter() - start, path.stat().st_size / 1e6)
    return path.name


Program = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""What ``points_<capacity>.pt2`` is when it is loaded: points and count -> labels and report."""


def load_programs(folder: Path, entry: Mapping[str, Any]) -> list[tuple[int, Program]]:
    """The programs from points to labels, with their capacities, the smallest first.

    Args:
        folder: what ``export`` wrote; its files have been verified.
        entry: ``programs.pt2`` of its card.
    """
    points = [rooms[0] for rooms in entry["capacities"]]
    return [(n, torch._inductor.aoti_load_package(str(folder / f"points_{n}.pt2"))) for n in points]


def label_points(programs: Sequence[tuple[int, Program]], points: np.ndarray) -> np.ndarray:
    """Label a scan with the first program that has room for it.

    Args:
        programs: of :func:`load_programs`.
        points: (N, 4) float32 x, y, z [m], strength.

    Returns:
        (N,) int64 classes.

    Raises:
        DataError: the scan fits into none of the programs, or its points or scores are not what they must be.
    """
    where = get_device()
    for capacity, program in programs:
        if len(points) > capacity:
            continue
        padded = torch.zeros(capacity, 4)
        padded[: len(points)] = torch.from_numpy(points)
        labels, report = program(padded.to(where), torch.tensor([len(points)]).to(where))
        numbers = report.tolist()
        levels = (len(numbers) - len(REPORT)) // 2
        bad, strengths, extent, scores = numbers[levels : levels + len(REPORT)]
        if bad or strengths:
            raise DataError(f"{bad} points are not finite, {strengths} have a strength outside the range of training")
        if extent > MAX_VOXELS:
            raise DataError(
                f"the points span {extent} voxels, at most {MAX_VOXELS} are allowed: leave out far outliers"
            )
        if any(n > room for n, room in zip(numbers[:levels], numbers[-levels:], strict=True)):
            continue
        if scores:
            raise DataError(f"the scores of {scores} voxels are not finite")
        return labels[: len(points)].cpu().numpy()
    raise DataError(
        f"{len(points)} points fit into none of the programs, for {', '.join(str(n) for n, _ in programs)} points: "
        "export a larger one with --capacities"
    )
