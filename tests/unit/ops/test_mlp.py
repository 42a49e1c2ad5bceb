"""Linear, GELU, linear: against PyTorch's modules, and the lean kernels against float64."""

import importlib

import pytest
import torch
from torch import nn

from pointcept.ops import api as ops


def _inputs(n: int, channels: int, hidden: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, channels), (hidden, channels), (hidden,), (channels, hidden), (channels,)]
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors[1] /= channels**0.5
    tensors[3] /= hidden**0.5
    return tensors


def _modules(tensors):
    x, weight1, bias1, weight2, bias2 = tensors
    network = nn.Sequential(nn.Linear(*weight1.t().shape), nn.GELU(), nn.Linear(*weight2.t().shape)).double()
    network.load_state_dict({"0.weight": weight1, "0.bias": bias1, "2.weight": weight2, "2.bias": bias2})
    return network(x)


@pytest.mark.parametrize("recompute", [False, True])
def test_equals_the_modules(recompute):
    tensors = _inputs(7, 4, 10)
    torch.testing.assert_close(ops.mlp(*tensors, recompute), _modules(tensors))


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_by_finite_differences(recompute):
    tensors = [t.requires_grad_() for t in _inputs(3, 2, 5)]
    assert torch.autograd.gradcheck(lambda *t: ops.mlp(*t, recompute), tensors)


def test_under_autocast_the_result_is_half_and_gradients_are_of_the_parameters_types():
    tensors = [t.float().requires_grad_() for t in _inputs(5, 4, 8)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ops.mlp(*tensors)
    out.float().sum().backward()
    assert out.dtype is torch.bfloat16
    assert all(t.grad.dtype is torch.float32 for t in tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("n", "channels", "hidden"), [(1, 16, 64), (1000, 16, 64), (3333, 40, 100), (500, 512, 2048)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_kernels_stay_near_float64(dtype, tolerance, n, channels, hidden, recompute):
    tensors = _inputs(n, channels, hidden)
    exact = [t.clone().cuda().requires_grad_() for t in tensors]
    ours = [t.float().cuda().requires_grad_() for t in tensors]
    direction = torch.randn(n, channels, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cuda()
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
        out = ops.mlp(*ours, recompute)
    assert out.dtype is dtype
    expected = ops.mlp(*exact)
    for result in (out, expected):
        (result.double() * direction).sum().backward(retain_graph=True)
    again = torch.autograd.grad((out.double() * direction).sum(), ours)
    for half, right in [(out, expected), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]:
        assert (half.double() - right).norm() < tolerance * right.norm()
    assert all(torch.equal(a.grad, b) for a, b in zip(ours, again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_rows_in_parts_give_the_same(dtype, tolerance, monkeypatch):
    tensors = [t.float().cuda().requires_grad_() for t in _inputs(1001, 16, 64)]
    direction = torch.randn(1001, 16, generator=torch.Generator().manual_seed(3)).cuda()
    results = []
    for rows in (2000, 300, 1):
        monkeypatch.setattr(importlib.import_module("pointops.mlp"), "PART_BYTES", rows * 64 * dtype.itemsize)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
            out = ops.mlp(*tensors, True)
        results.append([out, *torch.autograd.grad((out.float() * direction).sum(), tensors)])
        monkeypatch.undo()
    for parts in results[1:]:
        for found, whole in zip(parts, results[0], strict=True):
            assert (found - whole).float().norm() <= tolerance * whole.float().norm()


def _set_up(tensors: list[torch.Tensor]) -> None:
    """Have cuBLAS allocate its workspace."""
    torch.autograd.grad(ops.mlp(*tensors, True).sum(), tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_the_wide_layer_is_bounded(monkeypatch):
    n, channels = 65536, 64
    tensors = [t.half().cuda().requires_grad_() for t in _inputs(n, channels, 4 * channels)]
    _set_up(tensors)
    peaks = []
    for parts in (1, 8):
        monkeypatch.setattr(importlib.import_module("pointops.mlp"), "PART_BYTES", n * 4 * channels * 2 // parts)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ops.mlp(*tensors, True).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        for tensor in tensors:
            tensor.grad = None
    wide = n * 4 * channels * 2
    assert peaks[1] < peaks[0] - 2 * wide


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("recompute", "kept"), [(False, 10.5), (True, 2.5)])
def test_memory_that_waits_for_the_backward_pass(recompute, kept):
    """Bytes per row and channel: input and result 4, then the hidden layer 8 unless it is computed again."""
    n, channels = 65536, 64
    tensors = [t.half().cuda().requires_grad_() for t in _inputs(n, channels, 4 * channels)]
    _set_up(tensors)
    before = torch.cuda.memory_allocated()
    out = ops.mlp(*tensors, recompute)
    assert out.grad_fn is not None
    assert torch.cuda.memory_allocated() - before < kept * n * channels
