"""Euclidean minimum spanning trees on the device that holds the points: exact H0 persistence.

The H0 deaths of a Vietoris-Rips filtration are the edge lengths of the minimum spanning tree. The tree
is found without an autograd graph by Boruvka's algorithm; its N-1 lengths are then recomputed from the
coordinates, so that the gradient passes through N-1 differences and not through an (N, N) matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pointcept.ops import api as ops
from pointcept.ops.reference import spanning_tree as reference
from pointcept.ops.reference.spanning_tree import NO_EDGE, boruvka, merge, smallest_per_component

DEFAULT_MEMORY_LIMIT = 2 * 1024**3
_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
# Side of the square blocks in which weights are computed. It is fixed per device type, never derived from
# the memory limit: the same products in the same shapes give the same bits, stored or recomputed.
_BLOCK = {"cpu": 512}
_BLOCK_ACCELERATOR = 2048
# More points than this have edge ids beyond 32 bits, which the fused spanning tree packs them into.
_MOST_FUSED = 2**16 - 1


@contextmanager
def _full_float32_products(active: bool) -> Iterator[None]:
    """Forbid TF32 (and reduced CPU) products inside the block; the setting is process-wide, so it is put back."""
    if not active:
        yield
        return
    matmul = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer per-backend setting is in use and excludes the older one
        newer = matmul.fp32_precision
        matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = newer
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def exact_products(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """No graph, no autocasting and no TF32."""
    with (
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        _full_float32_products(precision is torch.float32),
    ):
        yield


class EdgeWeights:
    """The weights of all edges between the points of a cloud, for its spanning tree and its farthest points.

    They are the squared distances of the centred, rescaled points: symmetric to the last bit, computed in fixed
    blocks, and stored where they fit.

    Args:
        x, precision, memory_limit, block: as for :func:`minimum_spanning_tree`.

    Attributes:
        matrix: (N, N), or None if it is larger than the limit.
        square: (N,) squared distance of every point from the centre, on the same scale.
    """

    def __init__(
        self,
        x: Tensor,
        precision: str = "float64",
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        block: int | None = None,
    ) -> None:
        if precision not in _PRECISIONS:
            raise ValueError(f"precision must be one of {sorted(_PRECISIONS)}, got {precision!r}")
        self.precision = _PRECISIONS[precision]
        with exact_products(x.device, self.precision):
            self._measure(x.detach(), memory_limit, block)

    def _measure(self, x: Tensor, memory_limit: int, block: int | None) -> None:
        z = x.to(torch.float64)
        z = z - z.mean(dim=0)
        # The scale keeps squares away from overflow and underflow; the tree does not depend on it.
        scale = z.abs().amax().clamp_min(torch.finfo(torch.float64).tiny) if z.numel() else z.new_ones(())
        self.z = (z / scale).to(self.precision)
        self.square = self.z.square().sum(dim=1)
        self.n = len(x)
        self.dtype = torch.float64 if x.dtype == self.precision == torch.float64 else torch.float32
        self.device = x.device
        side = block or _BLOCK.get(x.device.type, _BLOCK_ACCELERATOR)
        self.blocks = [(start, min(start + side, self.n)) for start in range(0, self.n, side)]
        self.matrix: Tensor | None = None
        if self.n * self.n * self.dtype.itemsize <= memory_limit:
            self.matrix = self._store()

    def _of_block(self, i: int, j: int) -> Tensor:
        """Weights between the points of block ``i`` and those of block ``j >= i``."""
        (i0, i1), (j0, j1) = self.blocks[i], self.blocks[j]
        w = torch.addmm(self.square[None, j0:j1].expand(i1 - i0, -1), self.z[i0:i1], self.z[j0:j1].T, alpha=-2)
        w = w.add_(self.square[i0:i1, None]).clamp_min_(0)
        if i == j:  # a product of a matrix with its transpose is not bitwise symmetric on every device
            w = (w + w.T).mul_(0.5)
        return w.to(self.dtype)

    def _store(self) -> Tensor:
        matrix = torch.empty(self.n, self.n, dtype=self.dtype, device=self.device)
        for i, (i0, i1) in enumerate(self.blocks):
            for j in range(i, len(self.blocks)):
                j0, j1 = self.blocks[j]
                w = self._of_block(i, j)
                matrix[i0:i1, j0:j1] = w
                if i != j:
                    matrix[j0:j1, i0:i1] = w.T
        return matrix

    def spanning_tree(self) -> Tensor:
        """Edges (N-1, 2) int64 of the minimum spanning tree, smaller index first."""
        if self.n < 2:
            return torch.empty(0, 2, dtype=torch.int64, device=self.device)
        if self.matrix is None:
            with exact_products(self.device, self.precision):
                return boruvka(self.n, self.device, self._search)
        if self.n > _MOST_FUSED:
            return reference.spanning_tree(self.matrix)
        return ops.spanning_tree(self.matrix)

    def farthest(self, first: Tensor, count: int) -> Tensor | None:
        """``count`` farthest points from ``first`` (1,) on, see :func:`ops.farthest_rows`; None without a matrix."""
        return None if self.matrix is None else ops.farthest_rows(self.matrix, first, count)

    def _search(self, comp: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For each point in ``rows`` its nearest point in another component, ties to the smallest index.

        Returns:
            weights (R,), ``inf`` where there is no other component, and indices (R,) int64.
        """
        if len(rows) == 0:
            return self.square.new_empty(0, dtype=self.dtype), rows
        wanted = torch.zeros(self.n, dtype=torch.bool, device=self.device)
        wanted[rows] = True
        best = torch.full((self.n,), math.inf, dtype=self.dtype, device=self.device)
        index = torch.full((self.n,), self.n, dtype=torch.int64, device=self.device)
        needed = torch.stack([wanted[a:b].any() for a, b in self.blocks]).tolist()

        def improve(w: Tensor, to: tuple[int, int], offset: int) -> None:
            value, at = w.min(dim=1)
            at = at + offset
            old, old_at = best[to[0] : to[1]], index[to[0] : to[1]]
            better = (value < old) | ((value == old) & (at < old_at))
            best[to[0] : to[1]] = torch.where(better, value, old)
            index[to[0] : to[1]] = torch.where(better, at, old_at)

        for i, (i0, i1) in enumerate(self.blocks):
            for j in range(i, len(self.blocks)):
                if not (needed[i] or needed[j]):
                    continue
                j0, j1 = self.blocks[j]
                w = self._of_block(i, j).masked_fill_(comp[i0:i1, None] == comp[None, j0:j1], math.inf)
                if needed[i]:
                    improve(w, (i0, i1), j0)
                if needed[j] and i != j:
                    improve(w.T, (j0, j1), i0)
        return best[rows], index[rows].clamp_max_(self.n - 1)


def minimum_spanning_tree(
    x: Tensor, *, precision: str = "float64", memory_limit: int = DEFAULT_MEMORY_LIMIT, block: int | None = None
) -> Tensor:
    """Edges (N-1, 2) int64, smaller index first, of the Euclidean minimum spanning tree of ``x`` (N, C).

    Args:
        x: (N, C) finite float32 or float64 points, N >= 1; no gradient is recorded.
        precision: in which the inner products are taken. ``"float64"`` finds the exact tree of float32 points
            and costs nothing extra where float64 products run at full rate (CPUs within a factor of two,
            A100, H100, H200). ``"float32"`` (never TF32) is for devices where they do not; it resolves
            distances down to about 5e-4 of the radius of the cloud.
        memory_limit: bytes that the (N, N) matrix may take; above it the weights are recomputed block by
            block in every round. Both ways give the same edges.
        block: side of these blocks; the default suits the device.
    """
    return EdgeWeights(x, precision, memory_limit, block).spanning_tree()


def sparse_spanning_forest(n: int, edges: Tensor, weight: Tensor) -> Tensor:
    """Positions in ``edges`` of a minimum spanning forest, ascending, int64.

    Args:
        n: number of points.
        edges: (E, 2) int64 end points, parallel edges allowed.
        weight: (E,) finite weights; ties go to the edge that comes first.
    """
    point = torch.arange(n, device=edges.device)
    comp, key = point, torch.arange(len(edges), device=edges.device)
    # One more entry takes the writes of the labels that lost nothing, which spares a host synchronisation.
    in_tree = torch.zeros(len(edges) + 1, dtype=torch.bool, device=edges.device)
    if len(edges) == 0:
        return key
    u, v = edges[:, 0], edges[:, 1]
    rounds = max(1, math.ceil(math.log2(max(n, 2))))
    for done in range(1, rounds + 1):
        ends = torch.cat([comp[u], comp[v]])
        outside = torch.where(comp[u] != comp[v], weight.detach(), math.inf)
        best = smallest_per_component(ends, outside.repeat(2), key.repeat(2), n)
        chosen = best != NO_EDGE
        best = torch.where(chosen, best, 0)
        comp, lost = merge(comp, chosen, u[best], v[best], rounds - done + 1)
        in_tree.index_fill_(0, torch.where(lost, best, len(edges)), True)
    return in_tree[:-1].nonzero().squeeze(1)


def edge_lengths(x: Tensor, edges: Tensor) -> Tensor:
    """Euclidean lengths (E,) of ``edges`` (E, 2) between rows of ``x`` (N, C), differentiable.

    The norm's subgradient at a zero-length edge is zero, so duplicates give finite gradients.
    """
    return torch.linalg.vector_norm(x[edges[:, 0]] - x[edges[:, 1]], dim=1)
