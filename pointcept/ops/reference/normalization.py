"""Layer norm and the residual additions around it, composed of PyTorch's operations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalise the channels of every row; statistics in float32 or better.

    Args:
        x: (N, C).
        weight, bias: (C,).
        eps: added to the variance.
        dtype: of the result.

    Returns:
        (N, C).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.layer_norm(x.to(wide), x.shape[-1:], weight.to(wide), bias.to(wide), eps).to(dtype)


def add_layer_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale: Tensor | None,
    stream: torch.dtype,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """y = x + scale · branch, and the layer norm of y.

    Args:
        x, branch: (N, C).
        weight, bias: (C,).
        eps: added to the variance.
        scale: (N, 1) in float32 or better, without a gradient; None for 1.
        stream: type of y.
        dtype: type of the normalised rows.

    Returns:
        y and LN(y), (N, C) each.
    """
    y = (x + (branch if scale is None else branch * scale)).to(stream)
    return y, layer_norm(y, weight, bias, eps, dtype)


def norm_add_norm(
    x: Tensor,
    branch: Tensor,
    inner_weight: Tensor,
    inner_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    stream: torch.dtype,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """y = x + LN(branch), and the layer norm of y, with a weight and a bias (C,) for each norm.

    Returns:
        y of type ``stream`` and LN(y) of type ``dtype``, (N, C) each.
    """
    wide = torch.promote_types(branch.dtype, torch.float32)
    y = (x + layer_norm(branch, inner_weight, inner_bias, eps, wide)).to(stream)
    return y, layer_norm(y, weight, bias, eps, dtype)


class _AddScaled(torch.autograd.Function):
    """x + branch · scale in one launch, and in one launch each backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, scale: Tensor, stream: torch.dtype) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.types = x.dtype, branch.dtype
        # Autocast would copy the branch to float32 first; addcmul converts as it reads.
        with torch.autocast(x.device.type, enabled=False):
            return torch.addcmul(x, branch, scale).to(stream)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (scale,) = ctx.saved_tensors
        x_type, branch_type = ctx.types
        return grad.to(x_type), torch.mul(grad, scale, out=torch.empty_like(grad, dtype=branch_type)), None, None


def add_scaled(x: Tensor, branch: Tensor, scale: Tensor | None, stream: torch.dtype) -> Tensor:
    """x + scale · branch.

    Args:
        x, branch: (N, C).
        scale: (N, 1) in float32 or better, without a gradient; None for 1.
        stream: type of the result.

    Returns:
        (N, C).
    """
    return (x + branch).to(stream) if scale is None else _AddScaled.apply(x, branch, scale, stream)
