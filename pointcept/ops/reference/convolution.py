"""Sparse convolution as one gather and one matrix product, forward and backward.

For every output row the K input rows of its kernel cells are gathered side by side, missing ones as
zeros, and multiplied by the weight as one (K·C_in, C_out) matrix: two launches for any kernel size,
no atomics, the same on every device. The gathered rows are never kept for the backward pass; they are
gathered again. A bound on the buffer splits large clouds into several products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

GATHER_BYTES = 512 * 2**20


def _chunks(index: Tensor, channels: int, itemsize: int) -> list[slice]:
    """Row ranges of ``index`` (N, K) whose gathered rows fit into ``GATHER_BYTES``."""
    rows, cells = index.shape
    step = max(1, GATHER_BYTES // max(1, cells * channels * itemsize))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def _with_zero_row(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, 1))


def _gather(padded: Tensor, index: Tensor) -> Tensor:
    """(M + 1, C) rows by (N, K) -> (N, K·C)."""
    return padded.index_select(0, index.reshape(-1)).view(len(index), -1)


def _gathered_product(x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """out[j] = Σ_k weight[:, k] · x[index[j, k]]; x (M, I), index (N, K), weight (O, K·I) -> (N, O)."""
    padded = _with_zero_row(x)
    chunks = _chunks(index, x.shape[1], x.element_size())
    if len(chunks) == 1:
        return _gather(padded, index) @ weight.t()
    out = x.new_empty(len(index), len(weight))
    for part in chunks:
        torch.mm(_gather(padded, index[part]), weight.t(), out=out[part])
    return out


class _SparseConvolution(torch.autograd.Function):
    """See :func:`sparse_convolution`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, index, transposed)
        return _gathered_product(x, index, weight.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, index, transposed = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.flip(1) if transposed is None else weight
            by_input = mirrored.permute(2, 1, 0).flatten(1)
            grad_x = _gathered_product(grad, index if transposed is None else transposed, by_input)
        if ctx.needs_input_grad[1]:
            padded = _with_zero_row(x)
            parts = _chunks(index, x.shape[1], x.element_size())
            total = sum(grad[p].t() @ _gather(padded, index[p]) for p in parts)
            grad_weight = torch.as_tensor(total).view_as(weight)
        return grad_x, grad_weight, None, None


def sparse_convolution(
    x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """out[j] = Σ_k weight[:, k] · x[index[j, k]] + bias, rows beyond the last counting as zero.

    Args:
        x: (M, C_in) features.
        weight: (C_out, K, C_in), or (C_out, k_x, k_y, k_z, C_in) with K = k_x·k_y·k_z.
        index: (N, K) int32 input row of every kernel cell, M where there is none.
        transposed: (M, K) int32 output row that reads input row i through cell k, N where there is none;
            None for a submanifold map, which is its own transpose with the cells mirrored.
        bias: (C_out,) added to every row.

    Returns:
        (N, C_out).
    """
    out = _SparseConvolution.apply(x, weight.flatten(1, -2), index, transposed)
    return out if bias is None else out + bias.to(out.dtype)
