"""A linear layer whose bias gets its gradient from :mod:`pointops.reduction`; the products are cuBLAS's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from pointops.reduction import column_sum


class _Linear(torch.autograd.Function):
    """See :func:`linear`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # Only what the other's gradient needs is kept.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        ctx.bias_type = None if bias is None else bias.dtype
        return F.linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        grad_weight = grad.t() @ x if ctx.needs_input_grad[1] else None
        grad_bias = column_sum(grad, ctx.bias_type) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x · weightᵀ + bias.

    Args:
        x: (N, C) float16, bfloat16 or float32 on a CUDA device.
        weight: (D, C) of the same type.
        bias: (D,) of any of these types, or None.

    Returns:
        (N, D).
    """
    return _Linear.apply(x, weight, bias)
