"""Layers for inference on padded arrays: the number of real rows is a tensor, no call waits for the device.

Weights are (in, out) matrices, in the number format of the products; what is added to the float32 sums of the
products (biases, scales) is float32. Rows beyond the real ones may hold anything, and never reach real ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pointcept.ops.reference.batch_norm import activate

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_GATHER_ELEMENTS = 1 << 25


def _normalized(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), x.shape[1:], eps=eps)


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · weight + bias, float32."""
    return (x.to(weight.dtype) @ weight).float() + bias


def gathered_linear(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: Tensor,
    dtype: torch.dtype,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """Convolution over neighbours: out[j] = act(bias + Σ_k x[index[k, j]] · weight[k] + residual[j]).

    Args:
        x: (M, I) features.
        index: (K, N) int32 row of ``x`` in every kernel cell, M or more where there is none.
        weight: (K·I, O).
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        activation: "none", "gelu" or "relu".
        residual: (N, O) or None.

    Returns:
        (N, O).
    """
    cells, n = index.shape
    padded = F.pad(x.to(weight.dtype), (0, 0, 0, 1))
    rows = index.clamp(max=len(x)).t()
    step = max(1, _GATHER_ELEMENTS // (cells * x.shape[1]))
    parts = [
        _product(padded.index_select(0, rows[i : i + step].reshape(-1)).view(-1, cells * x.shape[1]), weight, bias)
        for i in range(0, n, step)
    ]
    out = torch.cat(parts)
    if residual is not None:
        out = out + residual.float()
    return activate(out, activation).to(dtype)


def add_norm(residual: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, count: Tensor) -> Tensor:
    """residual + LayerNorm(x), (N, C) in the type of ``residual``; gamma, beta (C,) float32; count (1,) int32."""
    return (residual.float() + F.layer_norm(x.float(), x.shape[1:], gamma, beta, eps)).to(residual.dtype)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: Tensor,
    dtype: torch.dtype,
    rows: Tensor | None = None,
    norm_eps: float | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """out[j] = residual[j] + act(norm(x[rows[j]]) · weight + bias).

    Args:
        x: (M, I).
        weight: (I, O).
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        rows: (N,) int32, or None for j itself.
        norm_eps: normalise rows to mean 0 and variance 1 (a layer norm whose scale and shift are part of
            ``weight`` and ``bias``); None leaves them as they are.
        activation: "none", "gelu" or "relu".
        residual: (N, O) or None.

    Returns:
        (N, O).
    """
    if rows is not None:
        x = x.index_select(0, rows)
    if norm_eps is not None:
        x = _normalized(x, norm_eps)
    out = activate(_product(x, weight, bias), activation)
    if residual is not None:
        out = out + residual.float()
    return out.to(dtype)


def block_tail(
    x: Tensor,
    attended: Tensor,
    rows: Tensor,
    projection: tuple[Tensor, Tensor],
    expansion: tuple[Tensor, Tensor],
    reduction: tuple[Tensor, Tensor],
    norm_eps: float,
    count: Tensor,
) -> Tensor:
    """The end of a transformer block: y = x + attended[rows] · P, then y + MLP(norm(y)) with GELU inside.

    Args:
        x: (N, C) features.
        attended: (N, C) result of the attention, in another order.
        rows: (N,) int32 row of ``attended`` that belongs to each row of ``x``.
        projection, expansion, reduction: weight and bias of the three linear layers, (C, C), (C, H), (H, C).
        norm_eps: of the layer norm, whose scale and shift are part of ``expansion``.
        count: (1,) int32 real rows.

    Returns:
        (N, C) in the type of ``x``.
    """
    y = x.float() + _product(attended.index_select(0, rows), *projection)
    hidden = F.gelu(_product(_normalized(y, norm_eps), *expansion))
    return (y + _product(hidden, *reduction)).to(x.dtype)


def gather_add(x: Tensor, other: Tensor, rows: Tensor, count: Tensor, dtype: torch.dtype) -> Tensor:
    """x (N, C) + other[rows], (N, C) in ``dtype``; rows (N,) int32, count (1,) int32 real rows."""
    return (x.float() + other.index_select(0, rows).float()).to(dtype)


def pool_max(
    x: Tensor,
    parent: Tensor,
    begin: Tensor,
    scale: Tensor,
    shift: Tensor,
    fine_count: Tensor,
    count: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """GELU(scale · max + shift) with the largest value of every channel over the rows of each coarse voxel.

    Args:
        x: (M, C) features of the fine voxels.
        parent: (M,) int32 coarse row of each fine row, ascending.
        begin: (N,) int32 first fine row of each coarse row.
        scale, shift: (C,) float32 of the batch norm.
        fine_count, count: (1,) int32 real fine and coarse rows.
        dtype: of the result.

    Returns:
        (N, C).
    """
    row = torch.arange(len(x), device=x.device)
    index = parent.long().where(row < fine_count, len(begin)).clamp(max=len(begin))
    largest = x.new_full((len(begin) + 1, x.shape[1]), float("-inf"), dtype=torch.float32)
    largest.scatter_reduce_(0, index[:, None].expand_as(x), x.float(), "amax")
    return F.gelu(largest[:-1] * scale + shift).to(dtype)


def window_attention(qkv: Tensor, ends: Tensor, heads: int, scale: float, patch_size: int) -> Tensor:
    """Attention in patches of points along a space-filling curve, see :func:`..attention.patch_plan`.

    A patch that is completed by points of the patch before it reads the last ``patch_size`` points of its
    scan, so each patch attends to one window of consecutive points.

    Args:
        qkv: (N, 3·C) query, key and value in serialized order, each split into ``heads``.
        ends: (B,) int32 cumulative ends of the scans.
        heads: H.
        scale: factor of the scores.
        patch_size: K.

    Returns:
        (N, C) in serialized order.
    """
    n, channels = len(qkv), qkv.shape[1] // 3
    size = min(patch_size, n)
    ends = ends.long()
    begins = F.pad(ends[:-1], (1, 0))
    patches = (ends - begins + patch_size - 1) // patch_size
    last = patches.cumsum(0)
    patch = torch.arange(n // patch_size + len(ends), device=qkv.device)
    scan = torch.searchsorted(last, patch, right=True).clamp(max=len(ends) - 1)
    points = (ends - begins)[scan]
    within = patch - (last - patches)[scan]
    start = torch.minimum(within * patch_size, (points - patch_size).clamp(min=0))
    place = torch.arange(size, device=qkv.device)
    inside = place < (points - start)[:, None]
    rows = (begins[scan] + start)[:, None] + place.where(inside, 0)
    slots = qkv.index_select(0, rows.clamp(max=n - 1).view(-1))
    q, k, v = slots.view(len(patch), size, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    with sdpa_kernel(_KERNELS):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None, :], scale=scale)
    out = out.transpose(1, 2).reshape(-1, channels)
    row = torch.arange(n, device=qkv.device)
    scan = torch.searchsorted(ends, row, right=True).clamp(max=len(ends) - 1)
    row = row - begins[scan]
    points = (ends - begins)[scan]
    start = torch.minimum(row // patch_size * patch_size, (points - patch_size).clamp(min=0))
    slot = ((last - patches)[scan] + row // patch_size) * size + row - start
    return out.index_select(0, slot.clamp(0, len(out) - 1))
