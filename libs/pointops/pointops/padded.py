"""Layers for inference on padded arrays: the number of real rows is read on the device, programs beyond it end.

Products run on the tensor cores in the type of the weights; sums, norms and what is added are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

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
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == 2:
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _used_cells(index_ptr, row, inside, m, capacity, CELLS: tl.constexpr, BLOCK_CELLS: tl.constexpr):
    """Which kernel cells any row of a tile uses, as bits of one number."""
    cells = tl.arange(0, BLOCK_CELLS)
    tile = tl.load(
        index_ptr + cells[:, None] * capacity + row[None, :],
        mask=(cells < CELLS)[:, None] & inside[None, :],
        other=m,
    )
    return tl.sum(tl.max((tile < m).to(tl.int32), axis=1) << cells, axis=0)


@triton.jit
def _row_statistics(base, inside, eps, IN: tl.constexpr, ROWS: tl.constexpr, BLOCK_IN: tl.constexpr):
    """Mean and 1 / deviation of rows at ``base`` (ROWS, 1)."""
    mean = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, IN, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        v = tl.load(base + channel[None, :], mask=inside[:, None] & (channel < IN)[None, :], other=0.0)
        mean += tl.sum(v.to(tl.float32), axis=1)
    mean = mean / IN
    square = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, IN, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        v = tl.load(base + channel[None, :], mask=inside[:, None] & (channel < IN)[None, :], other=0.0)
        v = tl.where((channel < IN)[None, :], v.to(tl.float32) - mean[:, None], 0.0)
        square += tl.sum(v * v, axis=1)
    return mean, 1.0 / tl.sqrt(square / IN + eps)


@triton.jit
def _gathered_kernel(
    x_ptr,
    index_ptr,
    w_ptr,
    bias_ptr,
    residual_ptr,
    out_ptr,
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
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = row < count
    total = tl.zeros((ROWS, BLOCK_OUT), dtype=tl.float32)
    if FLAT:  # few channels: a product takes several cells at once
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
    else:
        used = _used_cells(index_ptr, row, inside, m, capacity, CELLS, BLOCK_CELLS)
        for cell in range(CELLS):
            if ((used >> cell) & 1) != 0:
                source = tl.load(index_ptr + cell * capacity + row, mask=inside, other=m)
                hit = source < m
                base = x_ptr + source.to(tl.int64)[:, None] * IN
                for start in range(0, IN, BLOCK_IN):
                    channel = start + tl.arange(0, BLOCK_IN)
                    a = tl.load(base + channel[None, :], mask=hit[:, None] & (channel < IN)[None, :], other=0.0)
                    b = tl.load(
                        w_ptr + (cell * IN + channel)[:, None] * OUT + column[None, :],
                        mask=(channel < IN)[:, None] & (column < OUT)[None, :],
                        other=0.0,
                    )
                    total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
    total += tl.load(bias_ptr + column, mask=column < OUT, other=0.0)[None, :]
    place = row.to(tl.int64)[:, None] * OUT + column[None, :]
    mask = inside[:, None] & (column < OUT)[None, :]
    if RESIDUAL:
        total += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    total = _activate(total, ACTIVATION)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=mask)


def gathered_linear(
    x: torch.Tensor,
    index: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    count: torch.Tensor,
    dtype: torch.dtype,
    activation: str = "none",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolution over neighbours: out[j] = act(bias + Σ_k x[index[k, j]] · weight[k] + residual[j]).

    Args:
        x: (M, I) features on a CUDA device.
        index: (K, N) int32 row of ``x`` in every kernel cell, M or more where there is none.
        weight: (K·I, O) float16, bfloat16 or float32.
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        activation: "none", "gelu" or "relu".
        residual: (N, O) or None.

    Returns:
        (N, O).
    """
    cells, n = index.shape
    width_in, width_out = x.shape[1], weight.shape[1]
    flat = width_in <= 16 or cells > 31
    single = weight.dtype == torch.float32
    block_in = 32 if single else 64 if flat else block_size(width_in, 64)
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
            x if residual is None else residual,
            out,
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
            residual is not None,
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
    count_ptr,
    eps,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    GATHER: tl.constexpr,
    NORM: tl.constexpr,
    ACTIVATION: tl.constexpr,
    RESIDUAL: tl.constexpr,
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
    mean = tl.zeros((ROWS,), dtype=tl.float32)
    rstd = mean + 1.0
    if NORM:
        mean, rstd = _row_statistics(base, inside, eps, IN, ROWS, BLOCK_IN)
    total = tl.zeros((ROWS, BLOCK_OUT), dtype=tl.float32)
    for start in range(0, IN, BLOCK_IN):
        channel = start + tl.arange(0, BLOCK_IN)
        a = tl.load(base + channel[None, :], mask=inside[:, None] & (channel < IN)[None, :], other=0.0)
        b = tl.load(
            w_ptr + channel[:, None] * OUT + column[None, :],
            mask=(channel < IN)[:, None] & (column < OUT)[None, :],
            other=0.0,
        )
        if NORM:
            a = (a.to(tl.float32) - mean[:, None]) * rstd[:, None]
        total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
    total += tl.load(bias_ptr + column, mask=column < OUT, other=0.0)[None, :]
    total = _activate(total, ACTIVATION)
    mask = inside[:, None] & (column < OUT)[None, :]
    place = row.to(tl.int64)[:, None] * OUT + column[None, :]
    if RESIDUAL:
        total += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=mask)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    count: torch.Tensor,
    dtype: torch.dtype,
    rows: torch.Tensor | None = None,
    norm_eps: float | None = None,
    activation: str = "none",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """out[j] = residual[j] + act(norm(x[rows[j]]) · weight + bias).

    Args:
        x: (M, I) on a CUDA device.
        weight: (I, O) float16, bfloat16 or float32.
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        rows: (N,) integer, or None for j itself.
        norm_eps: normalise rows to mean 0 and variance 1; None leaves them as they are.
        activation: "none", "gelu" or "relu".
        residual: (N, O) or None.

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
            count,
            norm_eps or 0.0,
            width_in,
            width_out,
            tile,
            block_in,
            block_out,
            rows is not None,
            norm_eps is not None,
            ACTIVATIONS[activation],
            residual is not None,
            precision(weight),
        )
    return out
