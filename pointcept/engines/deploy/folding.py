"""Weights as the deployed network reads them: batch norms and successive linear maps folded, in float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pointcept.models.modules import SubmanifoldConv


class Target(NamedTuple):
    """Number format of the products, and device."""

    dtype: torch.dtype
    device: torch.device


@dataclass
class Affine:
    """A linear map x · weight + bias in float64; of a convolution with K cells the weight is (K·in, out)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of_linear(cls, layer: nn.Linear) -> Affine:
        """A linear layer."""
        return cls(layer.weight.detach().double().t(), _bias(layer, layer.out_features))

    @classmethod
    def of_convolution(cls, layer: nn.Module) -> Affine:
        """A sparse convolution; one with kernel size 1 reads its memory as (in, out)."""
        weight = layer.weight.detach().double()  # type: ignore[union-attr, operator]
        if isinstance(layer, SubmanifoldConv) and layer.kernel_size == 1:
            weight = weight.reshape(layer.in_channels, layer.out_channels)
        else:
            weight = weight.flatten(1).t()
        return cls(weight, _bias(layer, weight.shape[1]))

    def then_norm(self, norm: nn.BatchNorm1d) -> Affine:
        """Followed by a batch norm in evaluation."""
        scale, shift = norm_scale(norm)
        return Affine(self.weight * scale, self.bias * scale + shift)

    def then_linear(self, layer: nn.Linear) -> Affine:
        """Followed by a linear layer."""
        other = Affine.of_linear(layer)
        return Affine(self.weight @ other.weight, self.bias @ other.weight + other.bias)

    def after_layer_norm(self, norm: nn.LayerNorm) -> Affine:
        """After a layer norm, whose scale and shift become part of the map; it still has to normalise."""
        gamma, beta = norm.weight.detach().double(), norm.bias.detach().double()
        return Affine(gamma[:, None] * self.weight, beta @ self.weight + self.bias)

    def finish(self, target: Target) -> tuple[Tensor, Tensor]:
        """Weight in the type of the products and bias in float32, contiguous, on the device."""
        weight = self.weight.to(target.dtype).contiguous()
        return weight.to(target.device), self.bias.float().contiguous().to(target.device)


def norm_scale(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation as scale and shift, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def overflown(layers: Iterable[tuple[str, Sequence[Tensor]]]) -> list[str]:
    """Names of layers with a weight that is not finite: folding and rounding may go beyond the largest number."""
    return [name for name, weights in layers if not all(bool(weight.isfinite().all()) for weight in weights)]


def _bias(layer: nn.Module, channels: int) -> Tensor:
    if layer.bias is None:
        return torch.zeros(channels, dtype=torch.float64, device=layer.weight.device)  # type: ignore[arg-type, union-attr]
    return layer.bias.detach().double()  # type: ignore[union-attr, operator]
