"""Batch norm and the activation behind it: three launches forward and three backward, one each in evaluation.

Statistics and sums are float32 whatever the types of the tensors. Each program follows the mean of the rows it
reads (Welford), and the programs' means and squared deviations are merged by Chan's formula, so that a mean far from
zero costs no digits. The backward pass keeps the input and computes everything else again from the statistics.
All sums run in a fixed order: two runs give the same bits. Rows of padding, behind the first ``real`` ones, are
never read; zeros are written there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from pointops.reduction import sum_parts

TILE, CHANNELS, WARPS = 4096, 128, 8  # elements of a program's tile, its channels at most, its warps
PROGRAMS = 512  # that share the reduction of a block of channels, at most; a power of two
MERGED = 8  # channels whose partial results one program merges


@triton.jit
def _row_count(real_ptr, n, PADDED: tl.constexpr):
    """Rows that count: all ``n``, or as many as there are before the padding."""
    count = n
    if PADDED:
        count = tl.minimum(tl.load(real_ptr), n)
    return count


@triton.jit
def _channel_statistics(mean_ptr, spread_ptr, channel, inside, eps, LIVE: tl.constexpr):
    """Mean and 1 / deviation; the spread is the latter already for statistics of the batch, else the variance."""
    mean = tl.load(mean_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    spread = tl.load(spread_ptr + channel, mask=inside, other=1.0).to(tl.float32)
    if not LIVE:
        spread = 1.0 / tl.sqrt(spread + eps)
    return mean, spread


@triton.jit
def _activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "gelu":
        z = z * (0.5 * (1.0 + tl.erf(z * 0.7071067811865476)))
    elif ACTIVATION == "relu":
        z = tl.where(z < 0.0, 0.0, z)  # not a maximum, which would hide NaN
    return z


@triton.jit
def _through_activation(grad, z, ACTIVATION: tl.constexpr):
    """Gradient of what entered the activation, ``z``."""
    if ACTIVATION == "gelu":
        below = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))  # of the normal distribution
        grad = grad * (below + z * (0.3989422804014327 * tl.exp(-0.5 * z * z)))
    elif ACTIVATION == "relu":
        grad = tl.where(z <= 0.0, 0.0, grad)
    return grad


@triton.jit(do_not_specialize=["n", "programs"])
def _moments_kernel(
    x_ptr,
    real_ptr,
    partial_ptr,
    n,
    programs,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED: tl.constexpr,
):
    """Rows, mean and sum of squared deviations of the rows of each program, in three planes (programs, C)."""
    count = _row_count(real_ptr, n, PADDED)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    seen = tl.zeros((ROWS,), dtype=tl.float32)
    mean = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    spread = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), programs):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        here = row < count
        mask = here[:, None] & inside[None, :]
        v = tl.load(x_ptr + row[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)
        seen += here.to(tl.float32)
        before = tl.where(mask, v - mean, 0.0)
        mean += before * (1.0 / tl.maximum(seen, 1.0))[:, None]
        spread += before * (v - mean)
    total = tl.sum(seen, axis=0)
    of_all = tl.sum(seen[:, None] * mean, axis=0) / tl.maximum(total, 1.0)
    apart = mean - of_all[None, :]
    of_spread = tl.sum(spread + seen[:, None] * apart * apart, axis=0)
    place = partial_ptr + tl.program_id(0) * C + channel
    tl.store(place, tl.zeros((BLOCK,), dtype=tl.float32) + total, mask=inside)
    tl.store(place + programs * C, of_all, mask=inside)
    tl.store(place + 2 * programs * C, of_spread, mask=inside)


@triton.jit(do_not_specialize=["programs"])
def _merge_kernel(
    partial_ptr,
    running_mean_ptr,
    running_var_ptr,
    stats_ptr,
    programs,
    momentum,
    eps,
    C: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean and 1 / deviation of all rows, and the step of the running statistics."""
    program = tl.arange(0, PROGRAMS)
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    mask = (program < programs)[:, None] & inside[None, :]
    place = partial_ptr + program[:, None] * C + channel[None, :]
    seen = tl.load(place, mask=mask, other=0.0)
    means = tl.load(place + programs * C, mask=mask, other=0.0)
    spreads = tl.load(place + 2 * programs * C, mask=mask, other=0.0)
    count = tl.sum(seen, axis=0)
    mean = tl.sum(seen * means, axis=0) / tl.maximum(count, 1.0)
    apart = means - mean[None, :]
    spread = tl.sum(spreads + seen * apart * apart, axis=0)
    running_mean = tl.load(running_mean_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    running_var = tl.load(running_var_ptr + channel, mask=inside, other=1.0).to(tl.float32)
    several = count > 1.5
    mean = tl.where(several, mean, running_mean)
    unbiased = tl.where(several, spread / tl.maximum(count - 1.0, 1.0), running_var)
    var = tl.where(several, spread / tl.maximum(count, 1.0), running_var)
    tl.store(stats_ptr + channel, mean, mask=inside)
    tl.store(stats_ptr + C + channel, 1.0 / tl.sqrt(var + eps), mask=inside)
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (unbiased - running_var)
    tl.store(running_mean_ptr + channel, running_mean.to(running_mean_ptr.dtype.element_ty), mask=inside)
    tl.store(running_var_ptr + channel, running_var.to(running_var_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def _forward_kernel(
    x_ptr,
    mean_ptr,
    spread_ptr,
    weight_ptr,
    bias_ptr,
    real_ptr,
    out_ptr,
    n,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LIVE: tl.constexpr,
    PADDED: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    count = _row_count(real_ptr, n, PADDED)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = row[:, None] * C + channel[None, :]
    mask = (row < count)[:, None] & inside[None, :]
    v = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    mean, rstd = _channel_statistics(mean_ptr, spread_ptr, channel, inside, eps, LIVE)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    z = (v - mean[None, :]) * rstd[None, :] * weight[None, :] + bias[None, :]
    out = tl.where(mask, _activate(z, ACTIVATION), 0.0).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place, out, mask=(row < n)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["n", "programs"])
def _sums_kernel(
    grad_ptr,
    x_ptr,
    mean_ptr,
    spread_ptr,
    weight_ptr,
    bias_ptr,
    real_ptr,
    partial_ptr,
    n,
    programs,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LIVE: tl.constexpr,
    PADDED: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    """Gradients of weight and bias from the rows of each program, (programs, 2, C)."""
    count = _row_count(real_ptr, n, PADDED)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    mean, rstd = _channel_statistics(mean_ptr, spread_ptr, channel, inside, eps, LIVE)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    grad_bias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), programs):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        place, mask = row[:, None] * C + channel[None, :], (row < count)[:, None] & inside[None, :]
        grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        normal = (v - mean[None, :]) * rstd[None, :]
        grad = _through_activation(grad, normal * weight[None, :] + bias[None, :], ACTIVATION)
        grad_weight += tl.where(mask, grad * normal, 0.0)
        grad_bias += tl.where(mask, grad, 0.0)
    sums = partial_ptr + tl.program_id(0) * 2 * C + channel
    tl.store(sums, tl.sum(grad_weight, axis=0), mask=inside)
    tl.store(sums + C, tl.sum(grad_bias, axis=0), mask=inside)


@triton.jit(do_not_specialize=["n"])
def _backward_kernel(
    grad_ptr,
    x_ptr,
    mean_ptr,
    spread_ptr,
    weight_ptr,
    bias_ptr,
    real_ptr,
    sums_ptr,
    grad_x_ptr,
    n,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LIVE: tl.constexpr,
    PADDED: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    count = _row_count(real_ptr, n, PADDED)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    place = row[:, None] * C + channel[None, :]
    mask = (row < count)[:, None] & inside[None, :]
    grad = tl.load(grad_ptr + place, mask=mask, other=0.0).to(tl.float32)
    v = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    mean, rstd = _channel_statistics(mean_ptr, spread_ptr, channel, inside, eps, LIVE)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    normal = (v - mean[None, :]) * rstd[None, :]
    grad = _through_activation(grad, normal * weight[None, :] + bias[None, :], ACTIVATION)
    if LIVE:
        # A single row was normalised by the running statistics, which do not depend on it.
        share = tl.where(count > 1, 1.0 / tl.maximum(count, 1).to(tl.float32), 0.0)
        along = tl.load(sums_ptr + channel, mask=inside, other=0.0) * share
        level = tl.load(sums_ptr + C + channel, mask=inside, other=0.0) * share
        grad = grad - level[None, :] - normal * along[None, :]
    grad = tl.where(mask, grad * (weight * rstd)[None, :], 0.0)
    tl.store(grad_x_ptr + place, grad.to(grad_x_ptr.dtype.element_ty), mask=(row < n)[:, None] & inside[None, :])


def _tiling(n: int, channels: int) -> tuple[int, int, int, int]:
    """Rows and channels of a tile, column blocks, and programs that reduce each of these."""
    block = min(CHANNELS, max(16, triton.next_power_of_2(channels)))
    rows, columns = TILE // block, triton.cdiv(channels, block)
    return rows, block, columns, min(triton.cdiv(n, rows), max(1, PROGRAMS // columns))


def _statistics(
    x: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    momentum: float,
    eps: float,
    real: torch.Tensor | None,
) -> torch.Tensor:
    """Mean and 1 / deviation of the rows, (2, C) float32; the running statistics move in place."""
    n, channels = x.shape
    rows, block, columns, programs = _tiling(n, channels)
    partial = torch.empty(3, programs, channels, dtype=torch.float32, device=x.device)
    stats = torch.empty(2, channels, dtype=torch.float32, device=x.device)
    padded = real is not None
    with torch.cuda.device(x.device):
        _moments_kernel[(programs, columns)](
            x, real if padded else x, partial, n, programs, channels, rows, block, padded, num_warps=WARPS
        )
        _merge_kernel[(triton.cdiv(channels, MERGED),)](
            partial, running_mean, running_var, stats, programs, momentum, eps, channels, PROGRAMS, MERGED,
            num_warps=WARPS,
        )  # fmt: skip
    # A backward pass in evaluation that still waits for these tensors must notice that they changed.
    torch.autograd.graph.increment_version(running_mean)
    torch.autograd.graph.increment_version(running_var)
    return stats


class _BatchNorm(torch.autograd.Function):
    """See :func:`batch_norm`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        live: bool,
        momentum: float,
        eps: float,
        activation: str,
        real: torch.Tensor | None,
    ) -> torch.Tensor:
        x = x.contiguous()
        n, channels = x.shape
        stats = _statistics(x, running_mean, running_var, momentum, eps, real) if live else None
        mean, spread = (running_mean, running_var) if stats is None else (stats[0], stats[1])
        rows, block, columns, _ = _tiling(n, channels)
        out, padded = torch.empty_like(x), real is not None
        with torch.cuda.device(x.device):
            _forward_kernel[(triton.cdiv(n, rows), columns)](
                x, mean, spread, weight, bias, real if padded else x, out, n, eps, channels, rows, block,
                live, padded, activation, num_warps=WARPS,
            )  # fmt: skip
        ctx.save_for_backward(x, mean, spread, weight, bias, real)
        ctx.options = live, eps, activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mean, spread, weight, bias, real = ctx.saved_tensors
        live, eps, activation = ctx.options
        grad = grad.contiguous()
        n, channels = x.shape
        rows, block, columns, programs = _tiling(n, channels)
        padded, for_x = real is not None, ctx.needs_input_grad[0]
        for_weights = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        operands = grad, x, mean, spread, weight, bias, real if padded else x
        options = channels, rows, block, live, padded, activation
        sums, grad_x = None, torch.empty_like(x) if for_x else None
        with torch.cuda.device(x.device):
            if live or for_weights:
                partial = torch.empty(programs, 2, channels, dtype=torch.float32, device=x.device)
                _sums_kernel[(programs, columns)](*operands, partial, n, programs, eps, *options, num_warps=WARPS)
                sums = sum_parts(partial)
            if for_x:
                _backward_kernel[(triton.cdiv(n, rows), columns)](
                    *operands, sums if live else x, grad_x, n, eps, *options, num_warps=WARPS
                )
        of_weights = (None, None) if sums is None else (sums[0].to(weight.dtype), sums[1].to(bias.dtype))
        return grad_x, *of_weights, *[None] * 7


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    training: bool,
    momentum: float,
    eps: float,
    activation: str,
    real: torch.Tensor | None,
) -> torch.Tensor:
    """Normalise every channel over the rows, scale, shift, and apply an activation.

    Args:
        x: (N, C) float16, bfloat16 or float32 on a CUDA device, N >= 1.
        weight, bias: (C,).
        running_mean, running_var: (C,) contiguous statistics for evaluation; training moves them in place.
        training: normalise by the statistics of the rows; a single row by the running ones, which then stay.
        momentum: share of this batch in the running statistics.
        eps: added to the variance.
        activation: "none", "gelu" (exact) or "relu".
        real: (1,) int32 number of the first rows that count; None for all. The others give zeros.

    Returns:
        (N, C) of the type of ``x``.
    """
    live = training and (real is not None or len(x) > 1)
    return _BatchNorm.apply(x, weight, bias, running_mean, running_var, live, momentum, eps, activation, real)
