"""Networks that have no kernels of their own for deployment: batch norms folded, the rest as it is, as CUDA graphs."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from pointcept.engines.deploy.folding import Target, norm_scale, overflown
from pointcept.models.graphed import GraphedNetwork, why_not_graphed
from pointcept.models.modules import BatchNorm, SparseConv
from pointcept.models.segmentor import Segmentor
from pointcept.models.sparse_unet.backbone import BasicBlock
from pointcept.utils.errors import ConfigError, DataError


class GraphedSegmentor:
    """A copy of a segmentor for inference.

    Args:
        model: with its weights.
        target: number format of the products, and device.

    Raises:
        ConfigError: it cannot be captured.
    """

    def __init__(self, model: Segmentor, target: Target) -> None:
        self.num_classes, self.in_channels = model.num_classes, model.backbone.in_channels
        self._target = target
        network = fold_batch_norms(copy.deepcopy(model)).to(target.device).eval().requires_grad_(False)
        network.criteria = None  # it would ask for labels
        reason = why_not_graphed(network, target.device) if target.device.type == "cuda" else None
        if reason is not None:
            raise ConfigError(f"inference engine: {reason}")
        self._segmentor = network
        self._network = GraphedNetwork(network, network.layouts(target.device))

    def not_finite(self) -> list[str]:
        """Which folded weights the type of the products cannot hold."""
        named = self._segmentor.named_parameters()
        return overflown((name, [weight.to(self._target.dtype)]) for name, weight in named)

    def __call__(self, grid_coord: Tensor, feat: Tensor, offset: Tensor) -> Tensor:
        """Voxels of a batch -> logits (N, K) float32.

        Raises:
            DataError: an empty scan, offsets that do not fit, coordinates out of range, or voxels that occur twice.
        """
        batch = self._network.layouts.lay_out({"grid_coord": grid_coord, "feat": feat, "offset": offset})
        if batch.sizes.copies:
            raise DataError(duplicates(batch.sizes.copies - batch.sizes.repeated, len(feat)))
        where, dtype = self._target.device.type, self._target.dtype
        with torch.autocast(where, dtype, enabled=dtype != torch.float32):
            return self._network(batch).logits.float()


def duplicates(number: int, voxels: int) -> str:
    """The message for voxels that occur more than once."""
    return (
        f"{number} of {voxels} voxels occur more than once in their scan; the inference engine takes one row for each "
        "voxel (GridSample)"
    )


def fold_batch_norms(model: Segmentor) -> Segmentor:
    """Make batch norms in evaluation part of the sparse convolutions before them, in place."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for (_, layer), (name, norm) in pairwise(list(module.named_children())):
                if isinstance(layer, SparseConv) and isinstance(norm, BatchNorm):
                    _fold(layer, norm)
                    setattr(module, name, nn.Identity())
        elif isinstance(module, BasicBlock):
            for layer, name in ((module.conv1, "bn1"), (module.conv2, "bn2")):
                _fold(layer, getattr(module, name))
                setattr(module, name, nn.Identity())
    return model


@torch.no_grad()
def _fold(layer: SparseConv, norm: BatchNorm) -> None:
    scale, shift = norm_scale(norm)
    weight, bias = layer.weight.detach(), layer.bias
    if layer.kernel_size == 1:  # its memory is (in, out)
        folded = (weight.reshape(layer.in_channels, layer.out_channels).double() * scale).view_as(weight)
    else:
        folded = weight.double() * scale.view(-1, 1, 1, 1, 1)
    total = shift if bias is None else bias.double() * scale + shift
    layer.weight = nn.Parameter(folded.to(weight.dtype))
    layer.bias = nn.Parameter(total.to(weight.dtype))
