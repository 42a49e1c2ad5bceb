"""Attention within patches that reads and writes the rows of points directly: nothing is gathered beforehand.

Each program handles a tile of slots of one patch and one head, with a running softmax, so that scores are never
stored. A point that also completes a last patch has two slots there, exactly ``size`` apart; only its own slot
writes a result, and the other one contributes to the gradients of its key and value. So every row of every
gradient is written by one program, without atomics, and two runs give the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from pointops.steps import softmax_step

HEAD_SIZES = (16, 32, 64, 128)
_LOG2_E = 1.4426950408889634


class Tiling(NamedTuple):
    """How a kernel is cut: its own slots, the slots it walks through at a time, warps, pipeline stages."""

    own: int
    other: int
    warps: int
    stages: int


# head size up to -> tiling of the forward pass, of the query gradients, of the key and value gradients
TILINGS = {
    32: (Tiling(64, 64, 4, 3), Tiling(64, 64, 4, 3), Tiling(128, 32, 2, 3)),
    64: (Tiling(128, 64, 4, 3), Tiling(64, 64, 4, 2), Tiling(64, 64, 4, 2)),
    128: (Tiling(64, 64, 4, 2), Tiling(64, 32, 4, 2), Tiling(64, 32, 4, 2)),
}


@triton.jit
def _length(lengths_ptr, patch, size, SHORT: tl.constexpr):
    """Points of a patch."""
    length = size
    if SHORT:
        length = tl.load(lengths_ptr + patch)
    return length


@triton.jit
def _load(ptr, row, mask, first, STRIDE: tl.constexpr, D: tl.constexpr):
    """D channels from ``first`` of the given rows."""
    place = row.to(tl.int64)[:, None] * STRIDE + first + tl.arange(0, D)[None, :]
    return tl.load(ptr + place, mask=mask[:, None], other=0.0)


@triton.jit
def _load_all(ptr, row, first, STRIDE: tl.constexpr, D: tl.constexpr):
    """As :func:`_load`, of rows that all exist: without masks, loads are wider and need fewer instructions."""
    return tl.load(ptr + row.to(tl.int64)[:, None] * STRIDE + first + tl.arange(0, D)[None, :])


@triton.jit
def _keys_and_values(
    qkv_ptr, rows_ptr, first, place, there, head, H: tl.constexpr, D: tl.constexpr, WHOLE: tl.constexpr
):
    if WHOLE:
        row = tl.load(rows_ptr + first + place)
        k = _load_all(qkv_ptr, row, (H + head) * D, 3 * H * D, D)
        v = _load_all(qkv_ptr, row, (2 * H + head) * D, 3 * H * D, D)
    else:
        row = tl.load(rows_ptr + first + place, mask=there, other=0)
        k = _load(qkv_ptr, row, there, (H + head) * D, 3 * H * D, D)
        v = _load(qkv_ptr, row, there, (2 * H + head) * D, 3 * H * D, D)
    return k, v


@triton.jit
def _attend(
    top, total, result, q, qkv_ptr, rows_ptr, first, start, length, head, scale,
    H: tl.constexpr, D: tl.constexpr, OTHER: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Take ``OTHER`` keys from ``start`` on into the running softmax; ``WHOLE`` if all of them are there."""
    place = start + tl.arange(0, OTHER)
    there = place < length
    k, v = _keys_and_values(qkv_ptr, rows_ptr, first, place, there, head, H, D, WHOLE)
    score = tl.dot(q, tl.trans(k))
    if not WHOLE:
        score = tl.where(there[None, :], score, float("-inf"))
    return softmax_step(score, v, top, total, result, scale, "ieee")


@triton.jit(do_not_specialize=["begin", "slots"])
def _forward_kernel(
    qkv_ptr,
    rows_ptr,
    slot_ptr,
    lengths_ptr,
    out_ptr,
    lse_ptr,
    begin,
    size,
    slots,
    scale,
    H: tl.constexpr,
    D: tl.constexpr,
    SHORT: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
):
    tiles = tl.cdiv(size, OWN)
    tile, head = tl.program_id(0) % tiles, (tl.program_id(0) // tiles) % H
    patch = tl.program_id(0) // (tiles * H)
    first = begin + patch.to(tl.int64) * size
    length = _length(lengths_ptr, patch, size, SHORT)
    place = tile * OWN + tl.arange(0, OWN)
    inside = place < length
    row = tl.load(rows_ptr + first + place, mask=inside, other=0)
    q = _load(qkv_ptr, row, inside, head * D, 3 * H * D, D)
    top = tl.full((OWN,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((OWN,), dtype=tl.float32)
    result = tl.zeros((OWN, D), dtype=tl.float32)
    whole = length // OTHER * OTHER
    for start in range(0, whole, OTHER):
        top, total, result = _attend(
            top, total, result, q, qkv_ptr, rows_ptr, first, start, length, head, scale, H, D, OTHER, True
        )
    if whole < length:
        top, total, result = _attend(
            top, total, result, q, qkv_ptr, rows_ptr, first, whole, length, head, scale, H, D, OTHER, False
        )
    own = inside & (tl.load(slot_ptr + row, mask=inside, other=-1) == first + place)
    channel = head * D + tl.arange(0, D)
    result = (result / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row[:, None] * (H * D) + channel[None, :], result, mask=own[:, None])
    # A query whose result nobody reads gets infinity: its weights are zero in the backward pass.
    lse = tl.where(own, top + tl.log2(total), float("inf"))
    tl.store(lse_ptr + head.to(tl.int64) * slots + first + place, lse, mask=place < size)


@triton.jit
def _query_gradient(
    total, q, grad, lse, delta, qkv_ptr, rows_ptr, first, start, length, head, scale,
    H: tl.constexpr, D: tl.constexpr, OTHER: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Add what ``OTHER`` keys from ``start`` on contribute; ``WHOLE`` if all of them are there."""
    place = start + tl.arange(0, OTHER)
    there = place < length
    k, v = _keys_and_values(qkv_ptr, rows_ptr, first, place, there, head, H, D, WHOLE)
    weight = tl.exp2(tl.dot(q, tl.trans(k)) * scale - lse[:, None])
    if not WHOLE:
        weight = tl.where(there[None, :], weight, 0.0)
    change = weight * (tl.dot(grad, tl.trans(v)) - delta[:, None])
    return tl.dot(change.to(k.dtype), k, total)


@triton.jit(do_not_specialize=["begin", "slots"])
def _query_kernel(
    qkv_ptr,
    rows_ptr,
    slot_ptr,
    lengths_ptr,
    out_ptr,
    lse_ptr,
    grad_ptr,
    delta_ptr,
    grad_qkv_ptr,
    begin,
    size,
    slots,
    scale,
    factor,
    H: tl.constexpr,
    D: tl.constexpr,
    SHORT: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
):
    """Gradient of the queries, and Σ_d out · grad of every slot for the other kernel."""
    tiles = tl.cdiv(size, OWN)
    tile, head = tl.program_id(0) % tiles, (tl.program_id(0) // tiles) % H
    patch = tl.program_id(0) // (tiles * H)
    first = begin + patch.to(tl.int64) * size
    length = _length(lengths_ptr, patch, size, SHORT)
    place = tile * OWN + tl.arange(0, OWN)
    inside = place < length
    row = tl.load(rows_ptr + first + place, mask=inside, other=0)
    own = inside & (tl.load(slot_ptr + row, mask=inside, other=-1) == first + place)
    q = _load(qkv_ptr, row, own, head * D, 3 * H * D, D)
    grad = _load(grad_ptr, row, own, head * D, H * D, D)
    out = _load(out_ptr, row, own, head * D, H * D, D)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), axis=1)
    line = head.to(tl.int64) * slots + first
    tl.store(delta_ptr + line + place, delta, mask=place < size)
    lse = tl.load(lse_ptr + line + place, mask=place < size, other=float("inf"))
    total = tl.zeros((OWN, D), dtype=tl.float32)
    whole = length // OTHER * OTHER
    for start in range(0, whole, OTHER):
        total = _query_gradient(
            total, q, grad, lse, delta, qkv_ptr, rows_ptr, first, start, length, head, scale, H, D, OTHER, True
        )
    if whole < length:
        total = _query_gradient(
            total, q, grad, lse, delta, qkv_ptr, rows_ptr, first, whole, length, head, scale, H, D, OTHER, False
        )
    place_of = grad_qkv_ptr + row[:, None] * (3 * H * D) + head * D + tl.arange(0, D)[None, :]
    tl.store(place_of, (total * factor).to(grad_qkv_ptr.dtype.element_ty), mask=own[:, None])


@triton.jit
def _key_gradients(
    grad_k, grad_v, k, v, reached, qkv_ptr, rows_ptr, lse_ptr, grad_ptr, delta_ptr, first, line, queries, head, scale,
    H: tl.constexpr, D: tl.constexpr, OTHER: tl.constexpr, EVEN: tl.constexpr, SOME: tl.constexpr,
):  # fmt: skip
    """Add what the queries of one patch contribute, to all keys or to ``SOME``, those that it reached."""
    for start in range(0, queries, OTHER):
        place = start + tl.arange(0, OTHER)
        if EVEN:  # beyond the last query there are others of the patch, whose weights are zero
            row = tl.load(rows_ptr + first + place)
            q = _load_all(qkv_ptr, row, head * D, 3 * H * D, D)
            grad = _load_all(grad_ptr, row, head * D, H * D, D)
            lse, delta = tl.load(lse_ptr + line + place), tl.load(delta_ptr + line + place)
        else:
            there = place < queries
            row = tl.load(rows_ptr + first + place, mask=there, other=0)
            q = _load(qkv_ptr, row, there, head * D, 3 * H * D, D)
            grad = _load(grad_ptr, row, there, head * D, H * D, D)
            lse = tl.load(lse_ptr + line + place, mask=there, other=float("inf"))
            delta = tl.load(delta_ptr + line + place, mask=there, other=0.0)
        weight = tl.exp2(tl.dot(k, tl.trans(q)) * scale - lse[None, :])
        if SOME:
            weight = tl.where(reached[:, None], weight, 0.0)
        grad_v = tl.dot(weight.to(grad.dtype), grad, grad_v)
        change = weight * (tl.dot(v, tl.trans(grad)) - delta[None, :])
        grad_k = tl.dot(change.to(q.dtype), q, grad_k)
    return grad_k, grad_v


@triton.jit(do_not_specialize=["begin", "slots", "patches"])
def _key_kernel(
    qkv_ptr,
    rows_ptr,
    slot_ptr,
    lengths_ptr,
    lse_ptr,
    grad_ptr,
    delta_ptr,
    grad_qkv_ptr,
    begin,
    size,
    patches,
    slots,
    scale,
    factor,
    H: tl.constexpr,
    D: tl.constexpr,
    SHORT: tl.constexpr,
    COMPLETED: tl.constexpr,
    OWN: tl.constexpr,
    OTHER: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Gradients of keys and values, from the queries of their own patch and of the one that they complete."""
    tiles = tl.cdiv(size, OWN)
    tile, head = tl.program_id(0) % tiles, (tl.program_id(0) // tiles) % H
    patch = tl.program_id(0) // (tiles * H)
    first = begin + patch.to(tl.int64) * size
    line = head.to(tl.int64) * slots + first
    if EVEN:
        first, line = tl.multiple_of(first, 16), tl.multiple_of(line, 16)
    length = _length(lengths_ptr, patch, size, SHORT)
    place = tile * OWN + tl.arange(0, OWN)
    inside = place < length
    row = tl.load(rows_ptr + first + place, mask=inside, other=0)
    own = inside & (tl.load(slot_ptr + row, mask=inside, other=-1) == first + place)
    k = _load(qkv_ptr, row, own, (H + head) * D, 3 * H * D, D)
    v = _load(qkv_ptr, row, own, (2 * H + head) * D, 3 * H * D, D)
    grad_k = tl.zeros((OWN, D), dtype=tl.float32)
    grad_v = tl.zeros((OWN, D), dtype=tl.float32)
    queries = tl.where(tl.max(own.to(tl.int32), axis=0) > 0, length, 0)
    grad_k, grad_v = _key_gradients(
        grad_k, grad_v, k, v, own, qkv_ptr, rows_ptr, lse_ptr, grad_ptr, delta_ptr, first, line, queries, head, scale,
        H, D, OTHER, EVEN, False,
    )  # fmt: skip
    if COMPLETED:
        following = own & (patch + 1 < patches)
        again = own & (tl.load(rows_ptr + first + size + place, mask=following, other=-1) == row)
        queries = tl.where(tl.max(again.to(tl.int32), axis=0) > 0, size, 0)
        grad_k, grad_v = _key_gradients(
            grad_k, grad_v, k, v, again, qkv_ptr, rows_ptr, lse_ptr, grad_ptr, delta_ptr, first + size, line + size,
            queries, head, scale, H, D, OTHER, EVEN, True,
        )  # fmt: skip
    place_of = grad_qkv_ptr + row[:, None] * (3 * H * D) + (H + head) * D + tl.arange(0, D)[None, :]
    tl.store(place_of, (grad_k * factor).to(grad_qkv_ptr.dtype.element_ty), mask=own[:, None])
    tl.store(place_of + H * D, grad_v.to(grad_qkv_ptr.dtype.element_ty), mask=own[:, None])


class _Group(NamedTuple):
    """Patches of one size: first slot, number, slots of each, points of each if they differ, completed ones or not."""

    begin: int
    patches: int
    size: int
    lengths: torch.Tensor | None
    completed: bool


def _groups(
    full: tuple[int, int], short: tuple[int, int], lengths: torch.Tensor | None, completed: bool
) -> list[_Group]:
    """The full and the short patches; a short one stands alone, unless it is told that it may be completed."""
    groups = [_Group(0, *full, None, True), _Group(full[0] * full[1], *short, lengths, completed)]
    return [group for group in groups if group.patches]


def _padded_slots(rows: torch.Tensor) -> int:
    """What a line of numbers for all slots takes, so that the line of every head is aligned."""
    return triton.cdiv(len(rows), 16) * 16


def _tilings(head_size: int) -> tuple[Tiling, Tiling, Tiling]:
    return next(found for limit, found in TILINGS.items() if head_size <= limit)


class _PatchAttention(torch.autograd.Function):
    """See :func:`patch_attention`."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        rows: torch.Tensor,
        slot: torch.Tensor,
        lengths: torch.Tensor | None,
        full: tuple[int, int],
        short: tuple[int, int],
        heads: int,
        scale: float,
        completed: bool,
    ) -> torch.Tensor:
        qkv = qkv.contiguous()
        channels = qkv.shape[1] // 3
        size_of_head, slots = channels // heads, _padded_slots(rows)
        # in completed short patches there may be rows of padding, which have no slot and get zeros
        make = torch.zeros if completed else torch.empty
        out = make(len(qkv), channels, dtype=qkv.dtype, device=qkv.device)
        lse = torch.empty(heads, slots, dtype=torch.float32, device=qkv.device)
        own, other, warps, stages = _tilings(size_of_head)[0]
        with torch.cuda.device(qkv.device):
            for begin, patches, size, counts, _ in _groups(full, short, lengths, completed):
                _forward_kernel[(triton.cdiv(size, own) * heads * patches,)](
                    qkv, rows, slot, rows if counts is None else counts, out, lse, begin, size, slots,
                    scale * _LOG2_E, heads, size_of_head, counts is not None, own, other,
                    num_warps=warps, num_stages=stages,
                )  # fmt: skip
        ctx.save_for_backward(qkv, rows, slot, lengths, out, lse)
        ctx.options = full, short, heads, scale, completed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, rows, slot, lengths, out, lse = ctx.saved_tensors
        full, short, heads, scale, completed = ctx.options
        grad = grad.contiguous()
        slots, size_of_head = _padded_slots(rows), qkv.shape[1] // 3 // heads
        grad_qkv = torch.zeros_like(qkv) if completed else torch.empty_like(qkv)
        delta = torch.empty_like(lse)
        _, by_query, by_key = _tilings(size_of_head)
        with torch.cuda.device(qkv.device):
            for begin, patches, size, counts, again in _groups(full, short, lengths, completed):
                short_ones, lengths_or_any = counts is not None, rows if counts is None else counts
                _query_kernel[(triton.cdiv(size, by_query.own) * heads * patches,)](
                    qkv, rows, slot, lengths_or_any, out, lse, grad, delta, grad_qkv, begin, size, slots,
                    scale * _LOG2_E, scale, heads, size_of_head, short_ones, by_query.own, by_query.other,
                    num_warps=by_query.warps, num_stages=by_query.stages,
                )  # fmt: skip
                _key_kernel[(triton.cdiv(size, by_key.own) * heads * patches,)](
                    qkv, rows, slot, lengths_or_any, lse, grad, delta, grad_qkv, begin, size, patches, slots,
                    scale * _LOG2_E, scale, heads, size_of_head, short_ones, again, by_key.own, by_key.other,
                    size % max(16, by_key.other) == 0 and begin % 16 == 0,
                    num_warps=by_key.warps, num_stages=by_key.stages,
                )  # fmt: skip
        return grad_qkv, *[None] * 8


def supports(channels: int, heads: int) -> bool:
    """Whether the kernels handle heads of this size."""
    return channels % heads == 0 and channels // heads in HEAD_SIZES


def patch_attention(
    qkv: torch.Tensor,
    plan: Any,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    bias: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
) -> torch.Tensor:
    """Multi-head softmax attention of every point to the points of its patch.

    Args:
        qkv: (N, 3·C) float16 or bfloat16 on a CUDA device.
        plan: slots of the full and of the short patches, as ``pointcept.ops.reference.attention`` describes them.
        heads: H; C / H in ``HEAD_SIZES``.
        scale: factor of the scores, positive.
        dropout, bias: none; these kernels have neither.

    Returns:
        (N, C).
    """
    lengths = plan.lengths
    if lengths is None and plan.short_mask is not None:
        lengths = plan.short_mask.flatten(1).sum(1, dtype=torch.int32)
    return _PatchAttention.apply(
        qkv, plan.rows, plan.slot, lengths, plan.full, plan.short, heads, scale, plan.completed
    )
