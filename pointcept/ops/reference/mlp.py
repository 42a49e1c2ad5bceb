"""Linear, GELU, linear: the modules' own composition."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def _compose(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, weight1, bias1.to(x.dtype))), weight2, bias2.to(x.dtype))


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, recompute: bool = False) -> Tensor:
    """gelu(x · weight1ᵀ + bias1) · weight2ᵀ + bias2 with the exact GELU.

    Args:
        x: (N, C).
        weight1: (H, C) of the type of x.
        bias1: (H,).
        weight2: (D, H) of the type of x.
        bias2: (D,).
        recompute: keep ``x`` only and repeat everything in the backward pass.

    Returns:
        (N, D).
    """
    if recompute:
        return checkpoint(_compose, x, weight1, bias1, weight2, bias2, use_reentrant=False, preserve_rng_state=False)
    return _compose(x, weight1, bias1, weight2, bias2)
