"""RTD-Lite: compare two clouds with corresponding rows through their minimum spanning trees.

Not in arXiv 2505.08101. A diagram forgets which points a component consists of; distillation knows the
correspondence of teacher and student rows, and this divergence uses it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.topology.mst import edge_lengths, minimum_spanning_tree, sparse_spanning_forest


def rtd_lite(x: Tensor, y: Tensor, *, tree_x: Tensor | None = None, tree_y: Tensor | None = None) -> Tensor:
    """Symmetric RTD-Lite sum of two clouds with corresponding rows, divided by the number of edges: a scalar.

    Tulchinskii et al., AISTATS 2025 (arXiv 2503.11910): with T(A), T(B) the total lengths of the minimum
    spanning trees of both distance graphs and T(C) that of C = min(A, B), the intervals sum up to
    (T(A) + T(B)) / 2 - T(C). It is zero if and only if both clouds merge the same points at the same lengths.
    The tree of C lies in the union of the other two, so only 2 (N - 1) edges are looked at. The paper divides
    A and B by their 0.9-quantile; here the caller normalises (:func:`pointcept.topology.normalise`).

    Args:
        x: (N, C) cloud, e.g. teacher features.
        y: (N, D) cloud, row i corresponding to row i of ``x``.
        tree_x, tree_y: (N-1, 2) their spanning trees, if already known (``diagram.edges[0]``).
    """
    if len(x) != len(y):
        raise ValueError(f"RTD-Lite needs corresponding rows, got {len(x)} and {len(y)}")
    tree_x = minimum_spanning_tree(x) if tree_x is None else tree_x
    tree_y = minimum_spanning_tree(y) if tree_y is None else tree_y
    edges = torch.cat([tree_x, tree_y])
    in_x, in_y = edge_lengths(x, edges), edge_lengths(y, edges)
    shorter = torch.minimum(in_x, in_y)
    common = sparse_spanning_forest(len(x), edges, shorter.detach())
    n = len(tree_x)
    return (0.5 * (in_x[:n].sum() + in_y[n:].sum()) - shorter[common].sum()) / max(n, 1)
