"""Attention of points to a window of consecutive points along a space-filling curve; scores never leave the chip.

A patch of ``patch_size`` points attends to its window, which for the last patch of a scan is the scan's last
``patch_size`` points. Softmax is computed block by block with a running maximum (Milakov and Gimelshein,
arXiv 1805.02867; Dao et al., arXiv 2205.14135). The ends of the scans are read on the device.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from pointops.padded import block_size, precision
from pointops.steps import softmax_step


@triton.jit
def _locate(patch, ends_ptr, SCANS: tl.constexpr, PATCH: tl.constexpr):
    """The scan that a patch lies in: where it begins, its points, and how many patches come before it."""
    begin = tl.zeros((), dtype=tl.int32)
    points = tl.zeros((), dtype=tl.int32)
    before = tl.zeros((), dtype=tl.int32)
    previous = tl.zeros((), dtype=tl.int32)
    passed = tl.zeros((), dtype=tl.int32)
    for b in range(SCANS):
        end = tl.load(ends_ptr + b)
        patches = (end - previous + PATCH - 1) // PATCH
        here = (patch >= passed) & (patch < passed + patches)
        begin = tl.where(here, previous, begin)
        points = tl.where(here, end - previous, points)
        before = tl.where(here, passed, before)
        passed += patches
        previous = end
    return begin, points, before


@triton.jit
def _attend(
    best, total, out, q, key_ptr, window, first, length, known, scale,
    WIDTH: tl.constexpr, KEYS: tl.constexpr, BLOCK_DIM: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take the keys from ``first`` on into the running softmax; ``WHOLE`` if ``KEYS`` of them are there."""
    key = first + tl.arange(0, KEYS)
    channel = tl.arange(0, BLOCK_DIM)
    row = (window + key).to(tl.int64) * (3 * WIDTH)
    there = key < length
    of_k, of_v = known[:, None], known[None, :]
    if not WHOLE:
        of_k, of_v = there[None, :] & of_k, there[:, None] & of_v
    k = tl.load(key_ptr + row[None, :] + channel[:, None], mask=of_k, other=0.0)
    v = tl.load(key_ptr + WIDTH + row[:, None] + channel[None, :], mask=of_v, other=0.0)
    score = tl.dot(q, k, input_precision=PRECISION)
    if not WHOLE:
        score = tl.where(there[None, :], score, float("-inf"))
    return softmax_step(score, v, best, total, out, scale, PRECISION)


@triton.jit
def _attention_kernel(
    qkv_ptr,
    ends_ptr,
    out_ptr,
    scale,
    SCANS: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PATCH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    blocks: tl.constexpr = (PATCH + QUERIES - 1) // QUERIES
    patch = tl.program_id(0) // blocks
    offset = tl.program_id(0) % blocks * QUERIES
    head = tl.program_id(1)
    begin, points, before = _locate(patch, ends_ptr, SCANS, PATCH)
    start = (patch - before) * PATCH
    if start + offset >= points:
        return
    query = start + offset + tl.arange(0, QUERIES)
    asked = (query < points) & (query < start + PATCH)
    channel = tl.arange(0, BLOCK_DIM)
    known = channel < DIM
    width: tl.constexpr = HEADS * DIM
    window = begin + tl.minimum(start, tl.maximum(points - PATCH, 0))
    length = tl.minimum(points, PATCH)
    base = qkv_ptr + head * DIM
    q = tl.load(
        base + (begin + query).to(tl.int64)[:, None] * (3 * width) + channel[None, :],
        mask=asked[:, None] & known[None, :],
        other=0.0,
    )
    best = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    out = tl.zeros((QUERIES, BLOCK_DIM), dtype=tl.float32)
    whole = length // KEYS * KEYS
    for first in range(0, whole, KEYS):
        best, total, out = _attend(
            best, total, out, q, base + width, window, first, length, known, scale, width, KEYS, BLOCK_DIM, True,
            PRECISION,
        )  # fmt: skip
    if whole < length:
        best, total, out = _attend(
            best, total, out, q, base + width, window, whole, length, known, scale, width, KEYS, BLOCK_DIM, False,
            PRECISION,
        )  # fmt: skip
    out = out / total[:, None]
    tl.store(
        out_ptr + (begin + query).to(tl.int64)[:, None] * width + head * DIM + channel[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=asked[:, None] & known[None, :],
    )


def window_attention(qkv: torch.Tensor, ends: torch.Tensor, heads: int, scale: float, patch_size: int) -> torch.Tensor:
    """Attention in patches of consecutive points.

    Args:
        qkv: (N, 3·C) query, key and value in serialized order, each split into ``heads``, on a CUDA device.
        ends: (B,) int32 cumulative ends of the scans.
        heads: H.
        scale: factor of the scores, positive.
        patch_size: K.

    Returns:
        (N, C) in serialized order.
    """
    n, channels = len(qkv), qkv.shape[1] // 3
    dim = channels // heads
    # enough programs for a large GPU, each with as many queries as possible
    queries = 64 if qkv.dtype == torch.float32 or n * heads < 128 * 264 else 128
    queries = min(queries, block_size(patch_size, queries))
    blocks = (n // patch_size + len(ends)) * triton.cdiv(patch_size, queries)
    out = torch.empty(n, channels, dtype=qkv.dtype, device=qkv.device)
    with torch.cuda.device(qkv.device):
        _attention_kernel[(blocks, heads)](
            qkv,
            ends,
            out,
            scale * math.log2(math.e),
            len(ends),
            heads,
            dim,
            block_size(dim, 256),
            patch_size,
            queries,
            min(64, queries),
            precision(qkv),
            num_warps=4,
        )
    return out
