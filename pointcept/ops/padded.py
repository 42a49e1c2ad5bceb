"""Operations for inference on padded arrays, whose number of real rows stays on the device.

The functions are documented at their references; see :mod:`pointcept.ops.backend` for which implementation runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pointcept.ops.backend import implementation
from pointcept.ops.reference.octree import MAX_SCANS, Coarse, OctreeLevel, coordinates

__all__ = [
    "MAX_SCANS",
    "OctreeLevel",
    "block_tail",
    "coordinates",
    "fused_channels",
    "gather_add",
    "gathered_linear",
    "linear",
    "octree_keys",
    "octree_level",
    "octree_neighbours",
    "pool_max",
    "residual_norm",
    "row_orders",
    "window_attention",
]


def fused_channels(dtype: torch.dtype) -> int:
    """The most channels with which :func:`block_tail` keeps whole rows on the chip; weights in ``dtype``."""
    return 32 if dtype == torch.float32 else 256


def octree_keys(grid_coord: Tensor, ends: Tensor, largest: Tensor, orders: tuple[str, ...]) -> Tensor:
    """See :func:`pointcept.ops.reference.octree.octree_keys`."""
    return implementation("octree_keys", ends.device)(grid_coord, ends, largest, orders)


def octree_level(
    keys: Tensor,
    source: Tensor,
    position: Tensor,
    ranks: Tensor,
    count: Tensor,
    level: int,
    shift: int,
    capacities: tuple[int, int],
) -> OctreeLevel:
    """See :func:`pointcept.ops.reference.octree.octree_level`."""
    function = implementation("octree_level", keys.device)
    return OctreeLevel(*function(keys, source, position, ranks, count, level, shift, capacities))


def octree_neighbours(
    keys: Tensor, count: Tensor, kernel_size: int, shift: int, coarse: Coarse | None = None
) -> Tensor:
    """See :func:`pointcept.ops.reference.octree.octree_neighbours`."""
    return implementation("octree_neighbours", keys.device)(keys, count, kernel_size, shift, coarse)


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
    """See :func:`pointcept.ops.reference.padded.gathered_linear`."""
    function = implementation("gathered_linear", x.device)
    return function(x, index, weight, bias, count, dtype, activation, order, copy)


def row_orders(maps: Sequence[Tensor], counts: Sequence[Tensor]) -> list[Tensor]:
    """See :func:`pointcept.ops.reference.padded.row_orders`."""
    return implementation("row_orders", maps[0].device)(maps, counts)


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
    """See :func:`pointcept.ops.reference.padded.residual_norm`."""
    function = implementation("residual_norm", residual.device)
    return function(residual, branch, count, eps, dtype, rows, inner, places)


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
    """See :func:`pointcept.ops.reference.padded.linear`."""
    function = implementation("padded_linear", x.device)
    return function(x, weight, bias, count, dtype, rows, activation, residual, copy, copy_branch)


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
    """See :func:`pointcept.ops.reference.padded.block_tail`."""
    function = implementation("block_tail", x.device)
    return function(x, attended, rows, projection, expansion, reduction, norm_eps, count, copy, copy_branch)


def gather_add(x: Tensor, other: Tensor, rows: Tensor, count: Tensor, dtype: torch.dtype) -> Tensor:
    """See :func:`pointcept.ops.reference.padded.gather_add`."""
    return implementation("gather_add", x.device)(x, other, rows, count, dtype)


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
    """See :func:`pointcept.ops.reference.padded.pool_max`."""
    return implementation("pool_max", x.device)(x, parent, begin, scale, shift, fine_count, count, dtype, copy)


def window_attention(qkv: Tensor, ends: Tensor, heads: int, scale: float, patch_size: int) -> Tensor:
    """See :func:`pointcept.ops.reference.padded.window_attention`."""
    return implementation("window_attention", qkv.device)(qkv, ends, heads, scale, patch_size)
