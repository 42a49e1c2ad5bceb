"""Layer norm fused with the residual additions around it, and such an addition alone: one pass over the rows.

A program holds whole rows. Statistics and sums are float32 whatever the types of the tensors. The backward
pass recomputes the normalised rows from what entered the norm; the gradients of weight and bias are added up
per program and then over the programs, in a fixed order, so that two runs give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from pointops.reduction import sum_parts

TILE = 2048  # elements that a program holds of each tensor; one row is always whole
PROGRAMS = 1024  # of the backward pass, each with its own sums for weight and bias
WARPS = 4


@triton.jit
def _normalise(v, inside, eps, C: tl.constexpr):
    """Rows v, zero outside the channels -> normalised rows, mean, 1 / deviation."""
    mean = tl.sum(v, axis=1) / C
    centred = tl.where(inside, v - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + eps)
    return centred * rstd[:, None], mean, rstd


@triton.jit
def _normalise_again(v, inside, stats_ptr, row, mask, n):
    mean = tl.load(stats_ptr + row, mask=mask, other=0.0)
    rstd = tl.load(stats_ptr + n + row, mask=mask, other=0.0)
    return tl.where(inside, (v - mean[:, None]) * rstd[:, None], 0.0), rstd


@triton.jit
def _input_gradient(grad, normal, rstd, weight, C: tl.constexpr):
    """Gradient of the rows that entered a norm; everything is zero outside the channels."""
    scaled = grad * weight[None, :]
    along = tl.sum(scaled * normal, axis=1) / C
    mean = tl.sum(scaled, axis=1) / C
    return (scaled - mean[:, None] - normal * along[:, None]) * rstd[:, None]


@triton.jit(do_not_specialize=["n"])
def _forward_kernel(
    x_ptr,
    branch_ptr,
    scale_ptr,
    inner_weight_ptr,
    inner_bias_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    out_ptr,
    stats_ptr,
    n,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    SCALED: tl.constexpr,
    INNER: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    here, inside = row < n, (channel < C)[None, :]
    place, mask = row[:, None] * C + channel[None, :], here[:, None] & inside
    v = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        branch = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
        if INNER:
            normal, mean, rstd = _normalise(branch, inside, eps, C)
            tl.store(stats_ptr + 2 * n.to(tl.int64) + row, mean, mask=here)
            tl.store(stats_ptr + 3 * n.to(tl.int64) + row, rstd, mask=here)
            weight = tl.load(inner_weight_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
            bias = tl.load(inner_bias_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
            branch = normal * weight[None, :] + bias[None, :]
        if SCALED:
            branch *= tl.load(scale_ptr + row, mask=here, other=0.0)[:, None]
        y = (v + branch).to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + place, y, mask=mask)
        v = y.to(tl.float32)
    normal, mean, rstd = _normalise(v, inside, eps, C)
    if ADD:
        tl.store(stats_ptr + row, mean, mask=here)
        tl.store(stats_ptr + n.to(tl.int64) + row, rstd, mask=here)
    weight = tl.load(weight_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
    out = normal * weight[None, :] + bias[None, :]
    tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["n", "tiles", "programs"])
def _backward_kernel(
    grad_out_ptr,
    grad_y_ptr,
    value_ptr,
    branch_ptr,
    scale_ptr,
    inner_weight_ptr,
    weight_ptr,
    stats_ptr,
    grad_x_ptr,
    grad_branch_ptr,
    partial_ptr,
    n,
    tiles,
    programs,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    INNER: tl.constexpr,
):
    channel = tl.arange(0, BLOCK)
    inside = (channel < C)[None, :]
    weight = tl.load(weight_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
    inner_weight = tl.load(inner_weight_ptr + channel, mask=channel < C, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    grad_bias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    grad_inner_weight = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    grad_inner_bias = tl.zeros((ROWS, BLOCK), dtype=tl.float32)
    for tile in range(tl.program_id(0), tiles, programs):
        row = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        here = row < n
        place, mask = row[:, None] * C + channel[None, :], here[:, None] & inside
        grad = tl.load(grad_out_ptr + place, mask=mask, other=0.0).to(tl.float32)
        v = tl.load(value_ptr + place, mask=mask, other=0.0).to(tl.float32)
        normal, rstd = _normalise_again(v, inside, stats_ptr, row, here, n.to(tl.int64))
        grad_weight += grad * normal
        grad_bias += grad
        total = _input_gradient(grad, normal, rstd, weight, C)
        total += tl.load(grad_y_ptr + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + place, total.to(grad_x_ptr.dtype.element_ty), mask=mask)
        if SCALED:
            total *= tl.load(scale_ptr + row, mask=here, other=0.0)[:, None]
        if INNER:
            branch = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
            normal, rstd = _normalise_again(branch, inside, stats_ptr + 2 * n.to(tl.int64), row, here, n.to(tl.int64))
            grad_inner_weight += total * normal
            grad_inner_bias += total
            total = _input_gradient(total, normal, rstd, inner_weight, C)
        tl.store(grad_branch_ptr + place, total.to(grad_branch_ptr.dtype.element_ty), mask=mask)
    sums = partial_ptr + tl.program_id(0) * (4 if INNER else 2) * C + channel
    tl.store(sums, tl.sum(grad_weight, axis=0), mask=channel < C)
    tl.store(sums + C, tl.sum(grad_bias, axis=0), mask=channel < C)
    if INNER:
        tl.store(sums + 2 * C, tl.sum(grad_inner_weight, axis=0), mask=channel < C)
        tl.store(sums + 3 * C, tl.sum(grad_inner_bias, axis=0), mask=channel < C)


def _tile(channels: int) -> tuple[int, int]:
    """Rows of a program and the channels it holds, padded to a power of two."""
    block = max(16, triton.next_power_of_2(channels))
    return max(1, TILE // block), block


class _Norm(torch.autograd.Function):
    """y = x + scale · branch and LN(y); or y = x + LN(branch) and LN(y)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        branch: torch.Tensor,
        scale: torch.Tensor | None,
        inner_weight: torch.Tensor | None,
        inner_bias: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        stream: torch.dtype,
        dtype: torch.dtype,
    ) -> Any:
        x = x.contiguous()
        branch = branch.contiguous()
        n, channels = x.shape
        rows, block = _tile(channels)
        scaled, inner = scale is not None, inner_weight is not None
        y = torch.empty_like(x, dtype=stream)
        out = torch.empty_like(x, dtype=dtype)
        stats = torch.empty(4 if inner else 2, n, dtype=torch.float32, device=x.device)
        with torch.cuda.device(x.device):
            _forward_kernel[(triton.cdiv(n, rows),)](
                x, branch, scale if scaled else x, inner_weight if inner else weight,
                inner_bias if inner else bias, weight, bias, y, out, stats, n, eps, channels, rows, block,
                True, scaled, inner, num_warps=WARPS,
            )  # fmt: skip
        # The branch is read again only to differentiate its own norm.
        ctx.save_for_backward(y, branch if inner else None, scale, inner_weight, weight, stats)
        ctx.types = x.dtype, branch.dtype, bias.dtype
        return y, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        value, branch, scale, inner_weight, weight, stats = ctx.saved_tensors
        x_type, branch_type, bias_type = ctx.types
        grads = tuple(grad.contiguous() for grad in grads)
        n, channels = value.shape
        rows, block = _tile(channels)
        scaled, inner = scale is not None, inner_weight is not None
        tiles = triton.cdiv(n, rows)
        programs = min(tiles, PROGRAMS)
        grad_x = torch.empty_like(value, dtype=x_type)
        grad_branch = torch.empty_like(value, dtype=branch_type)
        partial = torch.empty(programs, 4 if inner else 2, channels, dtype=torch.float32, device=value.device)
        with torch.cuda.device(value.device):
            _backward_kernel[(programs,)](
                grads[-1], grads[0], value, branch if inner else value, scale if scaled else value,
                inner_weight if inner else weight, weight, stats, grad_x, grad_branch, partial,
                n, tiles, programs, channels, rows, block, scaled, inner, num_warps=WARPS,
            )  # fmt: skip
        sums = sum_parts(partial)
        of_inner = (sums[2].to(weight.dtype), sums[3].to(bias_type)) if inner else (None, None)
        of_norm = (sums[0].to(weight.dtype), sums[1].to(bias_type))
        return grad_x, grad_branch, None, *of_inner, *of_norm, None, None, None


def add_layer_norm(
    x: torch.Tensor,
    branch: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    scale: torch.Tensor | None,
    stream: torch.dtype,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y = x + scale · branch, and the layer norm of y.

    Args:
        x, branch: (N, C).
        weight, bias: (C,).
        eps: added to the variance.
        scale: (N, 1) float32 without a gradient, or None for 1.
        stream: type of y.
        dtype: type of the normalised rows.

    Returns:
        y and LN(y), (N, C) each.
    """
    return _Norm.apply(x, branch, scale, None, None, weight, bias, eps, stream, dtype)


def norm_add_norm(
    x: torch.Tensor,
    branch: torch.Tensor,
    inner_weight: torch.Tensor,
    inner_bias: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    stream: torch.dtype,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y = x + LN(branch), and the layer norm of y, with a weight and a bias (C,) for each norm.

    Returns:
        y of type ``stream`` and LN(y) of type ``dtype``, (N, C) each.
    """
    return _Norm.apply(x, branch, None, inner_weight, inner_bias, weight, bias, eps, stream, dtype)


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """The layer norm of rows (N, C) with ``weight`` and ``bias`` (C,), in ``dtype``; it has no gradient."""
    x = x.contiguous()
    n, channels = x.shape
    rows, block = _tile(channels)
    out = torch.empty_like(x, dtype=dtype)
    with torch.cuda.device(x.device):
        _forward_kernel[(triton.cdiv(n, rows),)](
            x, x, x, weight, bias, weight, bias, x, out, x, n, eps, channels, rows, block,
            False, False, False, num_warps=WARPS,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["n"])
def _scaled_kernel(
    x_ptr,
    branch_ptr,
    scale_ptr,
    out_ptr,
    n,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
):
    """out = x + scale · branch, or scale · branch."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    place, mask = row[:, None] * C + channel[None, :], (row < n)[:, None] & (channel < C)[None, :]
    v = tl.load(branch_ptr + place, mask=mask, other=0.0).to(tl.float32)
    v *= tl.load(scale_ptr + row, mask=row < n, other=0.0)[:, None]
    if ADD:
        v += tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, v.to(out_ptr.dtype.element_ty), mask=mask)


def _scaled(x: torch.Tensor | None, branch: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x + scale · branch, without x where there is none."""
    n, channels = branch.shape
    rows, block = _tile(channels)
    out = torch.empty(n, channels, dtype=dtype, device=branch.device)
    with torch.cuda.device(branch.device):
        _scaled_kernel[(triton.cdiv(n, rows),)](
            branch if x is None else x, branch, scale, out, n, channels, rows, block, x is not None, num_warps=WARPS
        )
    return out


class _AddScaled(torch.autograd.Function):
    """x + scale · branch; the gradient of x is that of the sum itself."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, branch: torch.Tensor, scale: torch.Tensor, stream: torch.dtype
    ) -> torch.Tensor:
        scale = scale.contiguous()
        ctx.save_for_backward(scale)
        ctx.types = x.dtype, branch.dtype
        return _scaled(x.contiguous(), branch.contiguous(), scale, stream)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        x_type, branch_type = ctx.types
        grad_x = grad.to(x_type) if ctx.needs_input_grad[0] else None
        grad_branch = _scaled(None, grad.contiguous(), scale, branch_type) if ctx.needs_input_grad[1] else None
        return grad_x, grad_branch, None, None


def add_scaled(x: torch.Tensor, branch: torch.Tensor, scale: torch.Tensor | None, stream: torch.dtype) -> torch.Tensor:
    """x + scale · branch.

    Args:
        x, branch: (N, C) float16, bfloat16 or float32 on a CUDA device.
        scale: (N, 1) float32 without a gradient; None for 1.
        stream: type of the result.

    Returns:
        (N, C).
    """
    return (x + branch).to(stream) if scale is None else _AddScaled.apply(x, branch, scale, stream)
