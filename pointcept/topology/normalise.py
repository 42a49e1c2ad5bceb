"""Scale of a cloud: teacher and student live in spaces of different dimension and scale."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_scale(x: Tensor) -> Tensor:
    """Root mean square distance between two rows drawn from ``x`` (N, C): sqrt(2 tr Cov), a scalar.

    Differentiable; the gradient is zero where the scale is zero (one point, or all points equal).
    """
    return torch.linalg.vector_norm(x - x.mean(dim=0)) * (2.0 / len(x)) ** 0.5


def normalise(x: Tensor) -> Tensor:
    """Centre ``x`` (N, C) and divide it by its rms scale, in at least float32, differentiably.

    The result does not depend on position or scale of the cloud: (N, C) with rms distance 1, or zeros where
    all rows are equal.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x if x.dtype == torch.float64 else x.float()
        scale = rms_scale(x)
        return (x - x.mean(dim=0)) / torch.where(scale > 0, scale, 1.0)
