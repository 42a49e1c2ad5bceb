"""Layers that the backbones share: sparse convolutions on a :class:`VoxelGrid`, batch norm, drop path."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcept.ops import api as ops
from pointcept.structures import Pooling, VoxelGrid


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over rows; a single row is normalised by the running statistics.

    The deepest stage of a small crop can hold one voxel, whose variance is undefined.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class DropPath(nn.Module):
    """Drop a residual branch for random rows and scale the others up (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if self.probability == 0.0 or not self.training:
            return x
        keep = 1.0 - self.probability
        return x * x.new_empty(len(x), 1).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"{self.probability:.3f}"


class _SparseConv(nn.Module):
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


class SubmanifoldConv(_SparseConv):
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
            return self._with_bias(ops.sparse_convolution(x, self.weight, grid.neighbours(self.kernel_size)))
        distinct, centre = grid.duplicates, self.kernel_size // 2
        around = self.weight.clone()
        around[:, centre, centre, centre] = 0
        index = distinct.grid.neighbours(self.kernel_size)
        y = ops.sparse_convolution(x.index_select(0, distinct.representative), around, index)
        own = F.linear(x, self.weight[:, centre, centre, centre])
        return self._with_bias(y.index_select(0, distinct.group) + own)


def _children(fine: VoxelGrid, pooling: Pooling) -> tuple[Tensor, Tensor]:
    if pooling.strided_maps is None:
        pooling.strided_maps = ops.strided_maps(fine.grid_coord, pooling.cluster, len(pooling.lengths))
    return pooling.strided_maps


class StridedConv(_SparseConv):
    """Convolution with kernel 2 and stride 2: from a grid to the next coarser one."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 2, bias)

    def forward(self, x: Tensor, fine: VoxelGrid, pooling: Pooling) -> Tensor:
        """x (N, in) on ``fine`` -> (M, out) on the grid that ``pooling`` leads to."""
        children, parent_cell = _children(fine, pooling)
        return self._with_bias(ops.sparse_convolution(x, self.weight, children, parent_cell))


class InverseConv(_SparseConv):
    """The inverse of :class:`StridedConv`: every fine voxel reads its coarse voxel through its own cell."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 2, bias)

    def forward(self, x: Tensor, fine: VoxelGrid, pooling: Pooling) -> Tensor:
        """x (M, in) on the grid that ``pooling`` leads to -> (N, out) on ``fine``."""
        children, parent_cell = _children(fine, pooling)
        return self._with_bias(ops.sparse_convolution(x, self.weight, parent_cell, children))
