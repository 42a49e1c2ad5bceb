"""Linear, GELU, linear that keeps only its input and the first product for the backward pass.

What the GELU gives is computed again where the backward pass needs it, in the same pass over memory that
multiplies the gradient by the GELU's derivative and adds up the first bias's gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from pointops.reduction import column_sum, sum_parts

ROWS, CHANNELS, WARPS = 32, 128, 8  # tile of a program and its warps
PROGRAMS = 1024  # each with its own sums for the bias, unless there are more column blocks
PART_BYTES = 64 << 20  # of the wide layer at a time, where it is not kept


@triton.jit(do_not_specialize=["n", "tiles", "programs"])
def _gelu_backward_kernel(
    hidden_ptr,
    grad_ptr,
    active_ptr,
    partial_ptr,
    n,
    tiles,
    programs,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """active = gelu(hidden); grad *= gelu'(hidden) in place; sums of the latter over the rows of a program."""
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(tl.program_id(0), tiles, programs):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        place, mask = row[:, None] * C + channel[None, :], (row < n)[:, None] & (channel < C)[None, :]
        h = tl.load(hidden_ptr + place, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        below = 0.5 * (1.0 + tl.erf(h * 0.7071067811865476))  # of the normal distribution
        density = 0.3989422804014327 * tl.exp(-0.5 * h * h)
        grad *= below + h * density
        total += grad
        tl.store(active_ptr + place, (h * below).to(active_ptr.dtype.element_ty), mask=mask)
        tl.store(grad_ptr + place, grad.to(grad_ptr.dtype.element_ty), mask=mask)
    tl.store(partial_ptr + tl.program_id(0) * C + channel, tl.sum(total, axis=0), mask=channel < C)


def _gelu_backward(hidden: torch.Tensor, grad: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """gelu(hidden) (N, C) and the column sums (C,) in ``dtype`` of grad · gelu'(hidden), which replaces ``grad``."""
    n, channels = hidden.shape
    block = min(CHANNELS, max(16, triton.next_power_of_2(channels)))
    rows = ROWS * CHANNELS // block
    tiles, columns = triton.cdiv(n, rows), triton.cdiv(channels, block)
    programs = min(tiles, max(1, PROGRAMS // columns))
    active = torch.empty_like(hidden)
    partial = torch.empty(programs, channels, dtype=torch.float32, device=hidden.device)
    with torch.cuda.device(hidden.device):
        _gelu_backward_kernel[(programs, columns)](
            hidden, grad, active, partial, n, tiles, programs, channels, rows, block, num_warps=WARPS
        )
    return active, sum_parts(partial, dtype)


def _parts(n: int, row_bytes: int) -> list[slice]:
    """Rows that go through the wide layer together: in parts of equal size, so that all of it is never in memory."""
    count = max(1, -(-n * row_bytes // PART_BYTES))
    size = max(1, -(-n // count))
    return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)] or [slice(0, 0)]


def _total(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0, dtype=torch.float32).to(parts[0].dtype)


class _Mlp(torch.autograd.Function):
    """See :func:`mlp`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight1: torch.Tensor,
        bias1: torch.Tensor,
        weight2: torch.Tensor,
        bias2: torch.Tensor,
        recompute: bool,
    ) -> torch.Tensor:
        x = x.contiguous()
        first, second = bias1.to(x.dtype), bias2.to(x.dtype)
        if recompute:
            hidden = None
            out = x.new_empty(len(x), len(weight2))
            for rows in _parts(len(x), len(weight1) * x.element_size()):
                torch.addmm(second, F.gelu(F.linear(x[rows], weight1, first)), weight2.t(), out=out[rows])
        else:
            hidden = F.linear(x, weight1, first)
            out = F.linear(F.gelu(hidden), weight2, second)
        ctx.save_for_backward(x, hidden, weight1, bias1, weight2)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, kept, weight1, bias1, weight2 = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grads1, grads2, biases1 = [], [], []
        for rows in [slice(len(x))] if kept is not None else _parts(len(x), len(weight1) * x.element_size()):
            hidden = F.linear(x[rows], weight1, bias1.to(x.dtype)) if kept is None else kept
            grad_hidden = grad[rows] @ weight2
            active, grad_bias1 = _gelu_backward(hidden, grad_hidden, bias1.dtype)
            del hidden
            biases1.append(grad_bias1)
            if ctx.needs_input_grad[3]:
                grads2.append(grad[rows].t() @ active)
            del active
            if ctx.needs_input_grad[1]:
                grads1.append(grad_hidden.t() @ x[rows])
            if grad_x is not None:
                torch.mm(grad_hidden, weight1, out=grad_x[rows])
            del grad_hidden
        grad_weight1, grad_weight2 = _total(grads1) if grads1 else None, _total(grads2) if grads2 else None
        grad_bias2 = column_sum(grad, bias1.dtype) if ctx.needs_input_grad[4] else None
        return grad_x, grad_weight1, _total(biases1), grad_weight2, grad_bias2, None


def mlp(
    x: torch.Tensor,
    weight1: torch.Tensor,
    bias1: torch.Tensor,
    weight2: torch.Tensor,
    bias2: torch.Tensor,
    recompute: bool = False,
) -> torch.Tensor:
    """gelu(x · weight1ᵀ + bias1) · weight2ᵀ + bias2 with the exact GELU.

    Args:
        x: (N, C) float16, bfloat16 or float32 on a CUDA device.
        weight1: (H, C) of the same type.
        bias1: (H,) of any of these types.
        weight2: (D, H) of the type of x.
        bias2: (D,) of the type of ``bias1``.
        recompute: keep ``x`` only and repeat the first product in the backward pass.

    Returns:
        (N, D).
    """
    return _Mlp.apply(x, weight1, bias1, weight2, bias2, recompute)
