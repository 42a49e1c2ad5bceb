"""Largest value within each cluster of rows, copies of a cluster's row to its members, and their gradients.

A program owns the rows of some clusters and visits the members one after the other, straight through the
permutation: nothing is gathered into an array first, and no two programs write the same element.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

TILE = 1024  # elements that a program holds
CHANNELS = 128  # of a program
WARPS = 4


@triton.jit
def _segments(ends_ptr, lengths_ptr, m, ROWS: tl.constexpr):
    """Clusters of a program, whether they exist, where their members begin, and how many there are."""
    cluster = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = cluster < m
    length = tl.load(lengths_ptr + cluster, mask=here, other=0).to(tl.int64)
    return cluster, here, tl.load(ends_ptr + cluster, mask=here, other=0) - length, length


@triton.jit(do_not_specialize=["m"])
def _reduce_kernel(
    x_ptr,
    permutation_ptr,
    ends_ptr,
    lengths_ptr,
    out_ptr,
    m,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    MAX: tl.constexpr,
):
    """The largest value of each cluster, NaN if there is one among them, or the sum."""
    cluster, here, begin, length = _segments(ends_ptr, lengths_ptr, m, ROWS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (channel < C)[None, :]
    total = tl.full((ROWS, BLOCK), float("-inf") if MAX else 0.0, dtype=tl.float32)
    for member in range(tl.max(length, axis=0)):
        there = member < length
        row = tl.load(permutation_ptr + begin + member, mask=there, other=0).to(tl.int64)
        mask = there[:, None] & inside
        v = tl.load(x_ptr + row[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        if MAX:
            total = tl.where(there[:, None] & ((v > total) | (v != v)), v, total)
        else:
            total += v
    total = tl.where((length > 0)[:, None], total, 0.0)
    place = out_ptr + cluster[:, None] * C + channel[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=here[:, None] & inside)


@triton.jit(do_not_specialize=["m"])
def _max_backward_kernel(
    x_ptr,
    permutation_ptr,
    ends_ptr,
    lengths_ptr,
    grad_ptr,
    grad_x_ptr,
    m,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Find the largest value of each cluster and how often it occurs; these members share the gradient."""
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (channel < C)[None, :]
    cluster, here, begin, length = _segments(ends_ptr, lengths_ptr, m, ROWS)
    most = tl.max(length, axis=0)
    best = tl.full((ROWS, BLOCK), float("-inf"), dtype=tl.float32)
    count = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for member in range(most):
        there = member < length
        row = tl.load(permutation_ptr + begin + member, mask=there, other=0).to(tl.int64)
        mask = there[:, None] & inside
        v = tl.load(x_ptr + row[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        nan, best_nan = v != v, best != best
        larger = there[:, None] & ((v > best) | (nan & ~best_nan))
        equal = there[:, None] & ((v == best) | (nan & best_nan))
        count = tl.where(larger, 1.0, tl.where(equal, count + 1.0, count))
        best = tl.where(larger, v, best)
    place = cluster[:, None] * C + channel[None, :]
    grad = tl.load(grad_ptr + place, mask=here[:, None] & inside, other=0.0).to(tl.float32)
    share = tl.div_rn(grad, tl.maximum(count, 1.0))  # as torch divides
    for member in range(most):
        there = member < length
        row = tl.load(permutation_ptr + begin + member, mask=there, other=0).to(tl.int64)
        place = row[:, None] * C + channel[None, :]
        mask = there[:, None] & inside
        v = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        own = tl.where((v == best) | (v != v), share, 0.0)
        tl.store(grad_x_ptr + place, own.to(grad_x_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n"])
def _gather_kernel(x_ptr, index_ptr, out_ptr, n, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out = x[index]."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = (row < n)[:, None] & (channel < C)[None, :]
    source = tl.load(index_ptr + row, mask=row < n, other=0).to(tl.int64)
    v = tl.load(x_ptr + source[:, None] * C + channel[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + row[:, None] * C + channel[None, :], v, mask=mask)


def _tile(channels: int) -> tuple[int, int, int]:
    """Rows and channels of a program, and how many programs share the channels."""
    block = min(CHANNELS, max(16, triton.next_power_of_2(channels)))
    return TILE // block, block, triton.cdiv(channels, block)


def _reduce(
    x: torch.Tensor, permutation: torch.Tensor, ends: torch.Tensor, lengths: torch.Tensor, largest: bool
) -> torch.Tensor:
    m, channels = len(lengths), x.shape[1]
    rows, block, columns = _tile(channels)
    out = torch.empty(m, channels, dtype=x.dtype, device=x.device)
    with torch.cuda.device(x.device):
        _reduce_kernel[(triton.cdiv(m, rows), columns)](
            x, permutation, ends, lengths, out, m, channels, rows, block, largest, num_warps=WARPS
        )
    return out


class _SegmentMax(torch.autograd.Function):
    """See :func:`segment_max`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, permutation: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x, permutation, lengths = x.contiguous(), permutation.contiguous(), lengths.contiguous()
        ends = lengths.cumsum(0)
        ctx.save_for_backward(x, permutation, ends, lengths)
        return _reduce(x, permutation, ends, lengths, True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, permutation, ends, lengths = ctx.saved_tensors
        m, channels = grad.shape
        rows, block, columns = _tile(channels)
        grad_x = torch.empty_like(x)
        with torch.cuda.device(x.device):
            _max_backward_kernel[(triton.cdiv(m, rows), columns)](
                x, permutation, ends, lengths, grad.contiguous(), grad_x, m, channels, rows, block,
                num_warps=WARPS,
            )  # fmt: skip
        return grad_x, None, None


class _Expand(torch.autograd.Function):
    """See :func:`expand`."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, cluster: torch.Tensor, permutation: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        x, cluster = x.contiguous(), cluster.contiguous()
        ctx.save_for_backward(permutation, lengths)
        n, channels = len(cluster), x.shape[1]
        rows, block, columns = _tile(channels)
        out = torch.empty(n, channels, dtype=x.dtype, device=x.device)
        with torch.cuda.device(x.device):
            _gather_kernel[(triton.cdiv(n, rows), columns)](x, cluster, out, n, channels, rows, block, num_warps=WARPS)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        permutation, lengths = (t.contiguous() for t in ctx.saved_tensors)
        return _reduce(grad.contiguous(), permutation, lengths.cumsum(0), lengths, False), None, None, None


def segment_max(x: torch.Tensor, permutation: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Largest value of every channel within each cluster.

    Args:
        x: (N, C) float16, bfloat16 or float32 features on a CUDA device.
        permutation: (N,) integer rows sorted by cluster.
        lengths: (M,) integer rows of each cluster; every row belongs to one.

    Returns:
        (M, C), 0 where a cluster has no row; the gradient goes to the largest row, in equal shares where several are
        equal.
    """
    return _SegmentMax.apply(x, permutation, lengths)


def expand(x: torch.Tensor, cluster: torch.Tensor, permutation: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Give every row the features of its cluster: x[cluster].

    Args:
        x: (M, C) float16, bfloat16 or float32 features of the clusters on a CUDA device.
        cluster: (N,) integer cluster of each row.
        permutation: (N,) integer rows sorted by cluster.
        lengths: (M,) integer rows of each cluster.

    Returns:
        (N, C); in the backward pass the sum over the members, accumulated in float32.
    """
    return _Expand.apply(x, cluster, permutation, lengths)
