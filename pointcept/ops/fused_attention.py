"""Patch attention by our kernels where they apply, else by PyTorch's."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from pointcept.ops.reference import attention


def patch_attention(
    qkv: Tensor,
    plan: attention.PatchPlan,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    bias: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """See :func:`pointcept.ops.reference.attention.patch_attention`.

    The kernels take float16 and bfloat16, heads of ``pointops.attention.HEAD_SIZES`` channels, a positive scale, no
    dropout and no bias; all else is computed there.
    """
    kernels = importlib.import_module("pointops.attention")
    half = qkv.dtype in (torch.float16, torch.bfloat16)
    plain = scale > 0.0 and dropout == 0.0 and all(extra is None for extra in bias)
    fits = half and plain and kernels.supports(qkv.shape[1] // 3, heads)
    return (kernels if fits else attention).patch_attention(qkv, plan, heads, scale, dropout, bias)
