"""What the code published with arXiv 2505.08101 computes as diagrams and as their distance, for comparison only.

Read from ``custom_vectorips.py`` and the training script of the authors (github.com/HySonLab/PointDistill and
github.com/hailuu684/PTv3-distill) and written anew. Use :func:`persistence` and :func:`chamfer` for anything else.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pointcept.topology.diagrams import Diagram
from pointcept.topology.distances import chamfer
from pointcept.topology.mst import exact_products, sparse_spanning_forest
from pointcept.topology.subsample import random_points

_SAMPLE = 1000  # points whose distances give the cap
_QUANTILE, _FACTOR = 0.9, 3.0
_ROWS = 10_000  # of the distance matrix, at a time
_TIE = 1e-6  # squared lengths this close to the first of a group enter together
_LAST, _SHORTEST = 0.1, 0.05  # persistence of a loop that nothing follows, and what a loop must exceed
_MOST_LOOPS = 100


def published_edge_count(n: int) -> int:
    """How many of the shortest edges of ``n`` points are used: max(1000, min(5 % of all pairs, 2 n, 100 000))."""
    return max(1000, min(int(0.05 * (n * (n - 1) / 2)), 2 * n, 100_000))


def published_diagram(x: Tensor, *, max_edges: int | None = None, generator: torch.Generator | None = None) -> Diagram:
    """The truncated diagram of the published Vietoris-Rips class, as it is configured in the published training.

    Squared lengths stand for lengths. An edge enters if its *squared* length is at most 3 times the 0.9 quantile of
    the plain distances among 1000 random points, so that a cloud whose distances exceed about 3 has none; of these
    the ``max_edges`` shortest are used. Dimension 0 holds the squared lengths above 0 of their spanning forest.
    Dimension 1 holds at most 100 points, one for each other edge after which the next group of edges is more than
    0.05 longer: born at that edge, dead at the next group (0.1 later if it is the last), both times
    sigmoid(100 (death - birth - 0.05)).

    Args:
        x: (N, C) finite points, N >= 0.
        max_edges: how many edges are used, by default :func:`published_edge_count`.
        generator: draws the 1000 points, where there are more; None draws the same ones every time.

    Returns:
        dimension 0: (K, 2) zeros and squared lengths with gradient, K <= N - 1; dimension 1: (L, 2) without gradient.
    """
    if len(x) < 2:
        empty = x.new_zeros(0, 2)
        return Diagram({0: empty, 1: empty}, {0: x.new_zeros(0, 2, dtype=torch.int64)})
    with exact_products(x.device, x.dtype):
        count = published_edge_count(len(x)) if max_edges is None else max_edges
        edges, square = _shortest_edges(x, _cap(x, generator), count)
        in_forest = sparse_spanning_forest(len(x), edges, square)
        loops = torch.ones_like(square, dtype=torch.bool).index_fill_(0, in_forest, False)
        h1 = _loops(square.cpu().numpy(), loops.cpu().numpy())
        in_forest = in_forest[square[in_forest] > 0]
        edges, square = edges[in_forest], square[in_forest]
    deaths = (x[edges[:, 0]] - x[edges[:, 1]]).square().sum(dim=1)
    deaths = deaths + (square - deaths).detach()  # the published value to its last bit, and its gradient
    h0 = torch.stack([torch.zeros_like(deaths), deaths], dim=1)
    return Diagram({0: h0, 1: torch.from_numpy(h1).to(x)}, {0: edges})


def published_distance(a: Diagram, b: Diagram) -> Tensor:
    """The published L_topo of two diagrams, a scalar: Chamfer over the points of all dimensions together.

    If one of the diagrams is empty it is 0 and has no gradient.
    """
    ours, theirs = (torch.cat([diagram[d] for d in diagram.dims]) for diagram in (a, b))
    if len(ours) == 0 or len(theirs) == 0:
        return ours.new_zeros(())
    dtype = torch.promote_types(ours.dtype, theirs.dtype)
    return chamfer(ours.to(dtype), theirs.to(dtype))


def _cap(x: Tensor, generator: torch.Generator | None) -> float:
    """3 times the 0.9 quantile of the distances among 1000 random points."""
    if len(x) > _SAMPLE:
        x = x[random_points(len(x), _SAMPLE, generator).to(x.device)]
    u, v = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return torch.cdist(x, x)[u, v].quantile(_QUANTILE).item() * _FACTOR


def _shortest_edges(x: Tensor, cap: float, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` shortest edges with squared lengths <= ``cap``, ascending: (E, 2) rows of ``x``, (E,).

    Beyond 10 000 points the published code cuts off the diagonal of each block of rows by the block's own row numbers,
    so that edges occur twice and points meet themselves; so it is here.
    """
    norm = x.square().sum(dim=1)
    rows, columns, squares = [], [], []
    for start in range(0, len(x), _ROWS):
        block = x[start : start + _ROWS]
        square = (norm[start : start + _ROWS, None] + norm[None] - 2.0 * (block @ x.T)).clamp_(min=0)
        kept = (square <= cap).triu_(1)
        short = square[kept]
        if len(short) > count:
            kept &= square <= short.kthvalue(count).values
        row, column = kept.nonzero(as_tuple=True)
        squares.append(square[row, column])
        rows.append(row + start)
        columns.append(column)
    edges = torch.stack([torch.cat(rows), torch.cat(columns)], dim=1)
    values, order = torch.cat(squares).sort(stable=True)
    return edges[order[:count]], values[:count]


def _loops(square: np.ndarray, loops: np.ndarray) -> np.ndarray:
    """The points of dimension 1, (L, 2).

    Args:
        square: (E,) squared lengths of the edges used, ascending.
        loops: (E,) bool, edges that are not in their spanning forest.
    """
    points: list[tuple[float, float]] = []
    tie, last, shortest = (square.dtype.type(value) for value in (_TIE, _LAST, _SHORTEST))
    # No group reaches over a gap as large as the tie, and a loop that counts ends before a much larger one.
    breaks = np.flatnonzero(np.diff(square) >= tie) + 1
    ends = breaks[square[breaks] - square[breaks - 1] > shortest - 2 * tie].tolist()
    for end in [*ends, len(square)] if len(square) else []:
        first = int(breaks[breaks < end].max(initial=0))
        while True:
            near = square[first : np.searchsorted(square[:end], square[first] + 2 * tie, "right")]
            stop = first + int(np.count_nonzero(near - square[first] < tie))
            if stop == end:
                break
            first = stop
        for birth in square[first:end][loops[first:end]]:
            death = square[end] if end < len(square) else birth + last
            if death > birth + shortest and len(points) < _MOST_LOOPS:
                points.append((birth, death))
    found = np.array(points, square.dtype).reshape(-1, 2)
    weight = 1 / (1 + np.exp(-100 * (found[:, 1:] - found[:, :1] - shortest)))
    return found * weight.astype(square.dtype)
