"""Spanning trees and farthest points of a matrix: closed forms on the CPU, the kernels against the twin on a GPU."""

from __future__ import annotations

import pytest
import torch

from pointcept.ops import api as ops
from pointcept.ops.backend import override


def distances(n: int, channels: int, seed: int, lattice: bool = False) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 5, (n, channels), generator=g).float() if lattice else torch.randn(n, channels, generator=g)
    return (x[:, None] - x[None]).square().sum(dim=2)


def line(n: int) -> torch.Tensor:
    x = torch.arange(n).float()
    return (x[:, None] - x).square()


def test_tree_of_a_line_is_the_line():
    edges = ops.spanning_tree(line(9))
    assert sorted(edges.tolist()) == [[i, i + 1] for i in range(8)]


def test_equal_weights_go_to_the_smaller_end_points():
    edges = ops.spanning_tree(torch.ones(6, 6).fill_diagonal_(0))
    assert sorted(edges.tolist()) == [[0, i] for i in range(1, 6)]


def test_farthest_rows_of_a_line_halve_its_gaps():
    rows = ops.farthest_rows(line(9), torch.tensor([0]), 5)
    assert rows.tolist() == [0, 8, 4, 2, 6]


def test_farthest_rows_of_duplicates_are_distinct():
    rows = ops.farthest_rows(torch.zeros(5, 5), torch.tensor([3]), 5)
    assert rows.tolist() == [3, 0, 1, 2, 4]


CASES = [(2, 3, False), (3, 2, False), (257, 2, True), (1000, 16, False), (1500, 1, True), (5000, 8, False)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("n", "channels", "lattice"), CASES)
def test_kernels_equal_the_twin_bit_for_bit(n, channels, lattice):
    matrix = distances(min(n, 1500), channels, seed=n, lattice=lattice).cuda()
    if n > len(matrix):
        g = torch.Generator().manual_seed(n)
        x = torch.randn(n, channels, generator=g).cuda()
        matrix = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        matrix = torch.maximum(matrix, matrix.T)
    first, count = torch.tensor([n // 2], device="cuda").clamp_(max=len(matrix) - 1), min(len(matrix), 300)
    with override("spanning_tree=torch,farthest_rows=torch"):
        tree, rows = ops.spanning_tree(matrix), ops.farthest_rows(matrix, first, count)
    for _ in range(2):
        assert torch.equal(ops.spanning_tree(matrix), tree)
    found = ops.farthest_rows(matrix, first, count)
    if lattice:  # the twin's argmax may take any of several equal gaps on a GPU
        assert len(found.unique()) == count
    else:
        assert torch.equal(found, rows)
