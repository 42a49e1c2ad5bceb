from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.topology import edge_lengths, minimum_spanning_tree
from pointcept.topology.mst import EdgeWeights, _full_float32_products, exact_products, sparse_spanning_forest


def sorted_deaths(x: torch.Tensor, **options) -> np.ndarray:
    return edge_lengths(x, minimum_spanning_tree(x, **options)).sort().values.numpy()


def is_tree(edges: torch.Tensor, n: int) -> bool:
    return len(sparse_spanning_forest(n, edges, torch.zeros(len(edges)))) == n - 1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_deaths_equal_gudhi(cloud, reference_diagram, dtype, tolerance):
    x = cloud.to(dtype)
    expected = np.sort(reference_diagram(x, 0)[:, 1])
    # GUDHI merges duplicates at zero length without reporting a point.
    expected = np.concatenate([np.zeros(len(x) - 1 - len(expected)), expected])
    np.testing.assert_allclose(sorted_deaths(x), expected, rtol=0, atol=tolerance)


def test_edges_form_a_tree_without_repetition(cloud):
    edges = minimum_spanning_tree(cloud)
    assert edges.shape == (len(cloud) - 1, 2)
    assert (edges[:, 0] < edges[:, 1]).all()
    assert is_tree(edges, len(cloud))


def kruskal(matrix: np.ndarray) -> list[tuple[int, int]]:
    """The one minimum spanning tree of the strict order (weight, smaller index, larger index)."""
    n = len(matrix)
    comp, tree = list(range(n)), []
    for _, u, v in sorted((matrix[i, j], i, j) for i in range(n) for j in range(i + 1, n)):
        if comp[u] != comp[v]:
            tree.append((u, v))
            old, new = comp[u], comp[v]
            comp = [new if c == old else c for c in comp]
    return sorted(tree)


def test_ties_are_broken_by_edge_id(cloud):
    weights = EdgeWeights(cloud).matrix.numpy()
    assert sorted(map(tuple, minimum_spanning_tree(cloud).tolist())) == kruskal(weights)


@pytest.mark.parametrize("seed", range(12))
def test_ties_are_broken_by_edge_id_in_later_rounds(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 6, (70, 2), generator=g).double() * torch.tensor([1.0, 3.0])
    weights = EdgeWeights(x).matrix.numpy()
    assert sorted(map(tuple, minimum_spanning_tree(x).tolist())) == kruskal(weights)


@pytest.mark.parametrize("block", [1, 7, 16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recomputed_blocks_give_exactly_the_stored_edges(cloud, dtype, block):
    x = cloud.to(dtype)
    stored = minimum_spanning_tree(x, block=block)
    recomputed = minimum_spanning_tree(x, block=block, memory_limit=0)
    assert torch.equal(stored, recomputed)


def test_default_blocks_stored_and_recomputed_agree_on_many_points():
    x = torch.randn(1100, 24, generator=torch.Generator().manual_seed(3))
    assert torch.equal(minimum_spanning_tree(x), minimum_spanning_tree(x, memory_limit=0))


def test_many_points_equal_prim():
    x = torch.randn(700, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    reach, left, total = d[0].copy(), np.ones(700, dtype=bool), []
    left[0] = False
    for _ in range(699):
        j = int(np.where(left, reach, np.inf).argmin())
        total.append(reach[j])
        left[j] = False
        reach = np.minimum(reach, d[j])
    np.testing.assert_allclose(sorted_deaths(x), np.sort(total), rtol=0, atol=1e-12)


def test_float32_points_far_from_the_origin_and_tightly_clustered():
    g = torch.Generator().manual_seed(5)
    x = torch.cat([torch.randn(30, 8, generator=g) * 1e-2 + 1e4, torch.randn(30, 8, generator=g) * 1e-2 - 1e4])
    np.testing.assert_allclose(sorted_deaths(x), sorted_deaths(x.double()), rtol=1e-6, atol=1e-8)


def test_single_precision_products_of_points_far_from_the_origin():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(9)) + 1e3
    np.testing.assert_allclose(sorted_deaths(x, precision="float32"), sorted_deaths(x), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_of_the_cloud_does_not_matter(scale):
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert torch.equal(minimum_spanning_tree((x * scale).float()), minimum_spanning_tree(x.float()))


def test_single_precision_products_agree_on_ordinary_features():
    x = torch.randn(300, 128, generator=torch.Generator().manual_seed(7))
    np.testing.assert_allclose(sorted_deaths(x, precision="float32"), sorted_deaths(x), rtol=0, atol=1e-4)


def test_single_precision_products_put_the_global_setting_back():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with _full_float32_products(True):
            assert torch.get_float32_matmul_precision() == "highest"
        for precision, setting in ((torch.float32, "highest"), (torch.float64, "high")):
            with exact_products(torch.device("cpu"), precision):
                assert torch.get_float32_matmul_precision() == setting
                assert not torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "high"
        with _full_float32_products(False):
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.float64, 8)])
def test_weights_are_stored_up_to_the_memory_limit(dtype, size):
    x = torch.randn(10, 3, generator=torch.Generator().manual_seed(8), dtype=dtype)
    assert EdgeWeights(x, memory_limit=100 * size).matrix.shape == (10, 10)
    assert EdgeWeights(x, memory_limit=100 * size - 1).matrix is None


def test_autocast_does_not_coarsen_the_tree():
    x = torch.randn(80, 16, generator=torch.Generator().manual_seed(8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [minimum_spanning_tree(x, precision=p) for p in ("float32", "float64")]
    assert torch.equal(inside[0], minimum_spanning_tree(x, precision="float32"))
    assert torch.equal(inside[1], minimum_spanning_tree(x))


def test_one_point_has_no_edge_and_a_wrong_precision_is_named():
    assert minimum_spanning_tree(torch.zeros(1, 3)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"precision must be one of .*'half'"):
        minimum_spanning_tree(torch.zeros(4, 3), precision="half")


def test_lengths_of_duplicates_have_finite_gradient():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    lengths = edge_lengths(x, minimum_spanning_tree(x))
    assert sorted(lengths.tolist()) == [0.0, 5.0]
    lengths.square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_forest_of_a_graph_in_two_parts_takes_the_first_of_equal_edges():
    edges = torch.tensor([[0, 1], [1, 2], [0, 2], [0, 1], [3, 4]])
    weight = torch.tensor([1.0, 2.0, 2.0, 1.0, 7.0])
    assert sparse_spanning_forest(6, edges, weight).tolist() == [0, 1, 4]
    assert sparse_spanning_forest(3, edges[:0], weight[:0]).tolist() == []
