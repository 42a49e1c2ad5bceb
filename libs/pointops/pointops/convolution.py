"""Sparse convolution as an implicit matrix product: rows are gathered on the fly, never stored.

A program computes a tile of output rows, in large products in an order in which rows that use the same kernel cells
stand together. It notes which cells any of its rows uses, on LiDAR scans far from all, and for each of these it reads
the input rows and multiplies them by the cell's weight on the tensor cores, adding up in float32. The gradient of the
input is the same product with transposed weights. For the gradient of the weight the rows that use a cell are listed
once per map, so that every product is of full tiles; partial products are added in a fixed order, and two runs give
the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from pointops.reduction import column_sum, sum_parts
from pointops.row_order import has_order, row_order
from pointops.steps import lowest_cell


class Tiling(NamedTuple):
    """How a product is cut: rows and output channels of a program, input channels at a time, warps, stages.

    As many programs as it says share the gradient of a weight, if there are rows enough.
    """

    rows: int
    block_out: int
    block_in: int
    warps: int
    stages: int
    programs: int = 1024


# Output channels up to -> tiling. Few rows use few cells between them; wide outputs want wide tiles, as each tile
# gathers its rows anew.
PRODUCT_TILINGS = {
    16: Tiling(64, 16, 64, 2, 3),
    32: Tiling(64, 32, 64, 4, 4),
    64: Tiling(64, 64, 64, 4, 4),
    256: Tiling(64, 128, 64, 4, 4),
    1 << 30: Tiling(128, 256, 64, 8, 3),
}
# Wider side up to -> pairs at a time, largest channel blocks of output and input, warps, stages, programs.
GRADIENT_TILINGS = {
    32: Tiling(128, 32, 32, 4, 3, 2048),
    64: Tiling(128, 64, 64, 4, 3),
    1 << 30: Tiling(128, 128, 64, 4, 3),
}
FLOAT32_TILING = Tiling(64, 64, 32, 4, 3)  # of both, as twice the bytes must fit into shared memory
PAIRS_TILE = 4096  # entries of a map that a program lists
LISTED_CELLS = 32  # kernels of up to this many cells note the cells in use in the bits of one number
ORDERED_WORK = 500_000_000  # rows times weights of a cell, from which on a product saves more than the sort takes


@triton.jit
def _add_cell(
    total, x_ptr, w_ptr, source, m, cell, start, column,
    CELLS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, BLOCK_IN: tl.constexpr, MIRROR: tl.constexpr,
    STRIDE_CELL: tl.constexpr, STRIDE_IN: tl.constexpr, STRIDE_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the product of the rows ``source`` and one cell's weight, from input channel ``start`` on."""
    channel = start + tl.arange(0, BLOCK_IN)
    hit = source < m
    a = tl.load(
        x_ptr + source.to(tl.int64)[:, None] * IN + channel[None, :],
        mask=hit[:, None] & (channel < IN)[None, :],
        other=0.0,
    )
    weight_cell = CELLS - 1 - cell if MIRROR else cell
    b = tl.load(
        w_ptr + weight_cell * STRIDE_CELL + channel[:, None] * STRIDE_IN + column[None, :] * STRIDE_OUT,
        mask=(channel < IN)[:, None] & (column < OUT)[None, :],
        other=0.0,
    )
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit(do_not_specialize=["n", "m"])
def _product_kernel(
    x_ptr, w_ptr, bias_ptr, index_ptr, order_ptr, out_ptr, n, m,
    CELLS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, BIAS: tl.constexpr, LISTED: tl.constexpr, MIRROR: tl.constexpr,
    ORDERED: tl.constexpr,
    STRIDE_CELL: tl.constexpr, STRIDE_IN: tl.constexpr, STRIDE_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    if ORDERED:
        row = tl.load(order_ptr + row, mask=inside, other=0)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    total = tl.zeros((ROWS, BLOCK_OUT), dtype=tl.float32)
    if BIAS:
        total += tl.load(bias_ptr + column, mask=column < OUT, other=0.0).to(tl.float32)[None, :]
    if LISTED > 0:
        # One loop over all blocks of all cells in use, so that the next block loads while this one multiplies.
        steps: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
        bit = tl.arange(0, LISTED)
        found = tl.load(
            index_ptr + row[:, None] * CELLS + bit[None, :], mask=inside[:, None] & (bit < CELLS)[None, :], other=m
        )
        used = tl.max((found < m).to(tl.int64), axis=0)
        cells = tl.sum(used << bit.to(tl.int64), axis=0)
        for step in range(tl.sum(used, axis=0).to(tl.int32) * steps):
            lowest, cell = lowest_cell(cells)
            source = tl.load(index_ptr + row * CELLS + cell, mask=inside, other=m)
            total = _add_cell(
                total, x_ptr, w_ptr, source, m, cell, (step % steps) * BLOCK_IN, column,
                CELLS, IN, OUT, BLOCK_IN, MIRROR, STRIDE_CELL, STRIDE_IN, STRIDE_OUT, PRECISION,
            )  # fmt: skip
            cells = tl.where(step % steps == steps - 1, cells - lowest, cells)
    else:
        for cell in range(CELLS):
            source = tl.load(index_ptr + row * CELLS + cell, mask=inside, other=m)
            if tl.max((source < m).to(tl.int32), axis=0) > 0:
                for start in range(0, IN, BLOCK_IN):
                    total = _add_cell(
                        total, x_ptr, w_ptr, source, m, cell, start, column,
                        CELLS, IN, OUT, BLOCK_IN, MIRROR, STRIDE_CELL, STRIDE_IN, STRIDE_OUT, PRECISION,
                    )  # fmt: skip
    place = out_ptr + row[:, None] * OUT + column[None, :]
    tl.store(place, total.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (column < OUT)[None, :])


@triton.jit
def _tile_of_map(index_ptr, n, m, CELLS: tl.constexpr, BLOCK_CELLS: tl.constexpr, ROWS: tl.constexpr):
    """Of a program's tile of a map: rows, cells, the input rows there, where there are any (ROWS, BLOCK_CELLS)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cell = tl.arange(0, BLOCK_CELLS)
    mask = (row < n)[:, None] & (cell < CELLS)[None, :]
    source = tl.load(index_ptr + row[:, None] * CELLS + cell[None, :], mask=mask, other=m)
    return row, cell, source, source < m


@triton.jit(do_not_specialize=["n", "m", "tiles"])
def _count_kernel(
    index_ptr, count_ptr, n, m, tiles, CELLS: tl.constexpr, BLOCK_CELLS: tl.constexpr, ROWS: tl.constexpr
):
    """How many rows of each tile use each cell, (CELLS, tiles)."""
    _, cell, _, used = _tile_of_map(index_ptr, n, m, CELLS, BLOCK_CELLS, ROWS)
    tl.store(count_ptr + cell * tiles + tl.program_id(0), tl.sum(used.to(tl.int32), axis=0), mask=cell < CELLS)


@triton.jit(do_not_specialize=["n", "m", "tiles"])
def _pairs_kernel(
    index_ptr, count_ptr, end_ptr, output_ptr, input_ptr, n, m, tiles,
    CELLS: tl.constexpr, BLOCK_CELLS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the output row and the input row of every used cell to their place, cell after cell, rows ascending."""
    row, cell, source, used = _tile_of_map(index_ptr, n, m, CELLS, BLOCK_CELLS, ROWS)
    here = cell * tiles + tl.program_id(0)
    begin = tl.load(end_ptr + here, mask=cell < CELLS, other=0) - tl.load(count_ptr + here, mask=cell < CELLS, other=0)
    place = begin[None, :] + tl.cumsum(used.to(tl.int32), axis=0) - 1
    tl.store(output_ptr + place, row.to(tl.int32)[:, None] + tl.zeros_like(place), mask=used)
    tl.store(input_ptr + place, source, mask=used)


@triton.jit(do_not_specialize=["parts"])
def _weight_grad_kernel(
    x_ptr, grad_ptr, output_ptr, input_ptr, ends_ptr, out_ptr, parts,
    CELLS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # The middle cell of a submanifold map is the fullest: its programs start first.
    cell = (tl.program_id(2) + CELLS // 2) % CELLS
    tiles_out: tl.constexpr = (OUT + BLOCK_OUT - 1) // BLOCK_OUT
    channel = (tl.program_id(0) // tiles_out) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = (tl.program_id(0) % tiles_out) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    part = tl.program_id(1)
    begin, end = tl.load(ends_ptr + cell), tl.load(ends_ptr + cell + 1)
    share = tl.cdiv(tl.cdiv(end - begin, parts), ROWS) * ROWS
    begin += part * share
    end = tl.minimum(begin + share, end)
    total = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=tl.float32)
    for start in range(begin, end, ROWS):
        pair = start + tl.arange(0, ROWS)
        there = pair < end
        row = tl.load(output_ptr + pair, mask=there, other=0).to(tl.int64)
        source = tl.load(input_ptr + pair, mask=there, other=0).to(tl.int64)
        a = tl.load(
            x_ptr + source[:, None] * IN + channel[None, :], mask=there[:, None] & (channel < IN)[None, :], other=0.0
        )
        b = tl.load(
            grad_ptr + row[:, None] * OUT + column[None, :], mask=there[:, None] & (column < OUT)[None, :], other=0.0
        )
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    # as a weight lies: (C_out, K, C_in)
    place = out_ptr + part.to(tl.int64) * (OUT * CELLS * IN) + (column[None, :] * CELLS + cell) * IN + channel[:, None]
    tl.store(place, total, mask=(channel < IN)[:, None] & (column < OUT)[None, :])


def _block(channels: int, largest: int) -> int:
    return min(largest, max(16, triton.next_power_of_2(channels)))


def _tiling(table: dict[int, Tiling], channels: int, x: torch.Tensor) -> Tiling:
    if x.dtype == torch.float32:
        return FLOAT32_TILING
    return next(tiling for limit, tiling in table.items() if channels <= limit)


def _precision(x: torch.Tensor) -> str:
    allow_tf32 = x.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allow_tf32 else "ieee"


# map -> order of its rows
_orders: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _order_of(index: torch.Tensor, m: int, weights: int) -> torch.Tensor | None:
    """An order in which rows that use the same cells stand together, kept as long as the map.

    None where a cell has so few ``weights`` that the order is not worth a sort.
    """
    n, cells = index.shape
    if n * weights < ORDERED_WORK or not has_order(cells):
        return None
    if index not in _orders:
        _orders[index] = row_order(index, m)
    return _orders[index]


def _product(
    x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, mirror: bool = False
) -> torch.Tensor:
    """out[j] = Σ_k x[index[j, k]] · weight[k] + bias, the cells of ``weight`` in reverse order if ``mirror``.

    x (M, I), index (N, K), weight (K, I, O) in any strides, bias (O,) -> (N, O).
    """
    n, cells = index.shape
    _, width_in, width_out = weight.shape
    out = torch.empty(n, width_out, dtype=x.dtype, device=x.device)
    rows, largest_out, largest_in, warps, stages, _ = _tiling(PRODUCT_TILINGS, width_out, x)
    block_out = _block(width_out, largest_out)
    listed = triton.next_power_of_2(cells) if cells <= LISTED_CELLS else 0
    order = _order_of(index, len(x), width_in * width_out)
    with torch.cuda.device(x.device):
        _product_kernel[(triton.cdiv(n, rows), triton.cdiv(width_out, block_out))](
            x, weight, weight if bias is None else bias, index, index if order is None else order, out, n, len(x),
            cells, width_in, width_out, rows, _block(width_in, largest_in), block_out, bias is not None, listed,
            mirror, order is not None, *weight.stride(), _precision(x), num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return out


# map -> output rows and input rows of all pairs, by cell, and (K + 1,) where the pairs of each cell begin
_pairs: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _make_pairs(index: torch.Tensor, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, cells = index.shape
    block = triton.next_power_of_2(cells)
    rows = max(1, PAIRS_TILE // block)
    tiles = triton.cdiv(n, rows)
    count = torch.empty(cells, tiles, dtype=torch.int32, device=index.device)
    output, source = (torch.empty(cells * n, dtype=torch.int32, device=index.device) for _ in range(2))
    with torch.cuda.device(index.device):
        _count_kernel[(tiles,)](index, count, n, m, tiles, cells, block, rows)
        end = count.view(-1).cumsum(0, dtype=torch.int32)
        _pairs_kernel[(tiles,)](index, count, end, output, source, n, m, tiles, cells, block, rows)
    return output, source, torch.cat([end.new_zeros(1), end[tiles - 1 :: tiles]])


def _pairs_of(index: torch.Tensor, m: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The rows that each cell connects, in int32, without a synchronisation.

    Kept as long as the map, except those of large kernels: only the first layer of a network has one.
    """
    if index.shape[1] > LISTED_CELLS:
        return _make_pairs(index, m)
    if index not in _pairs:
        _pairs[index] = _make_pairs(index, m)
    return _pairs[index]


def _weight_grad(x: torch.Tensor, index: torch.Tensor, grad: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Σ_j grad[j] ⊗ x[index[j, k]] -> (O, K, I) in ``dtype``."""
    n, cells = index.shape
    width_in, width_out = x.shape[1], grad.shape[1]
    rows, largest_out, largest_in, warps, stages, programs = _tiling(GRADIENT_TILINGS, max(width_in, width_out), x)
    block_in, block_out = _block(width_in, largest_in), _block(width_out, largest_out)
    tiles = triton.cdiv(width_in, block_in) * triton.cdiv(width_out, block_out)
    parts = max(1, min(triton.cdiv(programs, cells * tiles), triton.cdiv(n, 8 * rows)))
    output, source, ends = _pairs_of(index, len(x))
    partial = torch.empty(parts, width_out, cells, width_in, dtype=torch.float32, device=x.device)
    with torch.cuda.device(x.device):
        _weight_grad_kernel[(tiles, parts, cells)](
            x, grad, output, source, ends, partial, parts, cells, width_in, width_out, rows, block_in, block_out,
            _precision(x), num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return sum_parts(partial, dtype)


class _SparseConvolution(torch.autograd.Function):
    """See :func:`sparse_convolution`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        index: torch.Tensor,
        transposed: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, index, transposed)
        ctx.bias_type = None if bias is None else bias.dtype
        return _product(x, index, weight.permute(1, 2, 0), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, index, transposed = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            mirror = transposed is None
            grad_x = _product(grad, index if mirror else transposed, weight.permute(1, 0, 2), None, mirror)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_grad(x, index, grad, weight.dtype)
        if ctx.needs_input_grad[4]:
            grad_bias = column_sum(grad, ctx.bias_type)
        return grad_x, grad_weight, None, None, grad_bias


def sparse_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    index: torch.Tensor,
    transposed: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[j] = Σ_k weight[:, k] · x[index[j, k]] + bias, rows beyond the last counting as zero.

    Args:
        x: (M, C_in) float16, bfloat16 or float32 features on a CUDA device.
        weight: (C_out, K, C_in), or (C_out, k_x, k_y, k_z, C_in), of the same type.
        index: (N, K) int32 input row of every kernel cell, M where there is none.
        transposed: (M, K) int32 output row that reads input row i through cell k, N where there is none;
            None for a submanifold map, which is its own transpose with the cells mirrored.
        bias: (C_out,) of any of these types, or None.

    Returns:
        (N, C_out).
    """
    return _SparseConvolution.apply(x, weight.flatten(1, -2), index, transposed, bias)
