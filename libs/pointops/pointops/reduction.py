"""Sums over the rows of a matrix: of gradients for a bias, and of the partial sums that other kernels leave.

Programs add up rows in float32, each its own, and a second launch adds up what they found, in a fixed order,
so that two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TILE = 4096  # elements that a program holds
CHANNELS = 128  # columns of a program that reads many rows
PROGRAMS = 528  # that share a tall matrix: four on each multiprocessor of an H100
PARTS = 256  # rows that a program holds of a matrix of partial sums
NARROWEST = 16  # columns of a program that reads partial sums
WARPS = 4


@triton.jit(do_not_specialize=["n", "tiles", "parts"])
def _sum_kernel(x_ptr, out_ptr, n, tiles, parts, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Row ``part`` of out: the sum of the tiles ``part``, ``part + parts``, ... of x."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    part = tl.program_id(1)
    inside = channel < C
    total = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(part, tiles, parts):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        mask = (row < n)[:, None] & inside[None, :]
        total += tl.load(x_ptr + row[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    result = tl.sum(total, axis=0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + part.to(tl.int64) * C + channel, result, mask=inside)


def _sum(x: torch.Tensor, out: torch.Tensor, rows: int, block: int) -> None:
    """x (N, C) -> out (P, C), tiles of ``rows`` rows and ``block`` columns at a time."""
    (n, channels), parts = x.shape, len(out)
    with torch.cuda.device(x.device):
        _sum_kernel[(triton.cdiv(channels, block), parts)](
            x, out, n, triton.cdiv(n, rows), parts, channels, rows, block, num_warps=WARPS
        )


def sum_parts(partial: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Add up partial sums, of which there are few, in one launch.

    Args:
        partial: (P, ...) contiguous, of a floating type on a CUDA device.
        dtype: of the result; the sum is float32.

    Returns:
        (...).
    """
    if len(partial) == 1:
        return partial[0].to(dtype)
    out = torch.empty(partial.shape[1:], dtype=dtype, device=partial.device)
    rows = min(PARTS, triton.next_power_of_2(max(1, len(partial))))
    block = min(max(NARROWEST, TILE // rows), max(NARROWEST, triton.next_power_of_2(out.numel())))
    _sum(partial.view(len(partial), -1), out.view(1, -1), rows, block)
    return out


def column_sum(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Sum over the rows of a matrix, in two launches, or in one where one tile holds all rows.

    Args:
        x: (N, C) float16, bfloat16 or float32 on a CUDA device.
        dtype: of the result; the sum is float32.

    Returns:
        (C,).
    """
    x = x.contiguous()
    n, channels = x.shape
    block = min(CHANNELS, max(NARROWEST, triton.next_power_of_2(channels)))
    rows = TILE // block
    parts = max(1, min(triton.cdiv(n, rows), PROGRAMS // triton.cdiv(channels, block)))
    partial = torch.empty(parts, channels, dtype=dtype if parts == 1 else torch.float32, device=x.device)
    _sum(x, partial, rows, block)
    return sum_parts(partial, dtype)
