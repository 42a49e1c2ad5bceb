"""Parts of a transformer block on padded arrays: residual norms, the fused end of a block, pooling."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pointops.padded import _activate, block_size, precision

_ELEMENTS = 4096  # of a tile of the kernels without products


@triton.jit
def _normalise(x, known, eps, C: tl.constexpr):
    """Rows, zero outside the channels -> mean 0 and variance 1."""
    x = tl.where(known[None, :], x - (tl.sum(x, axis=1) / C)[:, None], 0.0)
    return x * (1.0 / tl.sqrt(tl.sum(x * x, axis=1) / C + eps))[:, None]


@triton.jit
def _residual_norm_kernel(
    residual_ptr,
    branch_ptr,
    rows_ptr,
    gamma_ptr,
    beta_ptr,
    places_ptr,
    out_ptr,
    normal_ptr,
    count_ptr,
    inner_eps,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GATHER: tl.constexpr,
    INNER: tl.constexpr,
    SCATTER: tl.constexpr,
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    inside, known = row < count, channel < C
    mask = inside[:, None] & known[None, :]
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    source = place
    if GATHER:
        source = tl.load(rows_ptr + row, mask=inside, other=0).to(tl.int64)[:, None] * C + channel[None, :]
    x = tl.load(branch_ptr + source, mask=mask, other=0.0).to(tl.float32)
    if INNER:
        gamma = tl.load(gamma_ptr + channel, mask=known, other=0.0)
        beta = tl.load(beta_ptr + channel, mask=known, other=0.0)
        x = _normalise(x, known, inner_eps, C) * gamma[None, :] + beta[None, :]
    x += tl.load(residual_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, x.to(out_ptr.dtype.element_ty), mask=mask)
    if SCATTER:
        place = tl.load(places_ptr + row, mask=inside, other=0).to(tl.int64)[:, None] * C + channel[None, :]
    normal = _normalise(x, known, eps, C).to(normal_ptr.dtype.element_ty)
    tl.store(normal_ptr + place, normal, mask=mask)


def residual_norm(
    residual: torch.Tensor,
    branch: torch.Tensor,
    count: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: torch.Tensor | None = None,
    inner: tuple[torch.Tensor, torch.Tensor, float] | None = None,
    places: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y[j] = residual[j] + branch[rows[j]], and y normalised to mean 0 and variance 1, row j of it at places[j].

    Args:
        residual: (N, C) on a CUDA device.
        branch: (M, C).
        count: (1,) int32 real rows.
        eps: of the norm of y.
        dtype: of the normalised rows.
        rows: (N,) int32, or None for j itself.
        inner: weight (C,) float32, bias (C,) float32 and eps of a layer norm of the branch, or None.
        places: (N,) int32, or None for j itself.

    Returns:
        y (N, C) in the type of ``residual``, and the normalised rows (N, C).
    """
    n, channels = residual.shape
    block = triton.next_power_of_2(channels)
    tile = max(1, _ELEMENTS // 2 // block)
    out, normal = torch.empty_like(residual), torch.empty_like(residual, dtype=dtype)
    gamma, beta, inner_eps = inner or (residual, residual, 0.0)
    with torch.cuda.device(residual.device):
        _residual_norm_kernel[(triton.cdiv(n, tile),)](
            residual,
            branch,
            count if rows is None else rows,
            gamma,
            beta,
            count if places is None else places,
            out,
            normal,
            count,
            inner_eps,
            eps,
            channels,
            tile,
            block,
            rows is not None,
            inner is not None,
            places is not None,
        )
    return out, normal


@triton.jit
def _gather_add_kernel(
    x_ptr, other_ptr, rows_ptr, out_ptr, count_ptr, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    source = tl.load(rows_ptr + row, mask=row < count, other=0).to(tl.int64)
    mask = (row < count)[:, None] & (channel < C)[None, :]
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    out = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    out += tl.load(other_ptr + source[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


def gather_add(
    x: torch.Tensor, other: torch.Tensor, rows: torch.Tensor, count: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """x (N, C) + other[rows], (N, C) in ``dtype``; rows (N,) int32, count (1,) int32 real rows."""
    n, channels = x.shape
    block = triton.next_power_of_2(channels)
    tile = max(1, _ELEMENTS // block)
    out = torch.empty(n, channels, dtype=dtype, device=x.device)
    with torch.cuda.device(x.device):
        _gather_add_kernel[(triton.cdiv(n, tile),)](x, other, rows, out, count, channels, tile, block)
    return out


@triton.jit
def _pool_kernel(
    x_ptr,
    begin_ptr,
    scale_ptr,
    shift_ptr,
    fine_count_ptr,
    count_ptr,
    out_ptr,
    copy_ptr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COPY: tl.constexpr,
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    inside, known = row < count, channel < C
    begin = tl.load(begin_ptr + row, mask=inside, other=0)
    end = tl.load(begin_ptr + row + 1, mask=row + 1 < count, other=0)
    end = tl.where(row + 1 == count, tl.load(fine_count_ptr), end)
    largest = tl.full((ROWS, BLOCK), float("-inf"), dtype=tl.float32)
    for i in range(tl.max(end - begin, axis=0)):
        source = (begin + i).to(tl.int64)[:, None] * C + channel[None, :]
        v = tl.load(x_ptr + source, mask=(begin + i < end)[:, None] & known[None, :], other=float("-inf"))
        v = v.to(tl.float32)
        largest = tl.where((v > largest) | (v != v), v, largest)  # not a maximum, which would hide NaN
    scale = tl.load(scale_ptr + channel, mask=known, other=0.0)
    shift = tl.load(shift_ptr + channel, mask=known, other=0.0)
    out = _activate(largest * scale[None, :] + shift[None, :], 1)
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    mask = inside[:, None] & known[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)
    if COPY:
        tl.store(copy_ptr + place, out.to(copy_ptr.dtype.element_ty), mask=mask)


def pool_max(
    x: torch.Tensor,
    parent: torch.Tensor,
    begin: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    fine_count: torch.Tensor,
    count: torch.Tensor,
    dtype: torch.dtype,
    copy: torch.Tensor | None = None,
) -> torch.Tensor:
    """GELU(scale · max + shift) with the largest value of every channel over the rows of each coarse voxel.

    Args:
        x: (M, C) features of the fine voxels on a CUDA device.
        parent: not needed here: the rows of a coarse voxel follow each other.
        begin: (N,) int32 first fine row of each coarse row.
        scale, shift: (C,) float32.
        fine_count, count: (1,) int32 real fine and coarse rows.
        dtype: of the result.
        copy: (N, C) that receives the result, too, in its own type, or None.

    Returns:
        (N, C).
    """
    n, channels = len(begin), x.shape[1]
    block = triton.next_power_of_2(channels)
    rows = max(1, _ELEMENTS // 2 // block)
    out = torch.empty(n, channels, dtype=dtype, device=x.device)
    with torch.cuda.device(x.device):
        _pool_kernel[(triton.cdiv(n, rows),)](
            x,
            begin,
            scale,
            shift,
            fine_count,
            count,
            out,
            out if copy is None else copy,
            channels,
            rows,
            block,
            copy is not None,
        )
    return out


@triton.jit
def _tail_kernel(
    x_ptr,
    attended_ptr,
    rows_ptr,
    p_ptr,
    p_bias_ptr,
    e_ptr,
    e_bias_ptr,
    r_ptr,
    r_bias_ptr,
    out_ptr,
    copy_ptr,
    count_ptr,
    eps,
    C: tl.constexpr,
    H: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_H: tl.constexpr,
    COPY: tl.constexpr,
    COPY_BRANCH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    count = tl.load(count_ptr)
    if tl.program_id(0) * ROWS >= count:
        return
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    inside, known = row < count, channel < C
    mask = inside[:, None] & known[None, :]
    source = tl.load(rows_ptr + row, mask=inside, other=0).to(tl.int64)
    place = row.to(tl.int64)[:, None] * C + channel[None, :]
    y = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    y += tl.load(p_bias_ptr + channel, mask=known, other=0.0)[None, :]
    for start in range(0, C, BLOCK_P):
        part = start + tl.arange(0, BLOCK_P)
        a = tl.load(
            attended_ptr + source[:, None] * C + part[None, :], mask=inside[:, None] & (part < C)[None, :], other=0.0
        )
        w = tl.load(p_ptr + part[:, None] * C + channel[None, :], mask=(part < C)[:, None] & known[None, :], other=0.0)
        y = tl.dot(a.to(w.dtype), w, y, input_precision=PRECISION)
    a = _normalise(y, known, eps, C).to(e_ptr.dtype.element_ty)
    stream = y
    if COPY_BRANCH:
        y = tl.zeros_like(y)
    y += tl.load(r_bias_ptr + channel, mask=known, other=0.0)[None, :]
    for start in range(0, H, BLOCK_H):
        unit = start + tl.arange(0, BLOCK_H)
        e = tl.load(e_ptr + channel[:, None] * H + unit[None, :], mask=known[:, None] & (unit < H)[None, :], other=0.0)
        hidden = tl.dot(a, e, input_precision=PRECISION)
        hidden += tl.load(e_bias_ptr + unit, mask=unit < H, other=0.0)[None, :]
        hidden = _activate(hidden, 1).to(e.dtype)
        r = tl.load(r_ptr + unit[:, None] * C + channel[None, :], mask=(unit < H)[:, None] & known[None, :], other=0.0)
        y = tl.dot(hidden, r, y, input_precision=PRECISION)
    if COPY_BRANCH:
        tl.store(copy_ptr + place, y.to(copy_ptr.dtype.element_ty), mask=mask)
        y += stream
    tl.store(out_ptr + place, y.to(out_ptr.dtype.element_ty), mask=mask)
    if COPY:
        tl.store(copy_ptr + place, y.to(copy_ptr.dtype.element_ty), mask=mask)


def block_tail(
    x: torch.Tensor,
    attended: torch.Tensor,
    rows: torch.Tensor,
    projection: tuple[torch.Tensor, torch.Tensor],
    expansion: tuple[torch.Tensor, torch.Tensor],
    reduction: tuple[torch.Tensor, torch.Tensor],
    norm_eps: float,
    count: torch.Tensor,
    copy: torch.Tensor | None = None,
    copy_branch: bool = False,
) -> torch.Tensor:
    """The end of a transformer block: y = x + attended[rows] · P, then y + MLP(norm(y)) with GELU inside.

    Args:
        x: (N, C) features on a CUDA device, C up to 256 (32 in float32, for want of registers).
        attended: (N, C) result of the attention, in another order.
        rows: (N,) int32 row of ``attended`` that belongs to each row of ``x``.
        projection, expansion, reduction: weight and bias of the three linear layers, (C, C), (C, H), (H, C).
        norm_eps: of the layer norm, whose scale and shift are part of ``expansion``.
        count: (1,) int32 real rows.
        copy: (N, C) that receives the result, too, in its own type, or None.
        copy_branch: ``copy`` receives MLP(norm(y)) alone.

    Returns:
        (N, C) in the type of ``x``.
    """
    n, channels = x.shape
    weight = projection[0]
    block, single = block_size(channels, 256), weight.dtype == torch.float32
    rows_of_tile = 32 if single or block > 128 or triton.cdiv(n, 64) < 132 else 64
    out = torch.empty_like(x)
    with torch.cuda.device(x.device):
        _tail_kernel[(triton.cdiv(n, rows_of_tile),)](
            x,
            attended,
            rows,
            *projection,
            *expansion,
            *reduction,
            out,
            out if copy is None else copy,
            count,
            norm_eps,
            channels,
            expansion[0].shape[1],
            rows_of_tile,
            block,
            min(block, 64),
            32 if single else 64,
            copy is not None and not copy_branch,
            copy is not None and copy_branch,
            precision(weight),
            num_warps=4,
            num_stages=2,
        )
    return out
