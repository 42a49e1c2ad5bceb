"""A linear layer: PyTorch's own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias.

    Args:
        x: (N, C).
        weight: (D, C) of the type of x.
        bias: (D,), or None.

    Returns:
        (N, D).
    """
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))
