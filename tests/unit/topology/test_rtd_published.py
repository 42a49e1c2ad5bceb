from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.topology import edge_lengths, minimum_spanning_tree, persistence, published_diagram, rtd_lite
from pointcept.topology.mst import sparse_spanning_forest


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rtd_lite_equals_the_definition_on_the_full_graph():
    x, y = normal(1, 40, 5), normal(2, 40, 3)
    u, v = torch.triu_indices(40, 40, 1)
    edges = torch.stack([u, v], dim=1)
    smaller = torch.minimum(edge_lengths(x, edges), edge_lengths(y, edges))
    common = smaller[sparse_spanning_forest(40, edges, smaller)].sum()
    totals = [edge_lengths(t, minimum_spanning_tree(t)).sum() for t in (x, y)]
    expected = (0.5 * (totals[0] + totals[1]) - common) / 39
    assert rtd_lite(x, y).item() == pytest.approx(expected.item(), rel=1e-12)
    trees = {"tree_x": persistence(x, (0,)).edges[0], "tree_y": persistence(y, (0,)).edges[0]}
    assert rtd_lite(x, y, **trees).item() == rtd_lite(x, y).item() == pytest.approx(rtd_lite(y, x).item())


def test_rtd_lite_sees_the_correspondence_that_diagrams_forget():
    x = normal(3, 30, 2)
    assert rtd_lite(x, torch.nn.functional.pad(x, (0, 4))).item() == pytest.approx(0, abs=1e-14)
    assert rtd_lite(x, x.flip(0)).item() > 0.01


def test_rtd_lite_gradient_and_sizes():
    x, y = normal(4, 12, 3).requires_grad_(), normal(5, 12, 4).requires_grad_()
    assert torch.autograd.gradcheck(rtd_lite, (x, y))
    assert rtd_lite(x[:1], y[:1]).item() == 0
    with pytest.raises(ValueError, match="corresponding rows, got 12 and 11"):
        rtd_lite(x, y[:11])


def test_published_cap_empties_the_diagram_of_wide_features():
    diagram = published_diagram(normal(6, 100, 512))
    assert len(diagram[0]) == len(diagram[1]) == 0
    assert len(persistence(normal(6, 100, 512), (0,))[0]) == 99


def test_published_diagram_keeps_only_short_edges_and_squares_them():
    x = (normal(7, 60, 3) * 0.1).requires_grad_()
    exact = persistence(x, (0,)).deaths(0).sort().values
    whole = published_diagram(x, max_edges=60 * 59 // 2).deaths(0).sort().values
    torch.testing.assert_close(whole, exact.square())
    cut = published_diagram(x, max_edges=40).deaths(0).sort().values
    assert 0 < len(cut) <= 40
    np.testing.assert_allclose(cut.detach(), exact.square().detach()[: len(cut)])
    cut.sum().backward()
    assert x.grad.abs().max() > 0


def test_published_diagram_of_one_point():
    assert len(published_diagram(torch.zeros(1, 3))[0]) == 0
