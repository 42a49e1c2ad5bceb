"""Euclidean minimum spanning trees on the device that holds the points: exact H0 persistence.

The H0 deaths of a Vietoris-Rips filtration are the edge lengths of the minimum spanning tree. The tree
is found without an autograd graph by Boruvka's algorithm; its N-1 lengths are then recomputed from the
coordinates, so that the gradient passes through N-1 differences and not through an (N, N) matrix.

Three properties make the vectorised algorithm correct and quick:

* Edges are ordered by (weight, edge id). The order is strict, so the edges chosen by the components of one
  round form trees, and the only cycles of the "chosen neighbour" map have length two.
* The weight of (i, j) is computed once and mirrored, so both ends see the same bits.
* The nearest foreign neighbour of a point only moves away while components grow. A remembered one that is
  still foreign stays right, and one that is not is a lower bound; only the points that can still beat their
  component's best known edge are searched again (a few rounds' worth of work instead of log2 N).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

DEFAULT_MEMORY_LIMIT = 2 * 1024**3
_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
# Side of the square blocks in which weights are computed. It is fixed per device type, never derived from
# the memory limit: the same products in the same shapes give the same bits, stored or recomputed.
_BLOCK = {"cpu": 512}
_BLOCK_ACCELERATOR = 2048
# Elements handled by one masked minimum: cache-sized on a CPU, launch-bound elsewhere.
_SCAN_ELEMENTS = {"cpu": 2**19}
_SCAN_ELEMENTS_ACCELERATOR = 2**26
_NO_EDGE = torch.iinfo(torch.int64).max


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


class _Weights:
    """Squared distances of a centred, rescaled cloud: symmetric, in fixed blocks, stored if they fit."""

    def __init__(self, x: Tensor, precision: str, memory_limit: int, block: int | None = None) -> None:
        precision_dtype = _PRECISIONS[precision]
        z = x.to(torch.float64)
        z = z - z.mean(dim=0)
        # The scale keeps squares away from overflow and underflow; the tree does not depend on it.
        scale = z.abs().amax().clamp_min(torch.finfo(torch.float64).tiny) if z.numel() else z.new_ones(())
        self.z = (z / scale).to(precision_dtype)
        self.square = self.z.square().sum(dim=1)
        self.n = len(x)
        self.dtype = torch.float64 if x.dtype == precision_dtype == torch.float64 else torch.float32
        self.device = x.device
        side = block or _BLOCK.get(x.device.type, _BLOCK_ACCELERATOR)
        self.blocks = [(start, min(start + side, self.n)) for start in range(0, self.n, side)]
        self.matrix: Tensor | None = None
        if self.n * self.n * self.dtype.itemsize <= memory_limit:
            self.matrix = self._store()

    def block(self, i: int, j: int) -> Tensor:
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
                w = self.block(i, j)
                matrix[i0:i1, j0:j1] = w
                if i != j:
                    matrix[j0:j1, i0:i1] = w.T
        return matrix

    def nearest_foreign(self, comp: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For each point in ``rows`` its nearest point in another component, ties to the smallest index.

        Returns:
            weights (R,), ``inf`` where there is no other component, and indices (R,) int64.
        """
        if len(rows) == 0:
            return self.square.new_empty(0, dtype=self.dtype), rows
        if self.matrix is None:
            return self._search_blocks(comp, rows)
        limit = _SCAN_ELEMENTS.get(self.device.type, _SCAN_ELEMENTS_ACCELERATOR)
        chunk = max(1, limit // self.n)
        every = len(rows) == self.n
        inf = torch.full((), math.inf, dtype=self.dtype, device=self.device)
        found = []
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            w = self.matrix[start : start + chunk] if every else self.matrix[part]
            found.append(torch.where(comp[part, None] == comp, inf, w).min(dim=1))
        return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

    def _search_blocks(self, comp: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
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
                w = self.block(i, j).masked_fill_(comp[i0:i1, None] == comp[None, j0:j1], math.inf)
                if needed[i]:
                    improve(w, (i0, i1), j0)
                if needed[j] and i != j:
                    improve(w.T, (j0, j1), i0)
        return best[rows], index[rows].clamp_max_(self.n - 1)


def _smallest_per_component(comp: Tensor, weight: Tensor, key: Tensor, n: int) -> Tensor:
    """The key of the lightest edge of each component label, ties to the smallest key: (n,) int64."""
    lightest = torch.full((n,), math.inf, dtype=weight.dtype, device=weight.device)
    lightest = lightest.scatter_reduce(0, comp, weight, "amin")
    key = torch.where((weight == lightest[comp]) & (weight < math.inf), key, _NO_EDGE)
    return torch.full((n,), _NO_EDGE, dtype=torch.int64, device=key.device).scatter_reduce(0, comp, key, "amin")


def _merge(comp: Tensor, chosen: Tensor, u: Tensor, v: Tensor, rounds_left: int) -> tuple[Tensor, Tensor]:
    """Join the components along their chosen edges.

    Args:
        comp: (N,) component label of each point; a label is the index of one of its points.
        chosen: (N,) whether the label exists and has chosen an edge.
        u, v: (N,) end points of the chosen edge, anything where there is none.
        rounds_left: bound on log2 of the number of components, which bounds the length of the chains.

    Returns:
        the new labels (N,), and for each label whether it lost its name (its edge then belongs to the tree).
    """
    label = torch.arange(len(comp), device=comp.device)
    parent = torch.where(chosen, comp[u] + comp[v] - label, label)
    # Two components that chose the same edge point at each other: the smaller label becomes the root.
    parent = torch.where((parent[parent] == label) & (label < parent), label, parent)
    lost = parent != label
    for _ in range(rounds_left):
        parent = parent[parent]
    return parent[comp], lost


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
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(_PRECISIONS)}, got {precision!r}")
    n = len(x)
    if n < 2:
        return torch.empty(0, 2, dtype=torch.int64, device=x.device)
    with (
        torch.no_grad(),
        torch.autocast(x.device.type, enabled=False),
        _full_float32_products(precision == "float32"),
    ):
        return _boruvka(_Weights(x.detach(), precision, memory_limit, block))


def _boruvka(weights: _Weights) -> Tensor:
    n, device = weights.n, weights.device
    point = torch.arange(n, device=device)
    comp = point
    tree = torch.full((n,), _NO_EDGE, dtype=torch.int64, device=device)
    near_w, near = weights.nearest_foreign(comp, point)
    rounds = math.ceil(math.log2(n))
    for done in range(1, rounds + 1):
        # Ends of an edge agree on its id, so equal weights are broken in the same way from both sides.
        edge = torch.minimum(point, near) * n + torch.maximum(point, near)
        known = torch.where(comp[near] != comp, near_w, math.inf)
        best = _smallest_per_component(comp, known, edge, n)
        chosen = best != _NO_EDGE
        best = torch.where(chosen, best, 0)
        comp, lost = _merge(comp, chosen, best // n, best % n, rounds - done + 1)
        tree = torch.where(lost, best, tree)
        rows = _rows_to_search(comp, near_w, near) if done < rounds else None
        if rows is None:
            break
        found_w, found = weights.nearest_foreign(comp, rows)
        near_w, near = near_w.index_copy(0, rows, found_w), near.index_copy(0, rows, found)
    # Each label lost its name once, together with one edge; only the last root kept it.
    keep = point[:-1] + (point[:-1] >= comp[0])
    edge = tree[keep]
    return torch.stack([edge // n, edge % n], dim=1)


def _rows_to_search(comp: Tensor, near_w: Tensor, near: Tensor) -> Tensor | None:
    """Points whose neighbour was swallowed and who may own their component's best edge; None: all is joined."""
    swallowed = comp[near] == comp
    known = torch.where(swallowed, math.inf, near_w)
    bound = torch.full_like(near_w, math.inf).scatter_reduce(0, comp, known, "amin")
    going_on = (comp != comp[0]).any()
    mask = swallowed & (near_w <= bound[comp]) & going_on
    # One more entry says that work is left, so that one transfer to the host answers both questions.
    rows = torch.cat([mask, going_on[None]]).nonzero().squeeze(1)
    return rows[:-1] if len(rows) else None


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
        best = _smallest_per_component(ends, outside.repeat(2), key.repeat(2), n)
        chosen = best != _NO_EDGE
        best = torch.where(chosen, best, 0)
        comp, lost = _merge(comp, chosen, u[best], v[best], rounds - done + 1)
        in_tree.index_fill_(0, torch.where(lost, best, len(edges)), True)
    return in_tree[:-1].nonzero().squeeze(1)


def edge_lengths(x: Tensor, edges: Tensor) -> Tensor:
    """Euclidean lengths (E,) of ``edges`` (E, 2) between rows of ``x`` (N, C), differentiable.

    The norm's subgradient at a zero-length edge is zero, so duplicates give finite gradients.
    """
    return torch.linalg.vector_norm(x[edges[:, 0]] - x[edges[:, 1]], dim=1)
