from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.topology import (
    edge_lengths,
    minimum_spanning_tree,
    persistence,
    published,
    published_diagram,
    published_distance,
    random_points,
    rtd_lite,
)
from pointcept.topology.mst import sparse_spanning_forest
from pointcept.topology.published import published_edge_count


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


def naive_published(x: np.ndarray, max_edges: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both dimensions (K, 2), (L, 2) of up to 1000 points (beyond, the published cap is random), edge by edge."""
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    square = np.array([((x[i] - x[j]) ** 2).sum() for i, j in pairs])
    allowed = 3 * np.quantile(np.sqrt(square), 0.9) if n <= 1000 else np.inf
    count = max(min(int(0.05 * (n * (n - 1) / 2)), 2 * n, 100_000), 1000) if max_edges is None else max_edges
    used = [k for k in np.argsort(square, kind="stable") if square[k] <= allowed][:count]
    component = list(range(n))
    deaths, loops, closes = [], [], []
    for k in used:
        i, j = (component[p] for p in pairs[k])
        closes.append(i == j)
        if i != j:
            component = [i if c == j else c for c in component]
            deaths.append(square[k])
    length = square[used]
    position = 0
    while position < len(used) and len(loops) < 100:
        start = position
        while position < len(used) and length[position] - length[start] < 1e-6:
            position += 1
        for k in range(start, position):
            death = length[position] if position < len(used) else length[k] + 0.1
            if closes[k] and death > length[k] + 0.05 and len(loops) < 100:
                loops.append(np.array([length[k], death]) / (1 + np.exp(-100 * (death - length[k] - 0.05))))
    return np.array([(0, d) for d in deaths if d > 0]).reshape(-1, 2), np.array(loops).reshape(-1, 2)


def naive_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance to the nearest point, in both directions; 0 with an empty side."""
    if len(a) == 0 or len(b) == 0:
        return 0.0
    square = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    return square.min(axis=1).mean() + square.min(axis=0).mean()


CLOUDS = [(2, 3, 0.1), (7, 2, 0.5), (30, 1, 1.0), (40, 2, 1.0), (120, 8, 0.2), (150, 3, 0.7), (60, 64, 0.25)]


@pytest.mark.parametrize(("n", "channels", "scale"), CLOUDS)
def test_published_diagram_equals_the_naive_reading(n, channels, scale):
    x = normal(n, n, channels) * scale
    diagram, expected = published_diagram(x), naive_published(x.numpy())
    assert len(expected[0])
    for dim in (0, 1):
        order = np.lexsort(expected[dim].T)
        found = diagram[dim].numpy()
        np.testing.assert_allclose(found[np.lexsort(found.T)], expected[dim][order], rtol=1e-9, atol=1e-12)


def test_published_h1_is_checked_where_it_is_not_empty():
    # no loop, the last edge alone, several wide gaps: the cases of the test above
    counts = [len(published_diagram(normal(n, n, c) * s)[1]) for n, c, s in CLOUDS]
    assert min(counts) == 0
    assert 1 in counts
    assert max(counts) > 10


@pytest.mark.parametrize("n", [2, 201, 500, 600, 1200, 60_000])
def test_published_edge_count(n):
    # 5 % of all pairs, but at most 2 n and 100 000, and at least 1000
    expected = {2: 1000, 201: 1000, 500: 1000, 600: 1200, 1200: 2400, 60_000: 100_000}
    assert published_edge_count(n) == expected[n]


def test_published_diagram_uses_that_many_edges():
    # above 1000 points: 5 % of the pairs are more, so that 2 n edges count; earlier versions used 200 edges
    x = normal(8, 1200, 3) * 0.1
    found = published_diagram(x)[0]
    u, v = torch.triu_indices(1200, 1200, 1)
    square = (x[u] - x[v]).square().sum(dim=1)
    order = square.argsort()[:2400]
    forest = sparse_spanning_forest(1200, torch.stack([u, v], dim=1)[order], square[order])
    assert len(found) > 700
    torch.testing.assert_close(found[:, 1].sort().values, square[order][forest].sort().values)


def test_published_sample_is_drawn_from_the_generator_given():
    # distances of two scales, so that the quantile of 1000 of 1500 points depends on the draw
    x = torch.cat([normal(9, 1350, 2) * 0.01, normal(10, 150, 2) * 40])
    caps = set()
    for seed in range(3):
        state = torch.random.get_rng_state()
        diagrams = [published_diagram(x, generator=torch.Generator().manual_seed(seed)) for _ in range(2)]
        assert torch.equal(state, torch.random.get_rng_state())
        assert torch.equal(diagrams[0][0], diagrams[1][0])
        caps.add(published._cap(x, torch.Generator().manual_seed(seed)))
    assert len(caps) == 3
    assert torch.equal(published_diagram(x)[0], published_diagram(x)[0])


def test_published_cap_empties_the_diagram_of_wide_features():
    wide = normal(6, 100, 512)
    diagram = published_diagram(wide)
    assert len(diagram[0]) == len(diagram[1]) == 0
    assert len(persistence(wide, (0,))[0]) == 99


def test_published_distance_is_the_chamfer_distance_of_all_dimensions_together():
    clouds = [normal(11, 80, 4) * 0.5, normal(12, 60, 6) * 0.3]
    found = published_distance(*(published_diagram(x) for x in clouds))
    naive = [np.concatenate(naive_published(x.numpy())) for x in clouds]
    assert found.item() == pytest.approx(naive_distance(*naive), rel=1e-9)
    h0_alone = naive_distance(*(naive_published(x.numpy())[0] for x in clouds))
    assert abs(found.item() - h0_alone) > 1e-6


def test_published_distance_to_an_empty_diagram_is_zero_without_a_gradient():
    x = (normal(13, 60, 3) * 0.1).requires_grad_()
    wide = (normal(14, 60, 512)).requires_grad_()
    full, empty = published_diagram(x), published_diagram(wide)
    assert full[0].requires_grad
    for pair in ((full, empty), (empty, full), (empty, empty)):
        value = published_distance(*pair)
        assert value.item() == 0
        assert not value.requires_grad


def test_the_published_cap_is_that_of_1000_drawn_points():
    x = normal(17, 1100, 2)
    rows = random_points(1100, 1000, torch.Generator().manual_seed(3))
    expected = 3 * torch.quantile(torch.pdist(x[rows]), 0.9)
    assert published._cap(x, torch.Generator().manual_seed(3)) == pytest.approx(expected.item(), rel=1e-12)
    state = torch.Generator().manual_seed(3)
    published._cap(x[:1000], state)
    assert torch.equal(state.get_state(), torch.Generator().manual_seed(3).get_state())  # all of them: no draw


def test_published_gradient_is_that_of_the_squared_lengths():
    x = (normal(15, 30, 3) * 0.3).requires_grad_()
    diagram = published_diagram(x)
    (gradient,) = torch.autograd.grad(diagram.deaths(0).square().sum(), x)
    expected = torch.zeros_like(gradient)
    with torch.no_grad():
        for i, j in diagram.edges[0].tolist():
            difference = x[i] - x[j]
            step = 2 * difference.square().sum() * 2 * difference
            expected[i] += step
            expected[j] -= step
    torch.testing.assert_close(gradient, expected)
    assert not diagram[1].requires_grad


def test_published_diagram_squares_lengths_and_is_cut_at_the_shortest_edges():
    x = normal(7, 60, 3) * 0.1
    exact = persistence(x, (0,)).deaths(0).sort().values
    whole = published_diagram(x, max_edges=60 * 59 // 2).deaths(0).sort().values
    torch.testing.assert_close(whole, exact.square())
    cut = published_diagram(x, max_edges=40).deaths(0).sort().values
    assert 0 < len(cut) <= 40
    torch.testing.assert_close(cut, exact.square()[: len(cut)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_diagram_of_equal_points(dtype):
    # lengths of 0 are left out of H0; each edge beyond the tree is a loop that ends 0.1 later, and 100 are kept
    diagram = published_diagram(torch.full((50, 4), 0.5, dtype=dtype))
    assert len(diagram[0]) == 0
    expected = torch.tensor([0, 0.1 / (1 + np.exp(-5))], dtype=dtype)
    torch.testing.assert_close(diagram[1], expected.expand(100, 2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [0, 1])
def test_published_diagram_of_one_point_or_none(n):
    diagram = published_diagram(torch.zeros(n, 3))
    assert [len(diagram[d]) for d in (0, 1)] == [0, 0]
    assert diagram.edges[0].shape == (0, 2)
    assert published_distance(diagram, diagram).item() == 0


def test_published_blocks_of_rows(monkeypatch):
    # beyond the first block an edge may occur twice and a point meet itself: more loops, the same spanning forest
    x = normal(16, 40, 2) * 0.3
    whole = published_diagram(x, max_edges=2000)
    assert published._ROWS == 10_000  # as published: the number decides which edges occur twice
    monkeypatch.setattr(published, "_ROWS", 16)
    blocks = published_diagram(x, max_edges=2000)
    torch.testing.assert_close(blocks[0][:, 1].sort().values, whole[0][:, 1].sort().values)
    square = torch.cdist(x, x).square()
    cap = 3 * torch.quantile(square[tuple(torch.triu_indices(40, 40, 1))].sqrt(), 0.9)
    expected = sum(int((square[i] <= cap)[i % 16 + 1 :].sum()) for i in range(40))
    edges, values = published._shortest_edges(x, cap.item(), 2000)
    assert len(edges) == len(values) == expected > 40 * 39 // 2
