"""The operations that models are made of; shapes and meaning are documented at their references.

Each function asks :mod:`pointcept.ops.backend` which implementation runs on the device of its input.
Under autocast, features and weights are cast here, once, to the autocast type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.ops.backend import implementation
from pointcept.ops.reference.attention import PatchPlan, patch_plan
from pointcept.ops.reference.neighbours import centre_cells, strided_maps
from pointcept.ops.reference.serialization import MAX_DEPTH, ORDERS

__all__ = [
    "MAX_DEPTH",
    "ORDERS",
    "PatchPlan",
    "centre_cells",
    "expand",
    "farthest_rows",
    "patch_attention",
    "patch_plan",
    "segment_max",
    "serialization_codes",
    "spanning_tree",
    "sparse_convolution",
    "strided_maps",
    "submanifold_map",
]


def _autocast(*tensors: Tensor) -> list[Tensor]:
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


def serialization_codes(grid_coord: Tensor, batch: Tensor, depth: int, orders: tuple[str, ...]) -> Tensor:
    """See :func:`pointcept.ops.reference.serialization.serialization_codes`."""
    return implementation("serialization", grid_coord.device)(grid_coord, batch, depth, orders)


def submanifold_map(grid_coord: Tensor, batch: Tensor, kernel_size: int) -> Tensor:
    """See :func:`pointcept.ops.reference.neighbours.submanifold_map`."""
    return implementation("submanifold_map", grid_coord.device)(grid_coord, batch, kernel_size)


def sparse_convolution(x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None = None) -> Tensor:
    """See :func:`pointcept.ops.reference.convolution.sparse_convolution`."""
    x, weight = _autocast(x, weight)
    return implementation("sparse_convolution", x.device, x.dtype)(x, weight, index, transposed)


def patch_attention(
    qkv: Tensor,
    plan: PatchPlan,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    bias: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """See :func:`pointcept.ops.reference.attention.patch_attention`."""
    return implementation("patch_attention", qkv.device)(qkv, plan, heads, scale, dropout, bias)


def segment_max(x: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
    """See :func:`pointcept.ops.reference.segment.segment_max`."""
    return implementation("segment_max", x.device)(x, permutation, lengths)


def expand(x: Tensor, cluster: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
    """See :func:`pointcept.ops.reference.segment.expand`."""
    return implementation("expand", x.device)(x, cluster, permutation, lengths)


def spanning_tree(matrix: Tensor) -> Tensor:
    """See :func:`pointcept.ops.reference.spanning_tree.spanning_tree`."""
    return implementation("spanning_tree", matrix.device, matrix.dtype)(matrix)


def farthest_rows(matrix: Tensor, first: Tensor, count: int) -> Tensor:
    """See :func:`pointcept.ops.reference.spanning_tree.farthest_rows`."""
    return implementation("farthest_rows", matrix.device, matrix.dtype)(matrix, first, count)
