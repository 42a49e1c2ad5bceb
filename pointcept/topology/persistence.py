"""Persistence diagrams of point clouds with gradient: exact H0 for all points, exact H1 and H2 on a subsample.

    diagram = persistence(features, dims=(0, 1), max_points=256)
    loss = diagram.deaths(0).sum()

``submit_persistence`` returns before H1 is known, so that other work can be queued; ``result()`` waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from pointcept.topology.diagrams import Diagram
from pointcept.topology.mst import DEFAULT_MEMORY_LIMIT, EdgeWeights, edge_lengths
from pointcept.topology.rips import CriticalEdges, pairwise_distances, submit_rips
from pointcept.topology.subsample import subsample_rows


class PendingDiagram:
    """A diagram whose H0 is queued on the device and whose higher dimensions run in a thread.

    Attributes:
        index: rows (n,) int64 used above dimension 0, None for all: hand it to the call for the student, so
            that both diagrams describe the same points.
    """

    def __init__(
        self, x: Tensor, index: Tensor | None, job: Future[CriticalEdges] | None, dims: tuple[int, ...]
    ) -> None:
        self.index = index
        self._x, self._job, self._dims = x, job, dims
        self._points: dict[int, Tensor] = {}
        self._edges: dict[int, Tensor] = {}

    def add_h0(self, weights: EdgeWeights) -> None:
        """Find the minimum spanning tree and the lengths of its edges on the device of the cloud."""
        tree = weights.spanning_tree()
        deaths = edge_lengths(self._x, tree)
        self._edges[0] = tree
        self._points[0] = torch.stack([torch.zeros_like(deaths), deaths], dim=1)

    def result(self) -> Diagram:
        """Wait for the engine and return the diagram; gradients lead to the cloud that was submitted."""
        if self._job is not None:
            found, self._job = self._job.result(), None
            for dim in self._dims:
                if dim > 0:
                    self._add_higher(dim, torch.from_numpy(found[dim]).to(self._x.device))
        return Diagram(self._points, self._edges, self.index)

    def _add_higher(self, dim: int, local: Tensor) -> None:
        edges = local if self.index is None else self.index[local]
        with torch.autocast(self._x.device.type, enabled=False):
            lengths = edge_lengths(self._x, edges.reshape(-1, 2))
        self._edges[dim] = edges
        self._points[dim] = lengths.reshape(-1, 2)


def _check_cloud(x: Tensor, name: str = "x") -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor (N, C), got {tuple(x.shape)} of {x.dtype}")
    if len(x) == 0:
        raise ValueError(f"{name} has no points: the persistence of an empty cloud is not defined")
    bad = int((~torch.isfinite(x.detach())).any(dim=1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(x)} rows of {name} hold NaN or infinite values")


def _check_dims(dims: Sequence[int]) -> tuple[int, ...]:
    unique = tuple(sorted(set(dims)))
    if not unique or not set(unique) <= {0, 1, 2}:
        raise ValueError(f"dims must be one or more of 0, 1, 2, got {tuple(dims)}")
    return unique


def _submit(
    x: Tensor,
    dims: tuple[int, ...],
    max_points: int | None,
    subsample: str,
    generator: torch.Generator | None,
    index: Tensor | None,
    engine: str,
    precision: str,
    memory_limit: int,
) -> PendingDiagram:
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        weights = EdgeWeights(x, precision, memory_limit) if dims[0] == 0 else None
        job = None
        if dims[-1] > 0:
            if index is None:
                index = subsample_rows(x, max_points, subsample, generator, weights)
            rows = x.detach() if index is None else x.detach()[index]
            # The engine starts first: it works while the device searches the spanning tree.
            job = submit_rips(pairwise_distances(rows), dims[-1], engine)
        pending = PendingDiagram(x, index, job, dims)
        if weights is not None:
            pending.add_h0(weights)
    return pending


def submit_persistence(
    x: Tensor,
    dims: Sequence[int] = (0, 1),
    *,
    max_points: int | None = 256,
    subsample: str = "farthest",
    generator: torch.Generator | None = None,
    index: Tensor | None = None,
    engine: str = "redzed",
    precision: str = "float64",
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
) -> PendingDiagram:
    """Start the persistence diagram of one cloud.

    Args:
        x: (N, C) finite points, N >= 1; float16 and bfloat16 are raised to float32.
        dims: homology dimensions, of 0, 1, 2. H0 uses all points.
        max_points: the dimensions above 0 use at most this many points, None for all.
        subsample: how they are chosen, ``"farthest"`` or ``"random"``.
        generator: randomness of the choice, advanced by the call; None makes it deterministic. The global
            random state is never used.
        index: (n,) int64 rows to use instead of choosing any.
        engine: ``"redzed"`` or ``"gudhi"``.
        precision: of the inner products that order the H0 edges, see :func:`minimum_spanning_tree`.
        memory_limit: bytes for the (N, N) matrix of H0, beyond which it is recomputed in blocks.

    Raises:
        ValueError: for an empty cloud, values that are not finite, or an unknown option.
    """
    _check_cloud(x)
    return _submit(x, _check_dims(dims), max_points, subsample, generator, index, engine, precision, memory_limit)


def persistence(x: Tensor, dims: Sequence[int] = (0, 1), **options: Any) -> Diagram:
    """The persistence diagram of one cloud ``x`` (N, C); arguments as for :func:`submit_persistence`."""
    return submit_persistence(x, dims, **options).result()


def split_clouds(x: Tensor, offset: Tensor) -> list[Tensor]:
    """Views (N_b, C) of the clouds of a batch ``x`` (N, C) with cumulative ends ``offset`` (B,).

    Raises:
        ValueError: if the ends do not rise to N or a cloud is empty.
    """
    ends = [0, *offset.tolist()]
    sizes = [b - a for a, b in itertools.pairwise(ends)]
    if ends[-1] != len(x) or not sizes or min(sizes) < 1:
        raise ValueError(f"offset must rise strictly to the {len(x)} rows of x, got ends {ends[1:]}")
    return list(x.split(sizes))


def submit_batch_persistence(
    x: Tensor,
    offset: Tensor,
    dims: Sequence[int] = (0, 1),
    *,
    index: Sequence[Tensor | None] | None = None,
    **options: Any,
) -> list[PendingDiagram]:
    """Start the diagrams of all clouds of a batch; they are independent of each other.

    Args:
        x: (N, C) points of all clouds.
        offset: (B,) cumulative ends of the clouds.
        dims: homology dimensions, of 0, 1, 2.
        index: for each cloud the rows, counted from its start, to use above dimension 0.
        options: the keyword arguments of :func:`submit_persistence`.
    """
    clouds = split_clouds(x, offset)
    rows = [None] * len(clouds) if index is None else list(index)
    if len(rows) != len(clouds):
        raise ValueError(f"index must name rows for each of the {len(clouds)} clouds, got {len(rows)} entries")
    return [submit_persistence(c, dims, index=i, **options) for c, i in zip(clouds, rows, strict=True)]


def batch_persistence(x: Tensor, offset: Tensor, dims: Sequence[int] = (0, 1), **options: Any) -> list[Diagram]:
    """Diagrams of all clouds of a batch; arguments as for :func:`submit_batch_persistence`."""
    return [pending.result() for pending in submit_batch_persistence(x, offset, dims, **options)]
