"""Batch norms whose statistics are those of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pointcept.utils import comm


class _Sum(torch.autograd.Function):
    """The sum over all processes, each of which gets the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return comm.all_reduce_sum(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return comm.all_reduce_sum(grad)


class SynchronizedBatchNorm(nn.BatchNorm1d):
    """Batch norm over the rows of all processes, for those on CPUs, where ``nn.SyncBatchNorm`` works on GPUs only.

    Mean and variance are two sums over the processes, in float32 or better; a single row in all of them has no
    variance and is normalised by the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) -> (N, C); every process has to call it."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = _Sum.apply(torch.cat([wide.sum(0), wide.new_full((1,), len(x))]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = wide - mean
        variance = _Sum.apply(centred.square().sum(0)) / count
        if count < 2:
            normal = F.batch_norm(wide, self.running_mean, self.running_var, None, None, False, 0.0, self.eps)
        else:
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
            normal = centred * torch.rsqrt(variance + self.eps)
        if self.affine:
            normal = normal * self.weight + self.bias
        return normal.to(x.dtype)

    def _follow(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def synchronize_norms(network: nn.Module, where: torch.device) -> nn.Module:
    """The network with every batch norm replaced by one over all processes, which takes over its weights.

    Args:
        network: with or without weights on the device.
        where: the device that it runs on: ``nn.SyncBatchNorm`` on a GPU, :class:`SynchronizedBatchNorm` on a CPU.
    """
    if where.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if isinstance(network, _BatchNorm) and network.track_running_stats:
        norm = SynchronizedBatchNorm(network.num_features, network.eps, network.momentum, network.affine)
        norm.weight, norm.bias = network.weight, network.bias
        norm.running_mean, norm.running_var = network.running_mean, network.running_var
        norm.num_batches_tracked, norm.training = network.num_batches_tracked, network.training
        return norm
    for name, child in network.named_children():
        setattr(network, name, synchronize_norms(child, where))
    return network
