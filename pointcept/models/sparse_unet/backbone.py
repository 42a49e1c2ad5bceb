"""The sparse-convolution U-Net, registered as ``SpUNet-v1m1`` with Pointcept's arguments and weight names.

After Graham et al. (arXiv 1711.10275) and MinkUNet (Choy et al., arXiv 1904.08755).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcept.models.builder import MODELS, check_has_decoder
from pointcept.models.modules import BatchNorm, InverseConv, StridedConv, SubmanifoldConv, activation_name, norm_act
from pointcept.structures import GridPyramid, VoxelGrid
from pointcept.utils.checks import check_integer, check_integers, refused


def _norm(channels: int) -> BatchNorm:
    return BatchNorm(channels, eps=1e-3, momentum=0.01)


@dataclass
class Encoded:
    """Features after the stem and after every encoder stage."""

    features: list[Tensor]


class BasicBlock(nn.Module):
    """Two submanifold convolutions with a residual connection."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = None
        if in_channels != channels:
            self.proj = nn.Sequential(SubmanifoldConv(in_channels, channels, 1, bias=False), _norm(channels))
        self.conv1 = SubmanifoldConv(in_channels, channels, 3, bias=False)
        self.bn1 = _norm(channels)
        self.conv2 = SubmanifoldConv(channels, channels, 3, bias=False)
        self.bn2 = _norm(channels)

    def forward(self, x: Tensor, grid: VoxelGrid) -> Tensor:
        """x (N, in) -> (N, C)."""
        skip = x
        if self.proj is not None:
            conv, norm = self.proj
            skip = norm_act(norm, conv(x, grid), real=grid.real)
        x = norm_act(self.bn1, self.conv1(x, grid), "relu", grid.real)
        return F.relu(norm_act(self.bn2, self.conv2(x, grid), real=grid.real) + skip)


def _blocks(in_channels: int, channels: int, number: int) -> nn.Sequential:
    sizes = [in_channels] + [channels] * (number - 1)
    return nn.Sequential(OrderedDict((f"block{i}", BasicBlock(c, channels)) for i, c in enumerate(sizes)))


@MODELS.register_module("SpUNet-v1m1")
class SpUNet(nn.Module):
    """Stem, strided stages with residual blocks, and their mirror with skip connections.

    Voxels that occur several times (Mix3D) are merged at the entry by averaging their features, and
    get equal logits.

    Args:
        in_channels: channels of ``feat``.
        num_classes: channels of the final layer; 0 leaves it out.
        base_channels: channels of the stem.
        channels: of the encoder stages, then of the decoder stages, deepest first.
        layers: residual blocks of each, in the same order.
        cls_mode, enc_mode: see :func:`check_has_decoder`.

    Raises:
        ConfigError: channels and layers of different or odd length, or a network without its decoder.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        base_channels: int = 32,
        channels: Sequence[int] = (32, 64, 128, 256, 256, 128, 96, 96),
        layers: Sequence[int] = (2, 3, 4, 6, 2, 2, 2, 2),
        cls_mode: bool | None = None,
        enc_mode: bool | None = None,
    ) -> None:
        super().__init__()
        check_has_decoder("SpUNet-v1m1", cls_mode, enc_mode)
        check_integer("in_channels", in_channels, 1)
        check_integer("num_classes", num_classes, 0)
        check_integer("base_channels", base_channels, 1)
        check_integers("channels", channels, low=1)
        check_integers("layers", layers, low=0)
        if len(channels) != len(layers) or len(channels) % 2:
            raise refused("channels", channels, f"an even number of values, as many as layers={layers}")
        stages = len(layers) // 2
        self.orders, self.strides = ("z",), (2,) * stages
        self.in_channels, self.out_channels, self.num_classes = in_channels, channels[-1], num_classes
        self.stage_channels = (base_channels, *channels[:stages])
        self.conv_input = nn.Sequential(
            SubmanifoldConv(in_channels, base_channels, 5, bias=False), _norm(base_channels), nn.ReLU()
        )
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.enc, self.dec = nn.ModuleList(), nn.ModuleList()
        above, decoded = base_channels, channels[-1]
        for s in range(stages):
            self.down.append(nn.Sequential(StridedConv(above, channels[s]), _norm(channels[s]), nn.ReLU()))
            self.enc.append(_blocks(channels[s], channels[s], layers[s]))
            below = channels[len(channels) - s - 2]
            self.up.append(nn.Sequential(InverseConv(below, decoded), _norm(decoded), nn.ReLU()))
            self.dec.append(_blocks(decoded + above, decoded, layers[len(channels) - s - 1]))
            above, decoded = channels[s], below
        self.final = SubmanifoldConv(channels[-1], num_classes, 1, bias=True) if num_classes > 0 else None
        for module in self.modules():
            if isinstance(module, (SubmanifoldConv, StridedConv, InverseConv)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def build_pyramid(self, grid_coord: Tensor, offset: Tensor) -> GridPyramid:
        """The grids that this backbone computes on; see :class:`GridPyramid`."""
        return GridPyramid(grid_coord, offset, self.orders, self.strides)

    def serves(self, pyramid: GridPyramid) -> bool:
        """Whether a pyramid built for another network fits this one."""
        return pyramid.strides == self.strides

    def why_not_graphed(self) -> str | None:
        """None: a CUDA graph holds everything."""
        return None

    def draw_tables(self, tables: Sequence[str]) -> Tensor | None:
        """None: the network has no orders to shuffle."""
        return None

    def stage_grids(self, pyramid: GridPyramid) -> list[VoxelGrid]:
        """The voxels whose features :meth:`encode` returns, for the stem and per stage."""
        return pyramid.distinct()[0]

    def encode(self, feat: Tensor, pyramid: GridPyramid, watch: int | None = None) -> Encoded:
        """feat (N, in_channels) on the finest grid -> features after the stem and every stage.

        ``watch`` cuts the graph at that stage: its features become a leaf that asks for a gradient.
        """
        levels, poolings = pyramid.distinct()
        duplicates = pyramid.levels[0].duplicates
        if duplicates is not None:
            feat = duplicates.mean(feat)
        conv, norm, act = self.conv_input
        stem = norm_act(norm, conv(feat, levels[0]), activation_name(act), levels[0].real)
        features = [stem.detach().requires_grad_() if watch == 0 else stem]
        for s, (down, blocks) in enumerate(zip(self.down, self.enc, strict=True)):
            conv, norm, act = down.children()
            x = conv(features[-1], levels[s], poolings[s])
            x = norm_act(norm, x, activation_name(act), levels[s + 1].real)
            for block in blocks.children():
                x = block(x, levels[s + 1])
            if s + 1 == watch:
                x = x.detach().requires_grad_()
            features.append(x)
        return Encoded(features)

    def decode(self, encoded: Encoded, pyramid: GridPyramid) -> Tensor:
        """Features of all stages -> (N, num_classes), or (N, channels[-1]) without a final layer."""
        levels, poolings = pyramid.distinct()
        x = encoded.features[-1]
        for s in reversed(range(len(poolings))):
            conv, norm, act = self.up[s].children()
            up = norm_act(norm, conv(x, levels[s], poolings[s]), activation_name(act), levels[s].real)
            x = torch.cat([up, encoded.features[s]], 1)
            for block in self.dec[s].children():
                x = block(x, levels[s])
        if self.final is not None:
            x = self.final(x, levels[0])
        duplicates = pyramid.levels[0].duplicates
        return x if duplicates is None else x.index_select(0, duplicates.group)
