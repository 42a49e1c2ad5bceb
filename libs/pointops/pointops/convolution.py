"""Sparse convolution as an implicit matrix product: rows are gathered on the fly, never stored.

A program computes a tile of output rows. For every kernel cell it reads the input rows of that cell
and multiplies them by the cell's weight on the tensor cores, adding up in float32; a cell that no row
of the tile uses is skipped, which on LiDAR scans is most of them. The gradient of the input is the same
product with transposed weights; the gradient of the weight sums per-slice partial products in a fixed
order, so that two runs give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable


@triton.jit(do_not_specialize=["n", "m"])
def _product_kernel(
    x_ptr,
    w_ptr,
    index_ptr,
    out_ptr,
    n,
    m,
    CELLS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    total = tl.zeros((ROWS, BLOCK_OUT), dtype=tl.float32)
    for cell in range(CELLS):
        source = tl.load(index_ptr + row * CELLS + cell, mask=row < n, other=m)
        hit = source < m
        if tl.max(hit.to(tl.int32), axis=0) > 0:
            base = x_ptr + source.to(tl.int64)[:, None] * IN
            for start in range(0, IN, BLOCK_IN):
                channel = start + tl.arange(0, BLOCK_IN)
                a = tl.load(base + channel[None, :], mask=hit[:, None] & (channel < IN)[None, :], other=0.0)
                b = tl.load(
                    w_ptr + (cell * IN + channel)[:, None] * OUT + column[None, :],
                    mask=(channel < IN)[:, None] & (column < OUT)[None, :],
                    other=0.0,
                )
                total = tl.dot(a, b, total, input_precision=PRECISION)
    place = out_ptr + row[:, None] * OUT + column[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=(row < n)[:, None] & (column < OUT)[None, :])


@triton.jit(do_not_specialize=["n", "m", "slice_rows"])
def _weight_grad_kernel(
    x_ptr,
    grad_ptr,
    index_ptr,
    out_ptr,
    n,
    m,
    slice_rows,
    CELLS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    cell = tl.program_id(0)
    tiles_out: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    channel = (tl.program_id(1) // tiles_out) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = (tl.program_id(1) % tiles_out) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    part = tl.program_id(2)
    end = tl.minimum((part + 1) * slice_rows, n)
    total = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=tl.float32)
    for start in range(part * slice_rows, end, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        source = tl.load(index_ptr + row * CELLS + cell, mask=row < end, other=m)
        hit = source < m
        if tl.max(hit.to(tl.int32), axis=0) > 0:
            a = tl.load(
                x_ptr + source.to(tl.int64)[None, :] * IN + channel[:, None],
                mask=hit[None, :] & (channel < IN)[:, None],
                other=0.0,
            )
            b = tl.load(
                grad_ptr + row[:, None] * OUT + column[None, :],
                mask=hit[:, None] & (column < OUT)[None, :],
                other=0.0,
            )
            total = tl.dot(a, b, total, input_precision=PRECISION)
    place = out_ptr + ((part * CELLS + cell) * IN + channel)[:, None] * OUT + column[None, :]
    tl.store(place, total, mask=(channel < IN)[:, None] & (column < OUT)[None, :])


def _block(channels: int, largest: int = 64) -> int:
    return min(largest, max(16, triton.next_power_of_2(channels)))


def _precision(x: torch.Tensor) -> str:
    allow_tf32 = x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allow_tf32 else "ieee"


def _product(x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """out[j] = Σ_k x[index[j, k]] · weight[k]; x (M, I), index (N, K), weight (K, I, O) -> (N, O)."""
    n, cells = index.shape
    _, width_in, width_out = weight.shape
    out = torch.empty(n, width_out, dtype=x.dtype, device=x.device)
    rows, block_out = 64, _block(width_out)
    grid = (triton.cdiv(n, rows), triton.cdiv(width_out, block_out))
    with torch.cuda.device(x.device):
        _product_kernel[grid](
            x,
            weight,
            index,
            out,
            n,
            len(x),
            cells,
            width_in,
            width_out,
            rows,
            _block(width_in),
            block_out,
            _precision(x),
        )
    return out


def _weight_grad(x: torch.Tensor, index: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Σ_j x[index[j, k]]ᵀ · grad[j] -> (K, I, O) float32."""
    n, cells = index.shape
    width_in, width_out = x.shape[1], grad.shape[1]
    rows, block_in, block_out = 64, _block(width_in), _block(width_out)
    tiles = triton.cdiv(width_in, block_in) * triton.cdiv(width_out, block_out)
    # enough slices to fill the GPU, none shorter than a few tiles
    parts = max(1, min(triton.cdiv(2048, cells * tiles), triton.cdiv(n, 8 * rows)))
    slice_rows = triton.cdiv(triton.cdiv(n, parts), rows) * rows
    parts = triton.cdiv(n, slice_rows)
    partial = torch.empty(parts, cells, width_in, width_out, dtype=torch.float32, device=x.device)
    with torch.cuda.device(x.device):
        _weight_grad_kernel[(cells, tiles, parts)](
            x, grad, index, partial, n, len(x), slice_rows, cells, width_in, width_out, rows, block_in, block_out,
            _precision(x),
        )  # fmt: skip
    return partial.sum(0) if parts > 1 else partial[0]


class _SparseConvolution(torch.autograd.Function):
    """See :func:`sparse_convolution`."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor | None
    ) -> torch.Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, index, transposed)
        return _product(x, index, weight.permute(1, 2, 0).contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, weight, index, transposed = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            by_cell = weight.permute(1, 0, 2)
            if transposed is None:
                grad_x = _product(grad, index, by_cell.flip(0).contiguous())
            else:
                grad_x = _product(grad, transposed, by_cell.contiguous())
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(x, index, grad).permute(2, 0, 1).to(weight.dtype)
        return grad_x, grad_weight, None, None


def sparse_convolution(
    x: torch.Tensor, weight: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor | None = None
) -> torch.Tensor:
    """out[j] = Σ_k weight[:, k] · x[index[j, k]], rows beyond the last counting as zero.

    Args:
        x: (M, C_in) float16, bfloat16 or float32 features on a CUDA device.
        weight: (C_out, K, C_in), or (C_out, k_x, k_y, k_z, C_in), of the same type.
        index: (N, K) int32 input row of every kernel cell, M where there is none.
        transposed: (M, K) int32 output row that reads input row i through cell k, N where there is none;
            None for a submanifold map, which is its own transpose with the cells mirrored.

    Returns:
        (N, C_out).
    """
    return _SparseConvolution.apply(x, weight.flatten(1, -2), index, transposed)
