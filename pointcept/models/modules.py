"""Layers that the backbones share: sparse convolutions on a :class:`VoxelGrid`, batch norm, drop path."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pointcept.ops import api as ops
from pointcept.structures import Pooling, VoxelGrid
from pointcept.utils.checks import check_integers, refused


def check_strides(name: str, value: Any) -> tuple[int, ...]:
    """Return the downsampling factors of a backbone as a tuple.

    Raises:
        ConfigError: they are not powers of two.
    """
    strides = check_integers(name, value, low=1)
    if any(s & (s - 1) for s in strides):
        raise refused(name, value, "powers of two")
    return strides


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over rows, fused with the activation behind it.

    A single row is normalised by the running statistics: the deepest stage of a small crop can hold one voxel,
    whose variance is undefined.
    """

    def forward(self, x: Tensor, activation: str = "none", real: Tensor | None = None) -> Tensor:
        """x (N, C) -> (N, C); see :func:`pointcept.ops.reference.batch_norm.batch_norm`.

        Args:
            x: features.
            activation: "none", "gelu" or "relu".
            real: (1,) int32 number of the first rows that are no padding; None for all.
        """
        counts = self.training and (real is not None or len(x) > 1)
        if counts and self.momentum is None:
            assert real is None, "an average over all batches (momentum=None) is not implemented for padded rows"
            return ops.activate(super().forward(x), activation)
        if counts and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        assert self.running_mean is not None
        assert self.running_var is not None
        return ops.batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, counts, self.momentum or 0.0, self.eps,
            activation, real,
        )  # fmt: skip


def activation_name(act: nn.Module) -> str:
    """What :class:`BatchNorm` calls this activation."""
    if isinstance(act, nn.GELU) and act.approximate == "none":
        return "gelu"
    assert isinstance(act, nn.ReLU), f"no batch norm is fused with {act}"
    return "relu"


def norm_act(norm: nn.Module, x: Tensor, activation: str = "none", real: Tensor | None = None) -> Tensor:
    """A batch norm and an activation: fused, unless ``norm`` was replaced, by ``nn.SyncBatchNorm`` for one.

    Args:
        norm: a :class:`BatchNorm`, or a module that takes features only; ``nn.Identity`` where a norm was folded.
        x: (N, C).
        activation: "none", "gelu" or "relu".
        real: (1,) int32 number of the first rows that are no padding, which other norms cannot leave out.
    """
    if isinstance(norm, BatchNorm):
        return norm(x, activation, real)
    assert real is None or isinstance(norm, nn.Identity), (
        f"{type(norm).__name__} takes no padded rows: its statistics would count them"
    )
    return ops.activate(norm(x), activation)


class Linear(nn.Linear):
    """A linear layer that goes through :func:`pointcept.ops.api.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x (N, in) -> (N, out)."""
        return ops.linear(x, self.weight, self.bias)


class DropPath(nn.Module):
    """Drop a residual branch for random rows and scale the others up (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def scale(self, x: Tensor) -> Tensor | None:
        """The factor (N, 1) of each row of a branch ``x`` (N, C), in at least float32; None if all are 1."""
        if self.probability == 0.0 or not self.training:
            return None
        keep = 1.0 - self.probability
        dtype = torch.promote_types(x.dtype, torch.float32)
        return torch.empty(len(x), 1, dtype=dtype, device=x.device).bernoulli_(keep).div_(keep)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale(x)
        return x if scale is None else x * scale.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.probability:.3f}"


class SparseConv(nn.Module):
    """Weight (out, k, k, k, in) and optional bias (out,) of a sparse convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, *(kernel_size,) * 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1.0 / math.sqrt(in_channels * kernel_size**3)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _with_bias(self, x: Tensor) -> Tensor:
        return x if self.bias is None else x + self.bias.to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, bias={self.bias is not None}"


class _AddAround(torch.autograd.Function):
    """The first ``n`` rows plus bias; ``copies`` among them also get the rows ``around`` them."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor | None, n: int, copies: Tensor, around: Tensor) -> Tensor:
        ctx.save_for_backward(copies, around)
        ctx.rows, ctx.bias_type = len(y), None if bias is None else bias.dtype
        out = y[:n].clone() if bias is None else y[:n] + bias.to(y.dtype)
        return out.index_add_(0, copies, y.index_select(0, around))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        copies, around = ctx.saved_tensors
        total = F.pad(grad, (0, 0, 0, ctx.rows - len(grad)))
        total.index_add_(0, around, grad.index_select(0, copies))
        grad_bias = None if ctx.bias_type is None else grad.sum(0, dtype=ctx.bias_type)
        return total, grad_bias, None, None, None


class SubmanifoldConv(SparseConv):
    """Convolution that computes outputs at the input voxels only (arXiv 1711.10275); odd kernel size.

    Where a voxel occurs several times (Mix3D), each copy sees itself in the kernel's centre and one
    copy of every neighbour. A kernel of size 1 reads its memory as an (in, out) matrix, as spconv does,
    because published checkpoints were trained that way.
    """

    def forward(self, x: Tensor, grid: VoxelGrid) -> Tensor:
        """x (N, in) on the N voxels of ``grid`` -> (N, out)."""
        if self.kernel_size == 1:
            return self._with_bias(x @ self.weight.view(self.in_channels, self.out_channels))
        if grid.duplicates is None:
            return ops.sparse_convolution(x, self.weight, grid.neighbours(self.kernel_size), bias=self.bias)
        maps = grid.duplicates.maps(self.kernel_size)
        transposed = maps.transposed if x.requires_grad else maps.without_gradient(len(x))
        y = ops.sparse_convolution(x, self.weight, maps.index, transposed)
        return _AddAround.apply(y, self.bias, len(x), maps.copies, maps.around)


def _children(fine: VoxelGrid, pooling: Pooling) -> tuple[Tensor, Tensor]:
    if pooling.strided_maps is None:
        pooling.strided_maps = ops.strided_maps(fine.grid_coord, pooling.cluster, len(pooling.lengths))
    return pooling.strided_maps


class StridedConv(SparseConv):
    """Convolution with kernel 2 and stride 2: from a grid to the next coarser one."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 2, bias)

    def forward(self, x: Tensor, fine: VoxelGrid, pooling: Pooling) -> Tensor:
        """x (N, in) on ``fine`` -> (M, out) on the grid that ``pooling`` leads to."""
        children, parent_cell = _children(fine, pooling)
        return ops.sparse_convolution(x, self.weight, children, parent_cell, self.bias)


class InverseConv(SparseConv):
    """The inverse of :class:`StridedConv`: every fine voxel reads its coarse voxel through its own cell."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 2, bias)

    def forward(self, x: Tensor, fine: VoxelGrid, pooling: Pooling) -> Tensor:
        """x (M, in) on the grid that ``pooling`` leads to -> (N, out) on ``fine``."""
        children, parent_cell = _children(fine, pooling)
        return ops.sparse_convolution(x, self.weight, parent_cell, children, self.bias)
