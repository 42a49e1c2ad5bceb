"""Reductions over clusters and their gradients."""

import pytest
import torch

from pointcept.ops import api as ops
from pointcept.ops import backend


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_maxima_share_the_gradient_whatever_its_sign(device, dtype):
    x = torch.tensor([[1, 5, 2], [3, 5, 2], [3, 5, 1]], device=device, dtype=dtype, requires_grad=True)
    out = ops.segment_max(x, torch.tensor([2, 0, 1], device=device), torch.tensor([3], device=device))
    grad = torch.tensor([[-8.0, 6.0, 4.0]], device=device, dtype=dtype)
    out.backward(grad)
    assert x.grad.tolist() == [[0, 2, 2], [-4, 2, 2], [-4, 2, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_is_the_largest(device, dtype):
    x = torch.tensor([[1, 5], [torch.nan, 2], [3, -torch.inf]], device=device, dtype=dtype, requires_grad=True)
    out = ops.segment_max(x, torch.arange(3, device=device), torch.tensor([2, 1], device=device))
    out.sum().backward()
    assert str(out.tolist()) == "[[nan, 5.0], [3.0, -inf]]"
    assert x.grad.tolist() == [[0, 1], [1, 0], [1, 1]]


def _shuffled(lengths):
    generator = torch.Generator().manual_seed(0)
    cluster = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    cluster = cluster[torch.randperm(len(cluster), generator=generator)]
    return cluster, cluster.argsort(stable=True), lengths


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("index_type", [torch.int64, torch.int32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [6, 13, 16, 64, 200, 512])
@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([1]),
        torch.tensor([500]),
        torch.tensor([3, 1, 500, 8, 2]),
        torch.randint(1, 9, (3000,), generator=torch.Generator().manual_seed(1)),
    ],
    ids=["one row", "one cluster", "a long one", "many"],
)
def test_kernels_equal_the_twins(lengths, channels, dtype, index_type):
    cluster, permutation, lengths = (t.cuda() for t in _shuffled(lengths))
    generator = torch.Generator().manual_seed(2)
    fine = (2 * torch.randn(len(cluster), channels, generator=generator)).round().to(dtype).cuda().requires_grad_()
    coarse = torch.randn(len(lengths), channels, generator=generator).to(dtype).cuda().requires_grad_()
    tables = [t.to(index_type) for t in (cluster, permutation, lengths)]

    def results(cluster, permutation, lengths):
        largest = ops.segment_max(fine, permutation, lengths)
        copies = ops.expand(coarse, cluster, permutation, lengths)
        return largest, copies, *torch.autograd.grad([largest, copies], [fine, coarse], [coarse, fine])

    found = results(*tables)
    with backend.override("torch"):
        expected = results(cluster, permutation, lengths)
    for ours, twin in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(ours, twin)
    assert found[3].dtype is dtype
    # Sums of up to 500 values, added up in another order.
    torch.testing.assert_close(found[3].float(), expected[3].float(), rtol=1.6e-2, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(found, results(*tables), strict=True))
