"""Batch norm and the activation behind it, composed of PyTorch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def activate(x: Tensor, activation: str) -> Tensor:
    """``x`` itself ("none"), its exact GELU ("gelu"), or its positive part ("relu")."""
    if activation == "none":
        return x
    assert activation in ("gelu", "relu"), f"unknown activation {activation!r}"
    return F.gelu(x) if activation == "gelu" else F.relu(x)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    real: Tensor | None,
) -> Tensor:
    """Normalise every channel over the rows, scale, shift, and apply an activation.

    Args:
        x: (N, C), N >= 1.
        weight, bias: (C,).
        running_mean, running_var: (C,) statistics for evaluation; training moves them in place.
        training: normalise by the mean and the biased variance of the rows, in float32 or better. A single row
            has no variance: it is normalised by the running statistics, which stay as they are.
        momentum: share of this batch in the running statistics, where its variance is the unbiased one.
        eps: added to the variance.
        activation: "none", "gelu" (exact) or "relu".
        real: (1,) int32 number of the first rows that count; None for all. The others are never read: they give
            zeros, get zero gradients, and may hold anything, NaN too.

    Returns:
        (N, C) of the type of ``x``.
    """
    if real is None:
        training = training and len(x) > 1
        normal = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        return activate(normal, activation)
    inside = (torch.arange(len(x), device=x.device) < real)[:, None]
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = torch.where(inside, x.to(wide), 0.0)
    mean, var = running_mean.to(wide), running_var.to(wide)
    if training:
        several, count = real > 1, real.clamp(min=2).to(wide)
        mean = torch.where(several, rows.sum(0) / count, mean)
        spread = torch.where(inside, rows - mean, 0.0).square().sum(0)
        with torch.no_grad():
            unbiased = torch.where(several, spread / (count - 1.0), running_var)
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        var = torch.where(several, spread / count, var)
    normal = (rows - mean) * torch.rsqrt(var + eps) * weight.to(wide) + bias.to(wide)
    return torch.where(inside, activate(normal, activation), 0.0).to(x.dtype)
