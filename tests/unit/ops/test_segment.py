"""Reductions over clusters and their gradients."""

import torch

from pointcept.ops import api as ops


def _clusters(device):
    cluster = torch.tensor([2, 0, 1, 0, 2, 2, 3], device=device)
    return cluster, cluster.argsort(stable=True), torch.bincount(cluster)


def test_segment_max(device):
    cluster, permutation, lengths = _clusters(device)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device).requires_grad_()
    out = ops.segment_max(x, permutation, lengths)
    expected = torch.stack([x[cluster == c].amax(0) for c in range(4)])
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    torch.testing.assert_close(grad, expected_grad)


def test_expand_and_its_transpose(device):
    cluster, permutation, lengths = _clusters(device)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device).requires_grad_()
    out = ops.expand(x, cluster, permutation, lengths)
    torch.testing.assert_close(out, x[cluster])
    assert torch.autograd.gradcheck(lambda a: ops.expand(a, cluster, permutation, lengths), (x,))


def test_expand_sums_half_precision_in_float32():
    n = 4096
    cluster, permutation, lengths = torch.zeros(n, dtype=torch.int64), torch.arange(n), torch.tensor([n])
    x = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    ops.expand(x, cluster, permutation, lengths).sum().backward()
    assert x.grad.item() == n  # a bfloat16 accumulator stops growing at 256
