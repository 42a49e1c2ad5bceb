"""Reductions over the rows of a cluster, and their transpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _SegmentMax(torch.autograd.Function):
    """segment_reduce, whose own gradient (torch 2.13) forgets to divide negative ones among equal maxima."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
        rows = x.index_select(0, permutation)
        largest = torch.segment_reduce(rows, "max", lengths=lengths, unsafe=True)
        largest = largest.masked_fill((lengths == 0)[:, None], 0.0)
        ctx.save_for_backward(rows, largest, permutation, lengths)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, largest, permutation, lengths = ctx.saved_tensors
        cluster = torch.arange(len(lengths), device=rows.device)
        cluster = torch.repeat_interleave(cluster, lengths, output_size=len(rows))
        equal = (rows == largest.index_select(0, cluster)) | rows.isnan()
        wide = torch.promote_types(grad.dtype, torch.float32)
        count = torch.segment_reduce(equal.to(wide), "sum", lengths=lengths, unsafe=True)
        share = (grad / count).to(grad.dtype).index_select(0, cluster)
        return torch.empty_like(rows).index_copy_(0, permutation, torch.where(equal, share, 0.0)), None, None


def segment_max(x: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
    """Largest value of every channel within each cluster.

    Args:
        x: (N, C) features.
        permutation: (N,) rows sorted by cluster.
        lengths: (M,) int64 rows of each cluster; every row belongs to one.

    Returns:
        (M, C), 0 where a cluster has no row; the gradient goes to the largest row, in equal shares where several are
        equal.
    """
    return _SegmentMax.apply(x, permutation, lengths)


class _Expand(torch.autograd.Function):
    """Copy the row of each cluster to its members; backward is a sum without atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cluster: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(permutation, lengths)
        return x.index_select(0, cluster)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        permutation, lengths = ctx.saved_tensors
        rows = grad.index_select(0, permutation)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        total = torch.segment_reduce(rows, "sum", lengths=lengths, unsafe=True)
        return total.to(grad.dtype), None, None, None


def expand(x: Tensor, cluster: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
    """Give every row the features of its cluster: x[cluster].

    Args:
        x: (M, C) features of the clusters.
        cluster: (N,) cluster of each row.
        permutation: (N,) rows sorted by cluster.
        lengths: (M,) int64 rows of each cluster.

    Returns:
        (N, C); in the backward pass the sum over the members, accumulated in float32 or better.
    """
    return _Expand.apply(x, cluster, permutation, lengths)
