"""What the code published with arXiv 2505.08101 computes as a diagram, for comparison only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pointcept.topology.diagrams import Diagram
from pointcept.topology.mst import sparse_spanning_forest


def published_diagram(x: Tensor, *, max_edges: int = 200, quantile: float = 0.9, factor: float = 3.0) -> Diagram:
    """The truncated diagram of the published Vietoris-Rips class: H0 over few short edges, no H1.

    Kept on purpose: squared lengths stand for lengths; an edge enters if its *squared* length is at most
    ``factor`` times the ``quantile`` of the plain distances, so that a cloud whose distances exceed about 3 has
    none; of these only the ``max_edges`` shortest are used. Left out: the published H1, one point made of the
    last kept edge, without gradient. Use :func:`persistence` for anything but comparisons.

    Args:
        x: (N, C) points, N >= 1.
        max_edges: how many edges are kept.
        quantile: of the distances, in (0, 1].
        factor: times that quantile.

    Returns:
        dimension 0: (K, 2) zeros and squared lengths with gradient, K <= N - 1; dimension 1: empty. If K is
        0, a loss on the diagram is 0 and has no gradient.
    """
    n = len(x)
    u, v = torch.triu_indices(n, n, 1, device=x.device)
    with torch.no_grad():
        d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")[u, v]
        edges = torch.stack([u, v], dim=1)[:0]
        if len(d):
            # kthvalue instead of quantile: the latter refuses more than 2**24 values.
            cap = factor * d.kthvalue(max(1, math.ceil(quantile * len(d)))).values
            order = d.sort(stable=True).indices[:max_edges]
            order = order[d[order].square() <= cap]
            edges = torch.stack([u[order], v[order]], dim=1)
            edges = edges[sparse_spanning_forest(n, edges, d[order])]
    deaths = (x[edges[:, 0]] - x[edges[:, 1]]).square().sum(dim=1)
    h0 = torch.stack([torch.zeros_like(deaths), deaths], dim=1)
    return Diagram({0: h0, 1: h0[:0].detach()}, {0: edges})
