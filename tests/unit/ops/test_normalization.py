"""Layer norm fused with residual sums: against PyTorch's own, by finite differences, in every precision."""

import pytest
import torch
import torch.nn.functional as F

from pointcept.ops import api as ops
from pointcept.ops import backend

EPS = 1e-5


def _inputs(n: int, channels: int, dtype=torch.float64, seed: int = 0):
    """x, branch, two pairs of weight and bias, a row scale."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    tensors = [2 * draw(n, channels) + 1, draw(n, channels) - 0.5]
    tensors += [1 + 0.3 * draw(channels), draw(channels), 1 + 0.3 * draw(channels), draw(channels)]
    scale = (draw(n, 1) > 0) * 1.25
    return tensors, scale.to(dtype)


OPERATIONS = {
    "add_layer_norm": lambda t, scale: ops.add_layer_norm(t[0], t[1], t[2], t[3], EPS),
    "add_layer_norm scaled": lambda t, scale: ops.add_layer_norm(t[0], t[1], t[2], t[3], EPS, scale),
    "norm_add_norm": lambda t, scale: ops.norm_add_norm(t[0], t[1], t[4], t[5], t[2], t[3], EPS),
    "add_scaled": lambda t, scale: (ops.add_scaled(t[0], t[1], scale),),
    "add_scaled by one": lambda t, scale: (ops.add_scaled(t[0], t[1]),),
}


def _norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias, EPS)


def _expected(name, t, scale):
    x, branch, weight, bias, inner_weight, inner_bias = t
    if name == "norm_add_norm":
        y = x + _norm(branch, inner_weight, inner_bias)
    else:
        y = x + branch * (scale if name.endswith("scaled") else 1.0)
    return (y,) if name.startswith("add_scaled") else (y, _norm(y, weight, bias))


@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_the_formula(name):
    tensors, scale = _inputs(9, 5)
    for found, expected in zip(OPERATIONS[name](tensors, scale), _expected(name, tensors, scale), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_by_finite_differences(name):
    tensors, scale = _inputs(4, 3)
    used = {"norm_add_norm": range(6)}.get(name, range(4))
    used = range(2) if name.startswith("add_scaled") else used

    def function(*chosen):
        filled = list(tensors)
        for place, tensor in zip(used, chosen, strict=True):
            filled[place] = tensor
        return OPERATIONS[name](filled, scale)

    assert torch.autograd.gradcheck(function, [tensors[i].clone().requires_grad_() for i in used])


def test_under_autocast_sums_are_float32_and_norms_are_half():
    tensors, scale = _inputs(6, 8, torch.float32)
    tensors[1] = tensors[1].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, rows = OPERATIONS["add_layer_norm scaled"](tensors, scale)
        first, _ = ops.norm_add_norm(tensors[1], tensors[1], *tensors[2:], EPS)
    assert [t.dtype for t in (y, rows, first)] == [torch.float32, torch.bfloat16, torch.float32]
    torch.testing.assert_close(y, tensors[0] + tensors[1].float() * scale)


def test_a_half_network_stays_half():
    tensors, _ = _inputs(6, 8, torch.bfloat16)
    y, rows = ops.norm_add_norm(*tensors, EPS)
    assert y.dtype is rows.dtype is torch.bfloat16


def test_nan_stays_in_its_row():
    tensors, scale = _inputs(3, 4)
    tensors[1][1, 2] = torch.nan
    _, rows = OPERATIONS["norm_add_norm"](tensors, scale)
    assert rows.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("n", "channels"), [(1, 16), (1, 6), (1000, 13), (1000, 16), (4097, 48), (777, 64), (300, 100), (5000, 512)]
)
@pytest.mark.parametrize(
    ("x_type", "branch_type", "autocast", "tolerance"),
    [
        (torch.float32, torch.float32, None, 1e-5),
        (torch.float32, torch.float16, torch.float16, 2e-3),
        (torch.float32, torch.bfloat16, torch.bfloat16, 1.5e-2),
        (torch.float16, torch.float16, torch.float16, 2e-3),
        (torch.bfloat16, torch.bfloat16, None, 1.5e-2),
    ],
)
@pytest.mark.parametrize("name", OPERATIONS)
def test_kernels_stay_near_float64(name, x_type, branch_type, autocast, tolerance, n, channels):
    tensors, scale = _inputs(n, channels)
    tensors[0], tensors[1] = tensors[0].to(x_type).double(), tensors[1].to(branch_type).double()
    exact = [t.clone().cuda().requires_grad_() for t in tensors]
    types = [x_type, branch_type, *[torch.float32] * 4]
    ours = [t.to(dtype).cuda().requires_grad_() for t, dtype in zip(tensors, types, strict=True)]
    generator = torch.Generator().manual_seed(7)
    directions = [torch.randn(n, channels, generator=generator, dtype=torch.float64).cuda() for _ in range(2)]
    with torch.autocast("cuda", dtype=autocast or torch.float16, enabled=autocast is not None):
        found = OPERATIONS[name](ours, scale.float().cuda())
    expected = _expected(name, exact, scale.cuda())
    with backend.override("torch"), torch.autocast("cuda", dtype=autocast or torch.float16, enabled=bool(autocast)):
        twins = OPERATIONS[name](ours, scale.float().cuda())
    assert [t.dtype for t in found] == [t.dtype for t in twins]
    for results in (found, expected):
        sum((r.double() * d).sum() for r, d in zip(results, directions, strict=False)).backward()
    pairs = [*zip(found, expected, strict=True), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]
    for half, right in pairs:
        assert (half is None) == (right is None)
        if half is not None:
            # One row of few channels: what the norm leaves of a gradient may be all rounding.
            assert (half.double() - right).norm() <= tolerance * right.norm().clamp(min=1.0 if n == 1 else 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("n", "channels"), [(1, 16), (1000, 13), (4097, 48), (5000, 512)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_a_norm_alone_stays_near_float64(n, channels, dtype, tolerance):
    (x, _, weight, bias, *_), _ = _inputs(n, channels, torch.float32)
    found = ops.layer_norm(x.cuda(), weight.cuda(), bias.cuda(), EPS, dtype)
    expected = _norm(x.double(), weight.double(), bias.double())
    assert found.dtype == dtype
    assert (found.cpu().double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_runs_give_the_same_bits():
    tensors, scale = _inputs(50_000, 64, torch.float32)
    grads = []
    for _ in range(2):
        ours = [t.cuda().requires_grad_() for t in tensors]
        sum(r.square().sum() for r in OPERATIONS["norm_add_norm"](ours, scale.cuda())).backward()
        grads.append([t.grad for t in ours])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
