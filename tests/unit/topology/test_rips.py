from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pointcept.topology import critical_edges, pairwise_distances, persistence, rips, submit_rips


def matrix_of(seed: int, n: int = 40, dtype: torch.dtype = torch.float64) -> np.ndarray:
    g = torch.Generator().manual_seed(seed)
    return pairwise_distances(torch.randn(n, 3, generator=g, dtype=dtype)).numpy()


def lengths(matrix: np.ndarray, edges: np.ndarray) -> np.ndarray:
    pairs = np.stack([matrix[edges[:, 0], edges[:, 1]], matrix[edges[:, 2], edges[:, 3]]], axis=1)
    return pairs[np.lexsort(pairs.T)]


def test_distances_are_exactly_symmetric_with_zero_diagonal_and_duplicates():
    x = torch.randn(50, 33, generator=torch.Generator().manual_seed(1))
    x[7] = x[20]
    d = pairwise_distances(x)
    assert d.dtype == torch.float32
    assert torch.equal(d, d.T)
    assert d.diagonal().abs().max() == 0
    assert d[7, 20] == 0
    torch.testing.assert_close(d[3, 4], (x[3] - x[4]).norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_dim", [1, 2])
def test_engines_agree(gudhi, dtype, max_dim):
    for seed in range(3):
        matrix = matrix_of(seed, 32, dtype)
        ours, theirs = (critical_edges(matrix, max_dim, engine) for engine in ("redzed", "gudhi"))
        assert sorted(ours) == sorted(theirs) == list(range(1, max_dim + 1))
        assert len(ours[1]) > 0
        for dim in ours:
            np.testing.assert_array_equal(lengths(matrix, ours[dim]), lengths(matrix, theirs[dim]))


def test_float64_distances_closer_than_float32_resolves_are_kept_apart():
    # A rectangle of sides 1 and 1 + 1e-9: born with the longer side, which float32 cannot tell from the other.
    h = 1 + 1e-9
    corners = torch.tensor([[0, 0], [1, 0], [1, h], [0, h]], dtype=torch.float64)
    birth, death = persistence(corners, (1,))[1][0].tolist()
    assert birth == h
    assert death == pytest.approx((1 + h * h) ** 0.5, abs=1e-15)


def test_as_many_ranks_as_float32_counts_exactly(monkeypatch):
    monkeypatch.setattr(rips, "_EXACT_RANKS", 45)  # the edges of 10 points
    ten, nine = matrix_of(4, 10), matrix_of(4, 9)
    assert rips._exact_in_float32(ten) is ten
    ranks = rips._exact_in_float32(nine)
    assert sorted(set(ranks.ravel())) == list(range(37))
    assert (np.argsort(ranks, axis=None, kind="stable") == np.argsort(nine, axis=None, kind="stable")).all()


def test_ties_leave_no_points_on_the_diagonal():
    axis = torch.arange(5.0)
    grid = torch.cartesian_prod(axis, axis)
    found = persistence(grid, (1,))[1]
    np.testing.assert_allclose(found.numpy(), np.tile([1, 2**0.5], (16, 1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_a_rotated_simplex_makes_no_loops(dtype):
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    x = torch.eye(20, dtype=torch.float64) @ rotation
    assert len(pairwise_distances(x)[0].unique()) > 2  # the equal sides do differ in their last bits
    assert len(persistence(x.to(dtype), (1,))[1]) == 0


def test_identical_points_have_no_loops():
    assert len(persistence(torch.ones(50, 8), (1,))[1]) == 0


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_points(n):
    edges = critical_edges(np.zeros((n, n)), max_dim=2)
    assert {dim: e.shape for dim, e in edges.items()} == {1: (0, 4), 2: (0, 4)}


def test_thread_gives_the_result_of_a_direct_call():
    matrices = [matrix_of(seed, 60) for seed in range(5)]
    jobs = [submit_rips(torch.from_numpy(m)) for m in matrices]
    for matrix, job in zip(matrices, jobs, strict=True):
        np.testing.assert_array_equal(job.result()[1], critical_edges(matrix)[1])


def test_unknown_engine_is_refused_before_any_work():
    with pytest.raises(ValueError, match="unknown persistence engine 'redzet'; did you mean 'redzed'"):
        submit_rips(torch.zeros(3, 3), engine="redzet")
    with pytest.raises(ValueError, match="unknown persistence engine"):
        critical_edges(np.zeros((3, 3)), engine="ripser")


@pytest.mark.parametrize(("engine", "module"), [("redzed", "redzed_tda"), ("gudhi", "gudhi")])
def test_missing_engine_says_what_to_install(monkeypatch, engine, module):
    monkeypatch.setitem(sys.modules, module, None)
    job = submit_rips(torch.from_numpy(matrix_of(0)), engine=engine)
    with pytest.raises(ImportError, match=r"pip install 'pointcept\[topology\]'"):
        job.result()
