"""Attention within patches of points along a space-filling curve (PTv3, arXiv 2312.10035, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's attention is left out: it builds a plan for every new number of patches, and with real scans that
# number is new at almost every step.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@dataclass
class PatchPlan:
    """How the points of a batch fill patches.

    Scans of more than ``patch_size`` points fill P full patches; each smaller scan is one short patch.
    Slots are numbered through the full patches, then through the short ones.

    Attributes:
        rows: (P·K + S·L,) point in each slot; K = patch_size, L = points of the largest short scan.
        slot: (N,) the slot that gives each point its result; -1 for a row of padding, whose result is 0.
        repeated: (R,) slots whose point has its result in another slot (they complete a last patch).
        full: (P, K).
        short: (S, L).
        short_mask: (S, 1, 1, L) bool, True where a point lies; None if all short scans have L points.
        lengths: (S,) int32 points of each short patch, 0 where there is none; None where ``short_mask`` tells.
        completed: every patch is a short one, L = K, and one of K points may be the last patch of a scan, completed
            with points of the patch before it, which stand K slots earlier. Rows of padding are possible.
    """

    rows: Tensor
    slot: Tensor
    repeated: Tensor
    full: tuple[int, int]
    short: tuple[int, int]
    short_mask: Tensor | None
    lengths: Tensor | None = None
    completed: bool = False


@dataclass
class PatchLayout:
    """Which positions along an order fill the slots of patches, the same for all orders; see :class:`PatchPlan`.

    Attributes:
        positions: (P·K + S·L,) position along the order that fills each slot.
        shift: (N,) the slot that gives a point its result, less its position.
        repeated, full, short, short_mask: of the plans.
    """

    positions: Tensor
    shift: Tensor
    repeated: Tensor
    full: tuple[int, int]
    short: tuple[int, int]
    short_mask: Tensor | None


def patch_layout(batch: Tensor, counts: list[int], patch_size: int) -> PatchLayout:
    """Lay the positions along an order into patches.

    Args:
        batch: (N,) scan of each point.
        counts: points of each scan, on the host.
        patch_size: K.

    Returns:
        The layout. If r = n mod K is not 0 for a scan of n > K points, its last patch holds the r
        remaining points and the points at positions r … K−1 of the patch before it.
    """
    device, k = batch.device, patch_size
    size, end = np.array(counts), np.cumsum(counts)
    begin, large = end - size, size > k
    held = -(-size // k) * large  # full patches of each scan
    patches, short = int(held.sum()), int((~large).sum())
    short_length = int(size[~large].max(initial=0))
    first = (np.cumsum(held) - held) * k  # slot of each large scan
    first[~large] = patches * k + np.arange(short) * short_length
    number = np.arange(patches) - np.repeat(np.cumsum(held) - held, held)  # of each patch in its scan
    repeated = [np.arange(s + n, s + h * k) for s, n, h in zip(first[large], size[large], held[large], strict=True)]
    # One small copy to the device, which the host does not wait for.
    parts = [np.repeat(begin, held) + number * k, np.repeat(end, held), begin[~large], size[~large], first - begin]
    table = torch.from_numpy(np.concatenate([*parts, *repeated])).to(device, non_blocking=True)
    start, stop, of_short, length, shift, again = table.split([*map(len, parts), len(table) - sum(map(len, parts))])
    positions, mask = [], None
    if patches:
        position = start[:, None] + torch.arange(k, device=device)
        positions.append(torch.where(position >= stop[:, None], position - k, position).view(-1))
    if short:
        place = torch.arange(short_length, device=device)
        inside = place < length[:, None]
        positions.append((of_short[:, None] + place.where(inside, 0)).view(-1))
        if (size[~large] != short_length).any():
            mask = inside[:, None, None, :]
    return PatchLayout(
        positions=torch.cat(positions) if len(positions) > 1 else positions[0],
        shift=shift.index_select(0, batch),
        repeated=again,
        full=(patches, k),
        short=(short, short_length),
        short_mask=mask,
    )


def patch_plan(permutation: Tensor, inverse: Tensor, layout: PatchLayout) -> PatchPlan:
    """Fill patches with the points of a batch along one serialization order.

    Args:
        permutation: (N,) points in serialized order, scan after scan.
        inverse: (N,) position of each point in that order.
        layout: of the batch.
    """
    rows = permutation.index_select(0, layout.positions)
    return PatchPlan(rows, inverse + layout.shift, layout.repeated, layout.full, layout.short, layout.short_mask)


def _take(rows: Tensor, slot: Tensor, padding: bool) -> Tensor:
    """rows[slot]; zeros where the slot is -1, if there are such."""
    if not padding:
        return rows.index_select(0, slot)
    return rows.index_select(0, slot.clamp(min=0)).masked_fill_((slot < 0)[:, None], 0.0)


def _to_points(grad: Tensor, rows: Tensor, slot: Tensor, repeated: Tensor, padding: bool) -> Tensor:
    """Gradients of slots -> of points: each point's own slot, and the few repeated ones added."""
    total = _take(grad, slot, padding)
    if len(repeated):
        total.index_add_(0, rows.index_select(0, repeated), grad.index_select(0, repeated))
    return total


class _ToSlots(torch.autograd.Function):
    """x[rows]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, slot: Tensor, repeated: Tensor, padding: bool) -> Tensor:
        ctx.save_for_backward(rows, slot, repeated)
        ctx.padding = padding
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, slot, repeated = ctx.saved_tensors
        return _to_points(grad, rows, slot, repeated, ctx.padding), None, None, None, None


class _ToHeads(torch.autograd.Function):
    """x[rows] as query, key and value (slots, H, D) each, views of one buffer; their gradients meet in one copy."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, heads: int, rows: Tensor, slot: Tensor, repeated: Tensor, padding: bool
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(rows, slot, repeated)
        ctx.padding = padding
        packed = x.index_select(0, rows).view(len(rows), 3, heads, -1)
        return packed[:, 0], packed[:, 1], packed[:, 2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, slot, repeated = ctx.saved_tensors
        grad = torch.stack(grads, 1).flatten(1)
        return _to_points(grad, rows, slot, repeated, ctx.padding), None, None, None, None, None


class _FromSlots(torch.autograd.Function):
    """y[slot]; backward writes each row once, the other slots get zero."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, slot: Tensor, padding: bool) -> Tensor:
        ctx.save_for_backward(slot)
        ctx.slots, ctx.padding = len(y), padding
        return _take(y, slot, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slot,) = ctx.saved_tensors
        if not ctx.padding:
            return grad.new_zeros(ctx.slots, grad.shape[1]).index_copy_(0, slot, grad), None, None
        target = slot.where(slot >= 0, ctx.slots)  # one row more, where padding goes
        total = grad.new_zeros(ctx.slots + 1, grad.shape[1]).index_copy_(0, target, grad)
        return total[: ctx.slots], None, None


def to_slots(x: Tensor, plan: PatchPlan) -> Tensor:
    """Rows of points (N, C) -> rows of slots (P·K + S·L, C)."""
    return _ToSlots.apply(x, plan.rows, plan.slot, plan.repeated, plan.completed)


def from_slots(y: Tensor, plan: PatchPlan) -> Tensor:
    """Rows of slots (P·K + S·L, C) -> rows of points (N, C); slots that give no point its result are left out."""
    return _FromSlots.apply(y, plan.slot, plan.completed)


def patch_attention(
    qkv: Tensor,
    plan: PatchPlan,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    bias: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """Multi-head softmax attention of every point to the points of its patch.

    Args:
        qkv: (N, 3·C) query, key and value of each point, each split into ``heads``.
        plan: how the points fill patches.
        heads: H.
        scale: factor of the scores.
        dropout: probability of dropping an attention weight.
        bias: added to the scores of the full and of the short patches, (P, H, K, K) and (S, H, L, L).

    Returns:
        (N, C).
    """
    channels = qkv.shape[1] // 3
    slots = _ToHeads.apply(qkv, heads, plan.rows, plan.slot, plan.repeated, plan.completed)
    outputs, begin = [], 0
    for (patches, size), mask, extra in zip((plan.full, plan.short), (None, plan.short_mask), bias, strict=True):
        if patches == 0:
            continue
        end = begin + patches * size
        q, k, v = (part[begin:end].unflatten(0, (patches, size)).transpose(1, 2) for part in slots)
        begin = end
        if extra is not None and mask is not None:
            mask = extra.masked_fill(~mask, float("-inf"))
        elif extra is not None:
            mask = extra
        with sdpa_kernel(_KERNELS):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        outputs.append(out.transpose(1, 2).reshape(patches * size, channels))
    return from_slots(torch.cat(outputs) if len(outputs) > 1 else outputs[0], plan)
