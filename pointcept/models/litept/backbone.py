"""The LitePT backbone, registered as ``LitePT-v1`` with Pointcept's arguments and weight names.

After *LitePT: Lighter Yet Stronger Point Transformer* (arXiv 2512.13689). Fine grids have convolutions, which are cheap
there; coarse ones have attention, in which rotations of queries and keys say where a voxel lies, so that it needs no
convolution for that. The decoder has no blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pointcept.models.builder import MODELS, check_has_decoder
from pointcept.models.modules import DropPath, Linear, SubmanifoldConv, check_strides
from pointcept.models.point_transformer_v3.layers import (
    MLP,
    BlockOptions,
    Embedding,
    PatchAttention,
    SerializedPooling,
    SerializedUnpooling,
)
from pointcept.ops import api as ops
from pointcept.ops.api import ORDERS
from pointcept.structures import GridPyramid, VoxelGrid
from pointcept.utils.checks import check_choice, check_integer, check_integers, check_number, refused
from pointcept.utils.errors import ConfigError


@dataclass
class Encoded:
    """Features after every encoder stage."""

    features: list[Tensor]


class RotaryAttention(PatchAttention):
    """Patch attention whose queries and keys are rotated by the positions of their voxels.

    A head's channels are three equal parts for x, y and z. In a part of D channels, channels i and i + D/2 are a point
    of the plane that is turned by position · frequency^(-2i/D), so a product of query and key depends on the difference
    of their positions (Su et al., arXiv 2104.09864).
    """

    def __init__(self, channels: int, heads: int, patch_size: int, frequency: float, options: BlockOptions) -> None:
        super().__init__(channels, heads, patch_size, options)
        self.frequency, self.part = frequency, channels // heads // 3

    def _attend(self, qkv: Tensor, grid: VoxelGrid, order: str) -> Tensor:
        return super()._attend(self._rotate(qkv, grid.grid_coord), grid, order)

    def _rotate(self, qkv: Tensor, grid_coord: Tensor) -> Tensor:
        """Queries, keys and values (N, 3·C) of voxels at (N, 3) -> the same with queries and keys rotated."""
        rows, half = len(qkv), self.part // 2
        # All in float32: half precision knows the angle of a position in the thousands to whole radians only.
        rates = self.frequency ** (-2 * torch.arange(half, device=qkv.device) / self.part)
        angle = (grid_coord[:, :, None].float() * rates).view(rows, 1, 1, 3, half)
        cos, sin = angle.cos(), angle.sin()
        turned, kept = qkv.view(rows, 3, -1).split((2, 1), 1)
        first, second = turned.float().view(rows, 2, self.heads, 3, 2, half).unbind(4)
        rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), 4)
        return torch.cat((rotated.reshape(rows, 2, -1).to(qkv.dtype), kept), 1).view(rows, -1)


class Block(nn.Module):
    """x += norm(linear(convolution(x))), or x = norm(x) without convolution; then attention and MLP, if it has them."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        drop_path: float,
        order_index: int,
        convolution: bool,
        frequency: float | None,
        options: BlockOptions,
    ) -> None:
        """``shape`` is channels, heads and patch size; ``frequency`` None stands for a block without attention."""
        super().__init__()
        channels, heads, patch_size = shape
        self.order_index = order_index
        self.has_convolution, self.has_attention = convolution, frequency is not None
        if convolution:
            conv = SubmanifoldConv(channels, channels, 3, bias=True)
            self.conv = nn.Sequential(conv, Linear(channels, channels), nn.LayerNorm(channels))
        else:
            self.norm0 = nn.Sequential(nn.LayerNorm(channels))
        if frequency is not None:
            self.norm1 = nn.Sequential(nn.LayerNorm(channels))
            self.attn = RotaryAttention(channels, heads, patch_size, frequency, options)
            self.norm2 = nn.Sequential(nn.LayerNorm(channels))
            self.mlp = nn.Sequential(MLP(channels, options.mlp_ratio, options.proj_drop))
            self.drop_path = nn.Sequential(DropPath(drop_path))

    def forward(self, x: Tensor, grid: VoxelGrid, orders: Sequence[str]) -> Tensor:
        """x (N, C) on ``grid`` -> (N, C)."""
        if self.has_convolution:
            conv, linear, norm = self.conv
            x = x + norm(linear(conv(x, grid)))
        else:
            x = self.norm0(x)
        if not self.has_attention:
            return x
        norm2, drop_path = self.norm2[0], self.drop_path[0]
        assert isinstance(norm2, nn.LayerNorm)
        assert isinstance(drop_path, DropPath)
        projected = self.attn(self.norm1(x), grid, orders[self.order_index % len(orders)])
        x, rows = ops.add_layer_norm(x, projected, norm2.weight, norm2.bias, norm2.eps, drop_path.scale(projected))
        branch = self.mlp(rows)
        return ops.add_scaled(x, branch, drop_path.scale(branch))


class Stage(nn.Module):
    """A change of resolution (``down`` or ``up``), if there is one, and the blocks ``block0``, ``block1``, ..."""

    def __init__(self, name: str, resample: nn.Module | None, blocks: Sequence[Block] = ()) -> None:
        super().__init__()
        if resample is not None:
            self.add_module(name, resample)
        for i, block in enumerate(blocks):
            self.add_module(f"block{i}", block)
        self.depth = len(blocks)

    def forward(self, x: Tensor, grid: VoxelGrid, orders: Sequence[str]) -> Tensor:
        """x (N, C) on ``grid`` through the blocks -> (N, C)."""
        for i in range(self.depth):
            x = self.get_submodule(f"block{i}")(x, grid, orders)
        return x


@MODELS.register_module("LitePT-v1")
class LitePT(nn.Module):
    """A U-Net with convolutions in its fine stages and rotary attention in its coarse ones.

    Args:
        in_channels: channels of ``feat``.
        order: serialization orders; block i of a stage attends along order i mod n.
        stride: downsampling factor between encoder stages.
        enc_depths, enc_channels, enc_num_head, enc_patch_size: per encoder stage.
        enc_conv, enc_attn: whether the blocks of a stage have convolution and attention.
        enc_rope_freq: base of the rotations of a stage.
        dec_depths: has to be 0 for every stage: the decoder has no blocks.
        dec_channels: per decoder stage, finest first.
        dec_num_head, dec_patch_size, dec_conv, dec_attn, dec_rope_freq: of blocks that the decoder does not have;
            accepted so that Pointcept's configs load.
        mlp_ratio, qkv_bias, qk_scale, attn_drop, proj_drop: of the blocks.
        drop_path: stochastic depth of the last block; it rises linearly from 0.
        pre_norm: has to be True.
        shuffle_orders: permute the orders at the start and at every pooling, in training only.
        bn_momentum: share of a batch in the running statistics of the batch norms.
        cls_mode, enc_mode: see :func:`check_has_decoder`.

    Raises:
        ConfigError: a value out of its range, stages of different number, heads whose channels are no multiple of six,
            unsupported options.
    """

    def __init__(
        self,
        in_channels: int = 4,
        order: Sequence[str] | str = ("z", "z-trans", "hilbert", "hilbert-trans"),
        stride: Sequence[int] = (2, 2, 2, 2),
        enc_depths: Sequence[int] = (2, 2, 2, 6, 2),
        enc_channels: Sequence[int] = (36, 72, 144, 252, 504),
        enc_num_head: Sequence[int] = (2, 4, 8, 14, 28),
        enc_patch_size: Sequence[int] = (1024, 1024, 1024, 1024, 1024),
        enc_conv: Sequence[bool] = (True, True, True, False, False),
        enc_attn: Sequence[bool] = (False, False, False, True, True),
        enc_rope_freq: Sequence[float] = (100.0, 100.0, 100.0, 100.0, 100.0),
        dec_depths: Sequence[int] = (0, 0, 0, 0),
        dec_channels: Sequence[int] = (72, 72, 144, 252),
        dec_num_head: Sequence[int] = (4, 4, 8, 14),
        dec_patch_size: Sequence[int] = (1024, 1024, 1024, 1024),
        dec_conv: Sequence[bool] = (False, False, False, False),
        dec_attn: Sequence[bool] = (False, False, False, False),
        dec_rope_freq: Sequence[float] = (100.0, 100.0, 100.0, 100.0),
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.3,
        shuffle_orders: bool = True,
        pre_norm: bool = True,
        bn_momentum: float = 0.01,
        cls_mode: bool | None = None,
        enc_mode: bool | None = None,
    ) -> None:
        super().__init__()
        check_has_decoder("LitePT-v1", cls_mode, enc_mode)
        check_integer("in_channels", in_channels, 1)
        check_number("drop_path", drop_path, 0, 1, open_high=True)
        check_number("bn_momentum", bn_momentum, 0, 1, open_low=True)
        if not pre_norm:
            raise ConfigError("LitePT-v1: pre_norm=False does not exist here: its norms stand before attention and MLP")
        self.orders = (order,) if isinstance(order, str) else tuple(order)
        self.strides = check_strides("stride", stride)
        self.shuffle_orders = shuffle_orders
        shapes = list(zip(enc_channels, enc_num_head, enc_patch_size, strict=False))
        self._check_orders()
        self._check_encoder(enc_depths, enc_channels, enc_num_head, enc_patch_size, enc_conv, enc_attn, enc_rope_freq)
        self._check_decoder(dec_depths, dec_channels)
        self.in_channels, self.out_channels = in_channels, dec_channels[0]
        self.stage_channels = tuple(enc_channels)
        options = BlockOptions(
            mlp_ratio, qkv_bias, qk_scale, attn_drop, proj_drop, True, False, False, None, "residual"
        )
        self.embedding = Embedding(in_channels, enc_channels[0], bn_momentum)
        self.enc, self.dec = nn.Module(), nn.Module()
        rates = iter(torch.linspace(0, drop_path, sum(enc_depths)).tolist())
        for s, (shape, depth) in enumerate(zip(shapes, enc_depths, strict=True)):
            frequency = enc_rope_freq[s] if enc_attn[s] else None
            blocks = [Block(shape, next(rates), i, enc_conv[s], frequency, options) for i in range(depth)]
            down = SerializedPooling(enc_channels[s - 1], enc_channels[s], bn_momentum) if s else None
            self.enc.add_module(f"enc{s}", Stage("down", down, blocks))
        below = [*dec_channels, enc_channels[-1]]
        for s in reversed(range(len(dec_channels))):
            up = SerializedUnpooling(below[s + 1], enc_channels[s], dec_channels[s], bn_momentum)
            self.dec.add_module(f"dec{s}", Stage("up", up))

    def _check_orders(self) -> None:
        if not self.orders:
            raise refused("order", self.orders, "one or more serialization orders")
        for name in self.orders:
            check_choice("order", name, ORDERS)

    def _check_encoder(
        self,
        depths: Sequence[int],
        channels: Sequence[int],
        heads: Sequence[int],
        patch_sizes: Sequence[int],
        convolutions: Sequence[bool],
        attentions: Sequence[bool],
        frequencies: Sequence[float],
    ) -> None:
        stages = len(self.strides) + 1
        numbers = {"enc_depths": depths, "enc_channels": channels, "enc_num_head": heads, "enc_patch_size": patch_sizes}
        others = {"enc_conv": convolutions, "enc_attn": attentions, "enc_rope_freq": frequencies}
        for name, values in {**numbers, **others}.items():
            if len(values) != stages:
                raise refused(name, values, f"{stages} values, for stride {self.strides}")
        for name, values in numbers.items():
            check_integers(name, values, low=0 if name.endswith("depths") else 1)
        for s, (convolution, attention) in enumerate(zip(convolutions, attentions, strict=True)):
            if not (convolution or attention):
                raise ConfigError(f"stage {s} has neither convolution nor attention", "enc_attn")
            if attention and channels[s] % (6 * heads[s]):
                raise ConfigError(
                    f"got {channels[s]} channels for {heads[s]} heads in stage {s}: a head that is rotated has a "
                    "multiple of 6 channels, pairs for x, y and z",
                    "enc_channels",
                )
            check_number(f"enc_rope_freq.{s}", frequencies[s], 1)

    def _check_decoder(self, depths: Sequence[int], channels: Sequence[int]) -> None:
        for name, values in (("dec_depths", depths), ("dec_channels", channels)):
            if len(values) != len(self.strides):
                raise refused(name, values, f"{len(self.strides)} values, for stride {self.strides}")
        check_integers("dec_channels", channels, low=1)
        if any(depths):
            raise refused("dec_depths", depths, "zeros: the decoder of LitePT-v1 has no blocks here")

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
        """Why it trains without CUDA graphs: they have not been tried on a GPU."""
        return "LitePT-v1 has not been tried in CUDA graphs yet"

    def draw_tables(self, tables: Sequence[str]) -> Tensor | None:
        """None: orders are shuffled in :meth:`encode`."""
        return None

    def _level_orders(self, levels: int) -> list[list[str]]:
        """The orders of every level; shuffled once per level in training where ``shuffle_orders`` is set."""
        orders, found = list(self.orders), []
        for _ in range(levels):
            if self.shuffle_orders and self.training:
                orders = [orders[i] for i in torch.randperm(len(orders)).tolist()]
            found.append(orders)
        return found

    def encode(self, feat: Tensor, pyramid: GridPyramid, watch: int | None = None) -> Encoded:
        """feat (N, in_channels) on the finest grid -> features (N_s, enc_channels[s]) after every stage.

        ``watch`` cuts the graph at that stage: its features become a leaf that asks for a gradient.
        """
        x = self.embedding(feat, pyramid.levels[0])
        features: list[Tensor] = []
        for s, (grid, orders) in enumerate(zip(pyramid.levels, self._level_orders(len(pyramid.levels)), strict=True)):
            stage = self.enc.get_submodule(f"enc{s}")
            if s:
                x = stage.get_submodule("down")(x, pyramid.poolings[s - 1])
            x = stage(x, grid, orders)
            if s == watch:
                x = x.detach().requires_grad_()
            features.append(x)
        return Encoded(features)

    def decode(self, encoded: Encoded, pyramid: GridPyramid) -> Tensor:
        """Features of all encoder stages -> (N, dec_channels[0]) on the finest grid."""
        x = encoded.features[-1]
        for s in reversed(range(len(pyramid.poolings))):
            up = self.dec.get_submodule(f"dec{s}").get_submodule("up")
            x, _ = up(x, encoded.features[s], pyramid.poolings[s])
        return x
