"""Patch attention by flash-attn 2 (https://github.com/Dao-AILab/flash-attention): float16 and bfloat16.

Patches go to the kernels as they lie, query, key and value packed. Scans of different sizes that fill
less than a patch are packed end to end, so no score of an empty slot is ever computed.
"""

from __future__ import annotations

import functools
import importlib
import logging

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pointcept.ops.reference import attention

logger = logging.getLogger(__name__)

_packing: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _pack(short_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The used slots (U,) of the short patches and where each patch ends among them, (S + 1,) int32; remembered."""
    if short_mask not in _packing:
        ends = F.pad(short_mask.flatten(1).sum(1).cumsum(0), (1, 0)).int()
        _packing[short_mask] = (short_mask.flatten().nonzero().flatten(), ends)
    return _packing[short_mask]


@functools.cache
def _say_that_a_bias_needs_sdpa() -> None:
    logger.info("ops: patch_attention uses sdpa where there is a relative position bias (flash_attn takes none)")


def patch_attention(
    qkv: Tensor,
    plan: attention.PatchPlan,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    bias: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """See :func:`pointcept.ops.reference.attention.patch_attention`, which also computes what has a ``bias``."""
    if any(extra is not None for extra in bias):
        _say_that_a_bias_needs_sdpa()
        return attention.patch_attention(qkv, plan, heads, scale, dropout, bias)
    library = importlib.import_module("flash_attn")
    channels = qkv.shape[1] // 3
    options = {
        "dropout_p": dropout,
        "softmax_scale": scale,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    slots = attention.to_slots(qkv, plan).view(-1, 3, heads, channels // heads)
    outputs, begin = [], 0
    for (patches, size), mask in zip((plan.full, plan.short), (None, plan.short_mask), strict=True):
        if patches == 0:
            continue
        part = slots[begin : begin + patches * size]
        begin += patches * size
        if mask is None:
            out = library.flash_attn_qkvpacked_func(part.unflatten(0, (patches, size)), **options).flatten(0, 1)
        else:
            used, ends = _pack(mask)
            out = library.flash_attn_varlen_qkvpacked_func(part.index_select(0, used), ends, size, **options)
            out = out.new_zeros(len(part), *out.shape[1:]).index_copy(0, used, out)
        outputs.append(out.reshape(-1, channels))
    return attention.from_slots(torch.cat(outputs) if len(outputs) > 1 else outputs[0], plan)
