"""The Point Transformer V3 backbone, registered as ``PT-v3m1`` with Pointcept's arguments and weight names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pointcept.models.builder import MODELS, check_has_decoder
from pointcept.models.modules import check_strides
from pointcept.models.point_transformer_v3.layers import (
    Block,
    BlockOptions,
    Embedding,
    SerializedPooling,
    SerializedUnpooling,
)
from pointcept.ops.api import ORDERS
from pointcept.structures import GridPyramid, VoxelGrid
from pointcept.utils.checks import check_choice, check_integer, check_integers, check_number, refused
from pointcept.utils.errors import ConfigError

_TRAINED_WITH = {
    "residual": "for weights trained here or with Pointcept since 1.5.2",
    "mlp_branch": "for weights trained with Pointcept up to 1.5.1",
}


@dataclass
class Encoded:
    """Features after every encoder stage and the orders each stage attended along."""

    features: list[Tensor]
    orders: list[list[str]]


class Stage(nn.Module):
    """An optional change of resolution (``down`` or ``up``) and the blocks ``block0``, ``block1``, ..."""

    def __init__(self, resample: Mapping[str, nn.Module], blocks: list[Block]) -> None:
        super().__init__()
        for name, module in resample.items():
            self.add_module(name, module)
        for i, block in enumerate(blocks):
            self.add_module(f"block{i}", block)
        self.depth = len(blocks)

    def blocks(self) -> list[Block]:
        """The blocks in order."""
        return [self.get_submodule(f"block{i}") for i in range(self.depth)]  # type: ignore[misc]


def _check_numbers(in_channels: int, drop_path: float, bn_momentum: float) -> None:
    check_integer("in_channels", in_channels, 1)
    check_number("drop_path", drop_path, 0, 1, open_high=True)
    check_number("bn_momentum", bn_momentum, 0, 1, open_low=True)


def _drop_rates(depths: Sequence[int], highest: float) -> list[list[float]]:
    """Drop path of every block of every stage, rising linearly from 0."""
    rates = iter(torch.linspace(0, highest, sum(depths)).tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]


def _encoder(
    stages: tuple[Sequence[int], ...], drop_path: float, bn_momentum: float, options: BlockOptions
) -> nn.Module:
    """The modules ``enc0``, ``enc1``, ...; ``stages`` are their depths, channels, heads and patch sizes."""
    encoder, drops = nn.Module(), _drop_rates(stages[0], drop_path)
    for s, (_, channels, heads, patch) in enumerate(zip(*stages, strict=True)):
        blocks = [Block(channels, heads, patch, d, i, options) for i, d in enumerate(drops[s])]
        down = {"down": SerializedPooling(stages[1][s - 1], channels, bn_momentum)} if s else {}
        encoder.add_module(f"enc{s}", Stage(down, blocks))
    return encoder


def _decoder(
    stages: tuple[Sequence[int], ...],
    enc_channels: Sequence[int],
    drop_path: float,
    bn_momentum: float,
    options: BlockOptions,
) -> nn.Module:
    """The modules ``dec0``, the finest, ``dec1``, ...; ``stages`` as in :func:`_encoder`."""
    depths, channels, heads, patches = stages
    decoder, drops, below = nn.Module(), _drop_rates(depths, drop_path), [*channels, enc_channels[-1]]
    for s in reversed(range(len(depths))):
        shape = (channels[s], heads[s], patches[s])
        blocks = [Block(*shape, d, i, options) for i, d in enumerate(reversed(drops[s]))]
        up = {"up": SerializedUnpooling(below[s + 1], enc_channels[s], channels[s], bn_momentum)}
        decoder.add_module(f"dec{s}", Stage(up, blocks))
    return decoder


def _check_options(pdnorm_bn: bool, pdnorm_ln: bool, rpe_in_flash: bool) -> None:
    """Refuse what this network cannot do."""
    for name, value in (("pdnorm_bn", pdnorm_bn), ("pdnorm_ln", pdnorm_ln)):
        if value:
            raise ConfigError(f"PT-v3m1: {name}=True asks for prompt-driven norms, which do not exist here")
    if rpe_in_flash:
        raise ConfigError("PT-v3m1: enable_rpe needs enable_flash=False: fused kernels take no learned bias")


@MODELS.register_module("PT-v3m1")
class PointTransformerV3(nn.Module):
    """Serialized attention in a U-Net: encoder stages with pooling, decoder stages with unpooling.

    Args:
        in_channels: channels of ``feat``.
        order: serialization orders; block i of a stage attends along order i mod n. The first one also
            sorts the rows of pooled grids.
        stride: downsampling factor between encoder stages.
        enc_depths, enc_channels, enc_num_head, enc_patch_size: per encoder stage.
        dec_depths, dec_channels, dec_num_head, dec_patch_size: per decoder stage, finest first.
        mlp_ratio, qkv_bias, qk_scale, attn_drop, proj_drop: of the blocks.
        drop_path: stochastic depth of the last block; it rises linearly from 0.
        pre_norm: normalise before attention and MLP (else after).
        shuffle_orders: permute the orders at the start and at every pooling, in training only.
        bn_momentum: share of a batch in the running statistics of the batch norms; 0.01 suits long trainings,
            a run of a few hundred steps needs more.
        enable_rpe: learned relative position bias (then ``enable_flash`` must be False).
        enable_flash: allow fused attention kernels; False computes attention in float32.
        upcast_attention, upcast_softmax: compute attention in float32.
        recompute: what the backward pass computes again instead of keeping it in memory: ``"mlp"`` the wide layer
            of every block's MLP, ``"linear"`` all that its linear layers and norms give (with ``pre_norm``),
            ``"block"`` whole blocks, convolution and attention too (no CUDA graphs), None nothing.
        cpe_input: what the position encoding of every block but the first of a stage reads: ``"residual"`` the output
            of the block before it, as in Pointcept since 1.5.2; ``"mlp_branch"`` the MLP's output before it is added,
            as in Pointcept up to 1.5.1, with which the published weights were trained. Both have the same weights, so
            a file does not tell which it is for. Without ``pre_norm`` there is no difference.
        cls_mode, enc_mode: see :func:`check_has_decoder`.
        pdnorm_bn, pdnorm_ln, pdnorm_decouple, pdnorm_adaptive, pdnorm_affine, pdnorm_conditions:
            accepted so that Pointcept's configs load; prompt-driven norms are not supported.

    Raises:
        ConfigError: a value out of its range, stages of different number, channels that heads do not divide,
            unsupported options.
    """

    def __init__(
        self,
        in_channels: int = 6,
        order: Sequence[str] | str = ("z", "z-trans"),
        stride: Sequence[int] = (2, 2, 2, 2),
        enc_depths: Sequence[int] = (2, 2, 2, 6, 2),
        enc_channels: Sequence[int] = (32, 64, 128, 256, 512),
        enc_num_head: Sequence[int] = (2, 4, 8, 16, 32),
        enc_patch_size: Sequence[int] = (1024, 1024, 1024, 1024, 1024),
        dec_depths: Sequence[int] = (2, 2, 2, 2),
        dec_channels: Sequence[int] = (64, 64, 128, 256),
        dec_num_head: Sequence[int] = (4, 4, 8, 16),
        dec_patch_size: Sequence[int] = (1024, 1024, 1024, 1024),
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.3,
        pre_norm: bool = True,
        shuffle_orders: bool = True,
        enable_rpe: bool = False,
        enable_flash: bool = True,
        upcast_attention: bool = False,
        upcast_softmax: bool = False,
        cls_mode: bool | None = None,
        pdnorm_bn: bool = False,
        pdnorm_ln: bool = False,
        pdnorm_decouple: bool = True,
        pdnorm_adaptive: bool = False,
        pdnorm_affine: bool = True,
        pdnorm_conditions: Sequence[str] = (),
        bn_momentum: float = 0.01,
        recompute: str | None = None,
        enc_mode: bool | None = None,
        cpe_input: str = "residual",
    ) -> None:
        super().__init__()
        check_has_decoder("PT-v3m1", cls_mode, enc_mode)
        _check_options(pdnorm_bn, pdnorm_ln, enable_rpe and enable_flash)
        _check_numbers(in_channels, drop_path, bn_momentum)
        self.orders = (order,) if isinstance(order, str) else tuple(order)
        self.strides = check_strides("stride", stride)
        self.shuffle_orders = shuffle_orders
        self._uncapturable = "recompute='block'" if recompute == "block" else "enable_rpe" if enable_rpe else None
        self.in_channels, self.out_channels = in_channels, dec_channels[0]
        self.stage_channels = tuple(enc_channels)
        encoder = (enc_depths, enc_channels, enc_num_head, enc_patch_size)
        decoder = (dec_depths, dec_channels, dec_num_head, dec_patch_size)
        self._check(encoder, decoder)
        upcast = upcast_attention or upcast_softmax or not enable_flash
        options = BlockOptions(
            mlp_ratio, qkv_bias, qk_scale, attn_drop, proj_drop, pre_norm, enable_rpe, upcast, recompute, cpe_input
        )
        self.weight_form = f"PT-v3m1 with cpe_input={cpe_input!r}, {_TRAINED_WITH[cpe_input]}" if pre_norm else None
        self.embedding = Embedding(in_channels, enc_channels[0], bn_momentum)
        self.enc = _encoder(encoder, drop_path, bn_momentum, options)
        self.dec = _decoder(decoder, enc_channels, drop_path, bn_momentum, options)

    def _check(self, encoder: tuple[Sequence[int], ...], decoder: tuple[Sequence[int], ...]) -> None:
        stages = len(self.strides) + 1
        for side, values, wanted in (("enc", encoder, stages), ("dec", decoder, stages - 1)):
            names = [f"{side}_{part}" for part in ("depths", "channels", "num_head", "patch_size")]
            for name, value in zip(names, values, strict=True):
                if len(value) != wanted:
                    raise refused(name, value, f"{wanted} values, for stride {self.strides}")
                check_integers(name, value, low=0 if name.endswith("depths") else 1)
            for channels, heads in zip(values[1], values[2], strict=True):
                if channels % heads:
                    raise ConfigError(f"got {heads} heads, which do not divide {channels} channels", f"{side}_num_head")
        if not self.orders:
            raise refused("order", self.orders, "one or more serialization orders")
        for name in self.orders:
            check_choice("order", name, ORDERS)

    def build_pyramid(self, grid_coord: Tensor, offset: Tensor) -> GridPyramid:
        """The grids that this backbone computes on; see :class:`GridPyramid`."""
        return GridPyramid(grid_coord, offset, self.orders, self.strides)

    def serves(self, pyramid: GridPyramid) -> bool:
        """Whether a pyramid built for another network fits this one."""
        return pyramid.serves(self.orders, self.strides)

    def stage_grids(self, pyramid: GridPyramid) -> list[VoxelGrid]:
        """The voxels whose features :meth:`encode` returns, per stage."""
        return pyramid.levels

    def why_not_graphed(self) -> str | None:
        """The option that a CUDA graph cannot hold, or None."""
        return self._uncapturable and f"the backbone's {self._uncapturable} cannot be captured"

    def _level_orders(self) -> list[list[str]]:
        """The orders of every level; shuffled once per level in training where ``shuffle_orders`` is set."""
        orders, levels = list(self.orders), []
        for _ in range(len(self.strides) + 1):
            if self.shuffle_orders and self.training:
                orders = [orders[i] for i in torch.randperm(len(orders)).tolist()]
            levels.append(orders)
        return levels

    def draw_tables(self, tables: Sequence[str]) -> Tensor | None:
        """Where orders are shuffled, the table that stands for each order at each level, for one batch.

        Args:
            tables: names of T orders, among them those of the network.

        Returns:
            (levels, T) int64 on the host, or None where every order stands for itself.
        """
        if not (self.shuffle_orders and self.training):
            return None
        places = [tables.index(name) for name in self.orders]
        drawn = torch.arange(len(tables)).repeat(len(self.strides) + 1, 1)
        for level, names in enumerate(self._level_orders()):
            drawn[level, places] = torch.tensor([tables.index(name) for name in names])
        return drawn

    def encode(self, feat: Tensor, pyramid: GridPyramid, watch: int | None = None) -> Encoded:
        """feat (N, in_channels) on the finest grid -> features (N_s, enc_channels[s]) after every stage.

        ``watch`` cuts the graph at that stage: its features become a leaf that asks for a gradient. A pyramid of fixed
        shapes shuffles the orders itself, see :meth:`draw_tables`.
        """
        levels = range(len(pyramid.levels))
        orders = [list(self.orders) for _ in levels] if pyramid.fixed else self._level_orders()
        x = self.embedding(feat, pyramid.levels[0])
        features: list[Tensor] = []
        for s, grid in enumerate(pyramid.levels):
            stage = self.enc.get_submodule(f"enc{s}")
            assert isinstance(stage, Stage)
            if s:
                x = stage.get_submodule("down")(x, pyramid.poolings[s - 1])
            position = None
            for block in stage.blocks():
                x, position = block(x, grid, orders[s], position)
            if s == watch:
                x = x.detach().requires_grad_()
            features.append(x)
        return Encoded(features, orders)

    def decode(self, encoded: Encoded, pyramid: GridPyramid) -> Tensor:
        """Features of all encoder stages -> (N, dec_channels[0]) on the finest grid."""
        x = encoded.features[-1]
        for s in reversed(range(len(pyramid.poolings))):
            stage = self.dec.get_submodule(f"dec{s}")
            assert isinstance(stage, Stage)
            x, position = stage.get_submodule("up")(x, encoded.features[s], pyramid.poolings[s])
            for block in stage.blocks():
                x, position = block(x, pyramid.levels[s], encoded.orders[s], position)
        return x
