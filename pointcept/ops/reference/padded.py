"""Layers for inference on padded arrays: the number of real rows is a tensor, no call waits for the device.

Weights are (in, out) matrices, in the number format of the products; what is added to the float32 sums of the
products (biases, scales) is float32. Rows beyond the real ones may hold anything, and never reach real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pointcept.ops.reference.batch_norm import activate

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_GATHER_ELEMENTS = 1 << 25
# Bit of each pair of opposite cells of a kernel of size 3 in the key of a row's cells, by the lower cell.
_PLACES = (9, 2, 10, 5, 0, 6, 11, 3, 12, 7, 1, 8, 4)


def _normalized(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x.float(), x.shape[1:], eps=eps)


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · weight + bias, float32."""
    return (x.to(weight.dtype) @ weight).float() + bias


def _finish(out: Tensor, dtype: torch.dtype, copy: Tensor | None, copied: Tensor | None = None) -> Tensor:
    """The result in its type; where a copy is wanted, it or ``copied`` goes there in another type."""
    if copy is not None:
        copy.copy_(out if copied is None else copied)
    return out.to(dtype)


def gathered_linear(
    x: Tensor,
    index: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: Tensor,
    dtype: torch.dtype,
    activation: str = "none",
    order: Tensor | None = None,
    copy: Tensor | None = None,
) -> Tensor:
    """Convolution over neighbours: out[j] = act(bias + Σ_k x[index[k, j]] · weight[k]).

    Args:
        x: (M, I) features.
        index: (K, N) int32 row of ``x`` in every kernel cell, M or more where there is none.
        weight: (K·I, O).
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        activation: "none", "gelu" or "relu".
        order: (N,) int32 permutation of the rows, padding last, in which kernels share them out: no other result.
        copy: (N, O) that receives the result, too, in its own type, or None.

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
    return _finish(activate(torch.cat(parts), activation), dtype, copy)


def row_orders(maps: Sequence[Tensor], counts: Sequence[Tensor]) -> list[Tensor]:
    """Orders of the rows of maps in which those that use the same kernel cells stand together.

    Args:
        maps: (27, N) int32 each, N or more where no voxel lies; at most 8.
        counts: (1,) int32 real rows of each.

    Returns:
        (N,) int32 permutations; rows of padding come last.
    """
    orders = []
    for index, count in zip(maps, counts, strict=True):
        used = index < index.shape[1]
        pairs = used[:13] | used[14:].flip(0)  # opposite cells share a bit
        code = torch.zeros_like(index[0])
        for pair, place in zip(pairs, _PLACES, strict=True):  # no tensor of the host: this is captured, too
            code += pair.int() << place
        for shift in (1, 2, 4, 8):  # Gray's order: rows that follow each other differ in few cells
            code = code ^ (code >> shift)
        row = torch.arange(index.shape[1], device=index.device)
        orders.append(torch.where(row < count, code, 1 << len(_PLACES)).argsort(stable=True).int())
    return orders


def residual_norm(
    residual: Tensor,
    branch: Tensor,
    count: Tensor,
    eps: float,
    dtype: torch.dtype,
    rows: Tensor | None = None,
    inner: tuple[Tensor, Tensor, float] | None = None,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y[j] = residual[j] + branch[rows[j]], and y normalised to mean 0 and variance 1, row j of it at places[j].

    Args:
        residual: (N, C).
        branch: (M, C).
        count: (1,) int32 real rows.
        eps: of the norm of y.
        dtype: of the normalised rows.
        rows: (N,) int32, or None for j itself.
        inner: weight (C,) float32, bias (C,) float32 and eps of a layer norm of the branch, or None.
        places: (N,) int32, each row's own among the real ones, or None for j itself.

    Returns:
        y (N, C) in the type of ``residual``, and the normalised rows (N, C).
    """
    if rows is not None:
        branch = branch.index_select(0, rows)
    branch = branch.float()
    if inner is not None:
        gamma, beta, inner_eps = inner
        branch = F.layer_norm(branch, branch.shape[1:], gamma, beta, inner_eps)
    y = residual.float() + branch
    normal = _normalized(y, eps).to(dtype)
    if places is not None:
        real = torch.arange(len(y), device=y.device) < count
        # one row more than needed: where padding goes
        out = normal.new_zeros(len(y) + 1, y.shape[1])
        normal = out.index_copy_(0, places.long().where(real, len(y)), normal)[: len(y)]
    return y.to(residual.dtype), normal


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    count: Tensor,
    dtype: torch.dtype,
    rows: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    copy: Tensor | None = None,
    copy_branch: bool = False,
) -> Tensor:
    """out[j] = residual[j] + act(x[rows[j]] · weight + bias).

    Args:
        x: (M, I).
        weight: (I, O).
        bias: (O,) float32.
        count: (1,) int32 real rows of the result.
        dtype: of the result.
        rows: (N,) int32, or None for j itself.
        activation: "none", "gelu" or "relu".
        residual: (N, O) or None.
        copy: (N, O) that receives the result, too, in its own type, or None.
        copy_branch: ``copy`` receives the result without ``residual``.

    Returns:
        (N, O).
    """
    if rows is not None:
        x = x.index_select(0, rows)
    branch = activate(_product(x, weight, bias), activation)
    out = branch if residual is None else branch + residual.float()
    return _finish(out, dtype, copy, branch if copy_branch else None)


def block_tail(
    x: Tensor,
    attended: Tensor,
    rows: Tensor,
    projection: tuple[Tensor, Tensor],
    expansion: tuple[Tensor, Tensor],
    reduction: tuple[Tensor, Tensor],
    norm_eps: float,
    count: Tensor,
    copy: Tensor | None = None,
    copy_branch: bool = False,
) -> Tensor:
    """The end of a transformer block: y = x + attended[rows] · P, then y + MLP(norm(y)) with GELU inside.

    Args:
        x: (N, C) features.
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
    y = x.float() + _product(attended.index_select(0, rows), *projection)
    hidden = F.gelu(_product(_normalized(y, norm_eps), *expansion))
    branch = _product(hidden, *reduction)
    out = y + branch
    return _finish(out, x.dtype, copy, branch if copy_branch else None)


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
    copy: Tensor | None = None,
) -> Tensor:
    """GELU(scale · max + shift) with the largest value of every channel over the rows of each coarse voxel.

    Args:
        x: (M, C) features of the fine voxels.
        parent: (M,) int32 coarse row of each fine row, ascending.
        begin: (N,) int32 first fine row of each coarse row.
        scale, shift: (C,) float32 of the batch norm.
        fine_count, count: (1,) int32 real fine and coarse rows.
        dtype: of the result.
        copy: (N, C) that receives the result, too, in its own type, or None.

    Returns:
        (N, C).
    """
    row = torch.arange(len(x), device=x.device)
    index = parent.long().where(row < fine_count, len(begin)).clamp(max=len(begin))
    largest = x.new_full((len(begin) + 1, x.shape[1]), float("-inf"), dtype=torch.float32)
    largest.scatter_reduce_(0, index[:, None].expand_as(x), x.float(), "amax")
    return _finish(F.gelu(largest[:-1] * scale + shift), dtype, copy)


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
