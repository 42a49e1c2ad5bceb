"""Batch norm with an activation: against PyTorch's own, with rows of padding, kernels against the twin."""

import pytest
import torch
import torch.nn.functional as F

from pointcept.ops import api as ops
from pointcept.ops import backend

EPS, MOMENTUM = 1e-3, 0.1
ACTIVATIONS = {"none": lambda x: x, "gelu": F.gelu, "relu": F.relu}


def _inputs(n: int, channels: int, dtype=torch.float64, offset: float = 1.0):
    """x, weight, bias, running mean and variance, and the gradient of the result."""
    generator = torch.Generator().manual_seed(n + channels)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = [2 * draw(n, channels) + offset, 1 + 0.3 * draw(channels), draw(channels)]
    tensors += [0.3 * draw(channels) + offset, 1 + draw(channels).abs(), draw(n, channels)]
    return [t.to(dtype) for t in tensors]


def _run(inputs, training, activation, real=None):
    """Result, gradients of x, weight and bias, and the running statistics."""
    x, weight, bias, mean, var, direction = (t.clone() for t in inputs)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    out = ops.batch_norm(*leaves, mean, var, training, MOMENTUM, EPS, activation, real)
    out.backward(direction)
    return [out.detach(), *(t.grad for t in leaves), mean, var]


def _real(n: int, device="cpu"):
    return torch.tensor([n], dtype=torch.int32, device=device)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_equals_pytorch(training, activation, padded):
    """Also where all rows are said to be real, which takes another path."""
    inputs = _inputs(20, 5)
    found = _run(inputs, training, activation, _real(20) if padded else None)
    x, weight, bias, mean, var, direction = (t.clone() for t in inputs)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    out = ACTIVATIONS[activation](F.batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS))
    out.backward(direction)
    assert torch.equal(mean, inputs[3]) != training
    for ours, theirs in zip(found, [out.detach(), *(t.grad for t in leaves), mean, var], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("filling", [0.0, 1e30, torch.nan, torch.inf])
@pytest.mark.parametrize("rows", [1, 2, 13])
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_nothing(training, rows, filling):
    inputs = _inputs(20, 5)
    short = [t[:rows] if len(t) == 20 else t for t in inputs]
    for rows_of in (inputs[0], inputs[-1]):
        rows_of[rows:] = filling
    found, expected = _run(inputs, training, "gelu", _real(rows)), _run(short, training, "gelu")
    for long, right in zip(found, expected, strict=True):
        if long.dim() == 2:
            assert (long[rows:] == 0).all()
        torch.testing.assert_close(long[: len(right)], right)


def test_no_real_row_gives_zeros():
    found = _run(_inputs(4, 3), True, "gelu", _real(0))
    assert all((t == 0).all() for t in found[:4])
    assert torch.equal(found[4], _inputs(4, 3)[3])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rows", [1, 4])
def test_gradients_by_finite_differences(rows, training, activation):
    x, weight, bias, mean, var, _ = _inputs(6, 3)

    def function(x, weight, bias):
        return ops.batch_norm(
            x, weight, bias, mean.clone(), var.clone(), training, MOMENTUM, EPS, activation, _real(rows)
        )

    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in (x, weight, bias)])


def test_half_stays_half_and_its_statistics_do_not():
    inputs = _inputs(3000, 4, torch.float32, offset=30.0)
    inputs[0] = inputs[0].bfloat16()
    inputs[-1] = inputs[-1].bfloat16()
    exact = inputs[0].double()
    for real in (None, _real(3000)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, grad, *_, mean, _ = _run(inputs, True, "gelu", real)
        assert out.dtype is grad.dtype is torch.bfloat16
        expected = 0.9 * inputs[3] + 0.1 * exact.mean(0).float()
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=0.0)


def _error(found, right, small: bool):
    """Relative to the whole tensor; of one or two rows the norm may leave nothing but rounding."""
    return ((found.double() - right).norm() / right.norm().clamp(min=1.0 if small else 1e-12)).item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)]
)
@pytest.mark.parametrize("n", [1, 2, 1000, 50_000])
@pytest.mark.parametrize("channels", [6, 32, 64, 96, 512])
def test_kernels_stay_near_float64(channels, n, dtype, tolerance, training, activation):
    inputs = [t.cuda() for t in _inputs(n, channels, torch.float32)]
    inputs[0], inputs[-1] = inputs[0].to(dtype), inputs[-1].to(dtype)
    direction = inputs[-1]
    for real in (None, _real(n, "cuda"), _real(n * 2 // 3, "cuda")):
        doubles = [t.double() for t in inputs]
        # Near its corner the gradient of a ReLU is a matter of rounding.
        inputs[-1] = direction.masked_fill(_run(doubles, training, "none", real)[0].abs() < 1e-4, 0.0)
        exact = _run([t.double() for t in inputs], training, activation, real)
        padded = [t.clone() for t in inputs]
        if real is not None:
            padded[0][int(real) :] = torch.nan
            padded[-1][int(real) :] = torch.nan
        with backend.override("batch_norm=triton"):
            found = _run(padded, training, activation, real)
        with backend.override("batch_norm=torch"):
            twin = _run(padded, training, activation, real)
        assert [t.dtype for t in found] == [t.dtype for t in twin]
        if real is not None:
            assert all((t[int(real) :] == 0).all() for t in found[:2])
        for place, (ours, right) in enumerate(zip(found, exact, strict=True)):
            assert _error(ours, right, n < 3) <= (tolerance if place < 2 else max(1e-5, tolerance / 10)), place


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("n", [1000, 50_000, 300_000])
def test_a_mean_far_from_zero_costs_no_digits(n):
    inputs = [t.cuda() for t in _inputs(n, 64, torch.float32, offset=200.0)]
    with backend.override("batch_norm=triton"):
        *_, mean, var = _run(inputs, True, "gelu")
    *_, exact_mean, exact_var = _run([t.double() for t in inputs], True, "gelu")
    torch.testing.assert_close(mean.double(), exact_mean, rtol=2e-6, atol=0.0)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_runs_give_the_same_bits():
    inputs = [t.cuda() for t in _inputs(50_000, 64, torch.float32)]
    first, second = (_run(inputs, True, "gelu", _real(40_000, "cuda")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_one_cuda_graph_serves_every_number_of_rows():
    inputs = [t.cuda() for t in _inputs(5000, 48, torch.float32)]
    x, weight, bias, mean, var, direction = inputs
    leaves, real = [t.requires_grad_() for t in (x, weight, bias)], _real(5000, "cuda")

    def step():
        out = ops.batch_norm(*leaves, mean, var, True, MOMENTUM, EPS, "gelu", real)
        return [out, *torch.autograd.grad(out, leaves, direction)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for rows in (5000, 1234, 1):
        real.fill_(rows)
        graph.replay()
        found = [t.detach().clone() for t in results]
        assert all(torch.equal(a, b.detach()) for a, b in zip(found, step(), strict=True))
        assert (found[0][rows:] == 0).all()
