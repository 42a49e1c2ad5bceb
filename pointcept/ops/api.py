"""The operations that models are made of; shapes and meaning are documented at their references.

Each function asks :mod:`pointcept.ops.backend` which implementation runs on the device of its input.
Under autocast, features and weights are cast here, once, to the autocast type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.ops.backend import implementation
from pointcept.ops.reference.attention import PatchLayout, PatchPlan, patch_layout, patch_plan
from pointcept.ops.reference.batch_norm import activate
from pointcept.ops.reference.neighbours import centre_cells, strided_maps
from pointcept.ops.reference.serialization import MAX_DEPTH, ORDERS

__all__ = [
    "MAX_DEPTH",
    "ORDERS",
    "PatchLayout",
    "PatchPlan",
    "activate",
    "add_layer_norm",
    "add_scaled",
    "batch_norm",
    "centre_cells",
    "expand",
    "farthest_rows",
    "layer_norm",
    "linear",
    "mlp",
    "norm_add_norm",
    "patch_attention",
    "patch_layout",
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


def sparse_convolution(
    x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """See :func:`pointcept.ops.reference.convolution.sparse_convolution`."""
    x, weight = _autocast(x, weight)
    return implementation("sparse_convolution", x.device, x.dtype)(x, weight, index, transposed, bias)


def patch_attention(
    qkv: Tensor,
    plan: PatchPlan,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    bias: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """See :func:`pointcept.ops.reference.attention.patch_attention`."""
    (qkv,) = _autocast(qkv)
    return implementation("patch_attention", qkv.device, qkv.dtype)(qkv, plan, heads, scale, dropout, bias)


def _sum_types(x: Tensor, branch: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Types of a residual sum and of its norm.

    Where autocast is on, the sum is at least float32, so that small branches are not lost in it, and its norm
    has the type that matrix products read.
    """
    stream = torch.promote_types(x.dtype, branch.dtype)
    if not torch.is_autocast_enabled(x.device.type):
        return stream, stream
    stream = torch.promote_types(stream, torch.float32)
    return stream, stream if stream == torch.float64 else torch.get_autocast_dtype(x.device.type)


def add_layer_norm(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, eps: float, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See :func:`pointcept.ops.reference.normalization.add_layer_norm`.

    Under autocast the sum is float32 and its norm has the autocast type.
    """
    stream, dtype = _sum_types(x, branch)
    return implementation("add_layer_norm", x.device, stream)(x, branch, weight, bias, eps, scale, stream, dtype)


def norm_add_norm(
    x: Tensor,
    branch: Tensor,
    inner_weight: Tensor,
    inner_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`pointcept.ops.reference.normalization.norm_add_norm`; types as in :func:`add_layer_norm`."""
    stream, dtype = _sum_types(x, branch)
    run = implementation("norm_add_norm", x.device, stream)
    return run(x, branch, inner_weight, inner_bias, weight, bias, eps, stream, dtype)


def add_scaled(x: Tensor, branch: Tensor, scale: Tensor | None = None) -> Tensor:
    """See :func:`pointcept.ops.reference.normalization.add_scaled`; under autocast the sum is float32."""
    return implementation("add_scaled", x.device, x.dtype)(x, branch, scale, _sum_types(x, branch)[0])


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """See :func:`pointcept.ops.reference.normalization.layer_norm`; a norm without a gradient."""
    return implementation("layer_norm", x.device, x.dtype)(x, weight, bias, eps, dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See :func:`pointcept.ops.reference.linear.linear`."""
    x, weight = _autocast(x, weight)
    return implementation("linear", x.device, x.dtype)(x, weight, bias)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    activation: str = "none",
    real: Tensor | None = None,
) -> Tensor:
    """See :func:`pointcept.ops.reference.batch_norm.batch_norm`; under autocast ``x`` keeps its own type."""
    run = implementation("batch_norm", x.device, x.dtype)
    return run(x, weight, bias, running_mean, running_var, training, momentum, eps, activation, real)


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, recompute: bool = False) -> Tensor:
    """See :func:`pointcept.ops.reference.mlp.mlp`."""
    x, weight1, weight2 = _autocast(x, weight1, weight2)
    return implementation("mlp", x.device, x.dtype)(x, weight1, bias1, weight2, bias2, recompute)


def segment_max(x: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
    """See :func:`pointcept.ops.reference.segment.segment_max`."""
    return implementation("segment_max", x.device, x.dtype)(x, permutation, lengths)


def expand(x: Tensor, cluster: Tensor, permutation: Tensor, lengths: Tensor) -> Tensor:
    """See :func:`pointcept.ops.reference.segment.expand`."""
    return implementation("expand", x.device, x.dtype)(x, cluster, permutation, lengths)


def spanning_tree(matrix: Tensor) -> Tensor:
    """See :func:`pointcept.ops.reference.spanning_tree.spanning_tree`."""
    return implementation("spanning_tree", matrix.device, matrix.dtype)(matrix)


def farthest_rows(matrix: Tensor, first: Tensor, count: int) -> Tensor:
    """See :func:`pointcept.ops.reference.spanning_tree.farthest_rows`."""
    return implementation("farthest_rows", matrix.device, matrix.dtype)(matrix, first, count)
