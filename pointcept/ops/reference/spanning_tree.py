"""Minimum spanning trees by Boruvka's algorithm, and greedy farthest points, from a matrix of weights.

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
from collections.abc import Callable

import torch
from torch import Tensor

# Elements handled by one masked minimum: cache-sized on a CPU, launch-bound elsewhere.
_SCAN_ELEMENTS = {"cpu": 2**19}
_SCAN_ELEMENTS_ACCELERATOR = 2**26
NO_EDGE = torch.iinfo(torch.int64).max
# (component of every point (N,), rows (R,)) -> for each row the weight of its nearest foreign point, and the point
Search = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def spanning_tree(matrix: Tensor) -> Tensor:
    """The minimum spanning tree of a complete graph; ties go to the edge with the smaller end points.

    Args:
        matrix: (N, N) weights >= 0, bitwise symmetric, N >= 2.

    Returns:
        (N-1, 2) int64 end points, the smaller one first.
    """
    return boruvka(len(matrix), matrix.device, lambda comp, rows: _nearest_foreign(matrix, comp, rows))


def _nearest_foreign(matrix: Tensor, comp: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    n = len(matrix)
    chunk = max(1, _SCAN_ELEMENTS.get(matrix.device.type, _SCAN_ELEMENTS_ACCELERATOR) // n)
    every = len(rows) == n
    inf = torch.full((), math.inf, dtype=matrix.dtype, device=matrix.device)
    found = []
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        w = matrix[start : start + chunk] if every else matrix[part]
        found.append(torch.where(comp[part, None] == comp, inf, w).min(dim=1))
    if not found:
        return matrix.new_empty(0), rows
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def smallest_per_component(comp: Tensor, weight: Tensor, key: Tensor, n: int) -> Tensor:
    """The key of the lightest edge of each component label, ties to the smallest key: (n,) int64."""
    lightest = torch.full((n,), math.inf, dtype=weight.dtype, device=weight.device)
    lightest = lightest.scatter_reduce(0, comp, weight, "amin")
    key = torch.where((weight == lightest[comp]) & (weight < math.inf), key, NO_EDGE)
    return torch.full((n,), NO_EDGE, dtype=torch.int64, device=key.device).scatter_reduce(0, comp, key, "amin")


def merge(comp: Tensor, chosen: Tensor, u: Tensor, v: Tensor, rounds_left: int) -> tuple[Tensor, Tensor]:
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


def boruvka(n: int, device: torch.device, search: Search) -> Tensor:
    """The minimum spanning tree of ``n`` points whose weights ``search`` knows; see :func:`spanning_tree`."""
    point = torch.arange(n, device=device)
    comp = point
    tree = torch.full((n,), NO_EDGE, dtype=torch.int64, device=device)
    near_w, near = search(comp, point)
    rounds = math.ceil(math.log2(n))
    for done in range(1, rounds + 1):
        # Ends of an edge agree on its id, so equal weights are broken in the same way from both sides.
        edge = torch.minimum(point, near) * n + torch.maximum(point, near)
        known = torch.where(comp[near] != comp, near_w, math.inf)
        best = smallest_per_component(comp, known, edge, n)
        chosen = best != NO_EDGE
        best = torch.where(chosen, best, 0)
        comp, lost = merge(comp, chosen, best // n, best % n, rounds - done + 1)
        tree = torch.where(lost, best, tree)
        rows = _rows_to_search(comp, near_w, near) if done < rounds else None
        if rows is None:
            break
        found_w, found = search(comp, rows)
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


def farthest_rows(matrix: Tensor, first: Tensor, count: int) -> Tensor:
    """Greedy farthest points: each one has the largest weight to the nearest of those before it (Gonzalez 1985).

    Args:
        matrix: (N, N) symmetric weights >= 0 that grow with the distance.
        first: (1,) int64 the point to start with.
        count: how many distinct points, 1 to N.

    Returns:
        (count,) int64 in order of choice; ties go to the smallest index.
    """
    gap = torch.full_like(matrix[0], math.inf)
    current, chosen = first, [first]
    for _ in range(count - 1):
        gap = torch.minimum(gap, matrix.index_select(0, current).squeeze(0))
        gap.index_fill_(0, current, -math.inf)  # duplicates of a chosen row may follow, the row itself not
        current = gap.argmax(keepdim=True)
        chosen.append(current)
    return torch.cat(chosen)
