"""Linear layers: against PyTorch's own, and the kernel of the bias against float64."""

import pytest
import torch
from torch import Tensor, nn

from pointcept.models.modules import Linear
from pointcept.ops import api as ops


def _inputs(n: int, channels: int, out: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in [(n, channels), (out, channels), (out,)]]


@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_module(bias: bool) -> None:
    x, weight, shift = _inputs(7, 4, 5)
    theirs, ours = (kind(4, 5, bias=bias).double() for kind in (nn.Linear, Linear))
    state = {"weight": weight, "bias": shift} if bias else {"weight": weight}
    for layer in (theirs, ours):
        layer.load_state_dict(state)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("used", [2, 3])
def test_gradients_by_finite_differences(used: int) -> None:
    assert torch.autograd.gradcheck(ops.linear, [t.requires_grad_() for t in _inputs(4, 3, 2)[:used]])


def test_under_autocast_the_result_is_half_and_gradients_are_of_the_parameters_types() -> None:
    tensors = [t.float().requires_grad_() for t in _inputs(5, 4, 8)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ops.linear(*tensors)
    out.float().sum().backward()
    assert out.dtype is torch.bfloat16
    assert all(t.grad is not None and t.grad.dtype is torch.float32 for t in tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("n", "channels", "out"), [(1, 6, 13), (1000, 16, 48), (3333, 13, 6), (5000, 512, 1536)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("bias", [True, False])
def test_kernels_stay_near_float64(
    bias: bool, dtype: torch.dtype, tolerance: float, n: int, channels: int, out: int
) -> None:
    tensors = _inputs(n, channels, out)[: 3 if bias else 2]
    exact = [t.clone().cuda().requires_grad_() for t in tensors]
    ours = [t.float().cuda().requires_grad_() for t in tensors]
    direction = torch.randn(n, out, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cuda()
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
        found = ops.linear(*ours)
    assert found.dtype is dtype
    expected = ops.linear(*exact)
    grads = [torch.autograd.grad((r.double() * direction).sum(), t) for r, t in ((found, ours), (expected, exact))]
    for half, right in [(found, expected), *zip(*grads, strict=True)]:
        assert (half.double() - right).norm() < tolerance * right.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient_gets_none(frozen: int) -> None:
    tensors = [t.float().cuda().requires_grad_(i != frozen) for i, t in enumerate(_inputs(9, 4, 5))]
    ops.linear(*tensors).sum().backward()
    assert [t.grad is None for t in tensors] == [i == frozen for i in range(3)]
