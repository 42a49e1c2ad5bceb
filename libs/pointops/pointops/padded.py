"""Layers for inference on padded arrays: the number of real rows is read on the device, programs beyond it end.

Products run on the tensor cores in the type of the weights; sums, norms and what is added are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pointops.steps import lowest_cell

ACTIVATIONS = {"none": 0, "gelu": 1, "relu": 2}
_PROGRAMS = 264  # two for each processor of an H100: fewer rows to a program where there are few rows


def precision(weight: torch.Tensor) -> str:
    """How float32 products are computed: exactly, unless torch is told otherwise."""
    allow_tf32 = weight.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if allow_tf32 else "ieee"


def block_size(channels: int, largest: int) -> int:
    """The power of two, 16 or more, that holds ``channels``, at most ``largest``."""
    return min(largest, max(16, triton.next_power_of_2(channels)))


def _tile(n: int, columns: int, weight: torch.Tensor) -> int:
    """Rows of a program, for ``columns`` programs side by side."""
    rows = 64
    while rows > 16 and triton.cdiv(n, rows) * columns < _PROGRAMS:
        rows //= 2
    return min(rows, 32) if weight.dtype == torch.float32 else rows


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        # The normal distribution by Abramowitz and Stegun's formula 26.2.17, to 7.5e-8: a third of erf's instructions.
        far = tl.abs(x)
        t = 1.0 / (1.0 + 0.2316419 * far)
        beyond = t * (0.12741479 + t * (-0.14224837 + t * (0.71070687 + t * (-0.72657601 + t * 0.53070271))))
        x = tl.maximum(x, 0.0) - far * (beyond * tl.exp2(-0.72134752 * far * far))
    if ACTIVATION == 2:
        x = tl.where(x < 0.0, 0.0, x)  # not a maximum, which would hide NaN
    return x


@triton.jit
def _used_cells(index_ptr, row, inside, m, capacity, CELLS: tl.constexpr, BLOCK_CELLS: tl.constexpr):
    """Which kernel cells any row of a tile uses, as bits of one number, and how many these are."""
    cells = tl.arange(0, BLOCK_CELLS)
    tile = tl.load(
        index_ptr + cells[:, None] * capacity + row[None, :],
        mask=(cells < CELLS)[:, None] & inside[None, :],
        other=m,
    )
    used = tl.max((tile < m).to(tl.int32), axis=1)
    return tl.sum(used << cells, axis=0), tl.sum(used, axis=0)


@triton.jit
def _flat_product(
    total, x_ptr, index_ptr, w_ptr, row, inside, column, m, capacity,
    CELLS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, BLOCK_IN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the neighbours' products where they have few channels: each product takes several cells at once."""
    for start in range(0, CELLS * IN, BLOCK_IN):
        flat = start + tl.arange(0, BLOCK_IN)
        source = tl.load(
            index_ptr + (flat // IN)[None, :] * capacity + row[:, None],
            mask=inside[:, None] & (flat < CELLS * IN)[None, :],
            other=m,
        )
        hit = source < m
        if tl.max(tl.max(hit.to(tl.int32), axis=1), axis=0) > 0:
            a = tl.load(x_ptr + source.to(tl.int64) * IN + (flat % IN)[None, :], mask=hit, other=0.0)
            b = tl.load(
                w_ptr + flat[:, None] * OUT + column[None, :],
                mask=(flat < CELLS * IN)[:, None] & (column < OUT)[None, :],
                other=0.0,
            )
            total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
    return total


@triton.jit
def _listed_product(
    total, x_ptr, index_ptr, w_ptr, row, inside, column, m, capacity,
    CELLS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_CELLS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the neighbours' products of the cells in use, in one loop over all blocks of them.

    So the next block loads while this one multiplies.
    """
    cells, used = _used_cells(index_ptr, row, inside, m, capacity, CELLS, BLOCK_CELLS)
    steps: tl.constexpr = (IN + BLOCK_IN - 1) // BLOCK_IN
    for step in range(used * steps):
        lowest, cell = lowest_cell(cells)
        source = tl.load(index_ptr + cell * capacity + row, mask=inside, other=m)
        channel = (step % steps) * BLOCK_IN + tl.arange(0, BLOCK_IN)
        a = tl.load(
            x_ptr + source.to(tl.int64)[:, None] * IN + channel[None, :],
            mask=(source < m)[:, None] & (channel < IN)[None, :],
            other=0.0,
        )
        b = tl.load(
            w_ptr + (cell * IN + channel)[:, None] * OUT + column[None, :],
            mask=(channel < IN)[:, None] & (column < OUT)[None, :],
            other=0.0,
        )
        total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
        cells = tl.where(step % steps == steps - 1, cells - lowest, cells)
    return total


@triton.jit
def _gathered_kernel(
    x_ptr,
    index_ptr,
    w_ptr,
    bias_ptr,
    order_ptr,
    out_ptr,
    copy_ptr,
    count_ptr,
    m,
    capacity,
    CELLS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    ORDERED: tl.constexpr,
    COPY: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = row < count
    if ORDERED:
        row = tl.load(order_ptr + row, mask=inside, other=0)
    total = tl.zeros((ROWS, BLOCK_OUT), dtype=tl.float32)
    if FLAT:
        total = _flat_product(
            total, x_ptr, index_ptr, w_ptr, row, inside, column, m, capacity, CELLS, IN, OUT, BLOCK_IN, PRECISION
        )
    else:
        total = _listed_product(
            total, x_ptr, index_ptr, w_ptr, row, inside, column, m, capacity,
            CELLS, IN, OUT, BLOCK_IN, BLOCK_CELLS, PRECISION,
        )  # fmt: skip
    total += tl.load(bias_ptr + column, mask=column < OUT, other=0.0)[None, :]
    total = _activate(total, ACTIVATION)
    place = row.to(tl.int64)[:, None] * OUT + column[None, :]
    mask = inside[:, None] & (column < OUT)[None, :]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=mask)
    if COPY:
        tl.store(copy_ptr + place, total.to(copy_ptr.dtype.element_ty), mask=mask)


def gathered_linear(
    x: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    count: torch.Tensor,
    dtype: torch.dtype,
    activation: str = "none",
    order: torch.Tensor | None = None,
    copy: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolution over neighbours: out[j] = act(bias + Σ_k x[index[k, j]] · weight[k]).

    Args:
        x: (M, I) features on a CUDA device.
        index: (K, N) int32 row of ``x`` in every kernel cell, M or more where there is none.
        weight: (K·I, O) float16, bfloat16 or float32.
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        activation: "none", "gelu" or "relu".
        order: (N,) int32 permutation of the rows, padding last, in which programs share them out; None for the rows
            as they stand.
        copy: (N, O) that receives the result, too, in its own type, or None.

    Returns:
        (N, O).
    """
    cells, n = index.shape
    width_in, width_out = x.shape[1], weight.shape[1]
    flat = width_in < 16 or cells > 31
    single = weight.dtype == torch.float32
    block_in = 32 if single else 64 if flat else block_size(width_in, 64 if width_in <= 128 else 128)
    block_out = block_size(width_out, 64 if single else 128)
    columns = triton.cdiv(width_out, block_out)
    rows = _tile(n, columns, weight)
    out = torch.empty(n, width_out, dtype=dtype, device=x.device)
    with torch.cuda.device(x.device):
        _gathered_kernel[(triton.cdiv(n, rows), columns)](
            x,
            index,
            weight,
            bias,
            index if order is None else order,
            out,
            out if copy is None else copy,
            count,
            len(x),
            n,
            cells,
            width_in,
            width_out,
            rows,
            block_in,
            block_out,
            triton.next_power_of_2(cells),
            flat,
            order is not None,
            copy is not None,
            ACTIVATIONS[activation],
            precision(weight),
        )
    return out


@triton.jit
def _linear_kernel(
    x_ptr,
    rows_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
    copy_ptr,
    count_ptr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    GATHER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    COPY: tl.constexpr,
    COPY_BRANCH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = row < count
    source = row
    if GATHER:
        source = tl.load(rows_ptr + row, mask=inside, other=0).to(tl.int32)
    base = x_ptr + source.to(tl.int64)[:, None] * IN
    total = tl.zeros((ROWS, BLOCK_OUT), dtype=tl.float32)
    for start in range(0, IN, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        a = tl.load(base + channel[None, :], mask=inside[:, None] & (channel < IN)[None, :], other=0.0)
        b = tl.load(
            w_ptr + channel[:, None] * OUT + column[None, :],
            mask=(channel < IN)[:, None] & (column < OUT)[None, :],
            other=0.0,
        )
        total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
    total += tl.load(bias_ptr + column, mask=column < OUT, other=0.0)[None, :]
    total = _activate(total, ACTIVATION)
    mask = inside[:, None] & (column < OUT)[None, :]
    place = row.to(tl.int64)[:, None] * OUT + column[None, :]
    if COPY_BRANCH:
        tl.store(copy_ptr + place, total.to(copy_ptr.dtype.element_ty), mask=mask)
    if RESIDUAL:
        total += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=mask)
    if COPY:
        tl.store(copy_ptr + place, total.to(copy_ptr.dtype.element_ty), mask=mask)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    count: torch.Tensor,
    dtype: torch.dtype,
    rows: torch.Tensor | None = None,
    activation: str = "none",
    residual: torch.Tensor | None = None,
    copy: torch.Tensor | None = None,
    copy_branch: bool = False,
) -> torch.Tensor:
    """out[j] = residual[j] + act(x[rows[j]] · weight + bias).

    Args:
        x: (M, I) on a CUDA device.
        weight: (I, O) float16, bfloat16 or float32.
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        rows: (N,) integer, or None for j itself.
        activation: "none", "gelu" or "relu".
        residual: (N, O) or None.
        copy: (N, O) that receives the result, too, in its own type, or None.
        copy_branch: ``copy`` receives the result without ``residual``.

    Returns:
        (N, O).
    """
    n = len(x) if rows is None else len(rows)
    width_in, width_out = weight.shape
    single = weight.dtype == torch.float32
    block_in, block_out = block_size(width_in, 32 if single else 64), block_size(width_out, 64 if single else 128)
    columns = triton.cdiv(width_out, block_out)
    tile = _tile(n, columns, weight)
    out = torch.empty(n, width_out, dtype=dtype, device=x.device)
    with torch.cuda.device(x.device):
        _linear_kernel[(triton.cdiv(n, tile), columns)](
            x,
            count if rows is None else rows,
            weight,
            bias,
            x if residual is None else residual,
            out,
            out if copy is None else copy,
            count,
            width_in,
            width_out,
            tile,
            block_in,
            block_out,
            rows is not None,
            ACTIVATIONS[activation],
            residual is not None,
            copy is not None and not copy_branch,
            copy is not None and copy_branch,
            precision(weight),
            num_stages=4 if width_in > 512 else 3,  # longer loops have more to overlap
        )
    return out
