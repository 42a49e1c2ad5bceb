"""Point Transformer V3 for deployment: folded weights, padded arrays, four kernels for most blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pointcept.engines.deploy.folding import Affine, Target, norm_scale
from pointcept.models.point_transformer_v3 import PointTransformerV3
from pointcept.models.point_transformer_v3.layers import Block, SerializedPooling, SerializedUnpooling
from pointcept.ops import padded
from pointcept.structures.octree_plan import PaddedLevel, neighbour_maps
from pointcept.utils.errors import ConfigError


class _Block:
    """x += norm(conv(x)); x += attention(norm(x)); x += MLP(norm(x)), with four to seven kernels."""

    def __init__(self, block: Block, orders: list[int], target: Target) -> None:
        if not block.pre_norm or block.attn.rpe is not None:
            raise ConfigError("the inference engine supports PT-v3m1 with pre_norm=True and enable_rpe=False only")
        layers: Any = block  # a sequence of modules does not tell their types
        conv, linear, norm = layers.cpe
        (norm1,), (norm2,), (mlp,) = layers.norm1, layers.norm2, layers.mlp
        self.dtype = target.dtype
        self.order = orders[block.order_index % len(orders)]
        self.heads, self.scale, self.patch_size = block.attn.heads, block.attn.scale, block.attn.patch_size
        # Nothing stands between the convolution and the linear layer, so they are one convolution.
        self.position = Affine.of_convolution(conv).then_linear(linear).finish(target)
        gamma, beta = (t.detach().float().to(target.device) for t in (norm.weight, norm.bias))
        self.norm = gamma, beta, norm.eps
        self.qkv = Affine.of_linear(block.attn.qkv).after_layer_norm(norm1).finish(target)
        self.projection = Affine.of_linear(block.attn.proj).finish(target)
        self.expansion = Affine.of_linear(mlp.fc1).after_layer_norm(norm2).finish(target)
        self.reduction = Affine.of_linear(mlp.fc2).finish(target)
        self.eps = norm1.eps, norm2.eps

    def __call__(self, x: Tensor, level: PaddedLevel, cells: Tensor, position: Tensor) -> Tensor:
        """x (N, C), ``cells`` the neighbours (27, N), ``position`` (N, C) what the convolution reads."""
        count, octree = level.count, level.octree
        encoding = padded.gathered_linear(position, cells, *self.position, count, torch.float32)
        x = padded.add_norm(x, encoding, *self.norm, count)
        rows, places = octree.permutation[self.order], octree.inverse[self.order]
        qkv = padded.linear(x, *self.qkv, count, self.dtype, rows=rows, norm_eps=self.eps[0])
        attended = padded.window_attention(qkv, level.ends, self.heads, self.scale, self.patch_size)
        if x.shape[1] <= padded.fused_channels(self.dtype):
            parts = self.projection, self.expansion, self.reduction
            return padded.block_tail(x, attended, places, *parts, self.eps[1], count)
        x = padded.linear(attended, *self.projection, count, x.dtype, rows=places, residual=x)
        hidden = padded.linear(x, *self.expansion, count, self.dtype, norm_eps=self.eps[1], activation="gelu")
        return padded.linear(hidden, *self.reduction, count, x.dtype, residual=x)


class _Pooling:
    """Linear layer, maximum over the children, batch norm, GELU."""

    def __init__(self, pooling: SerializedPooling, target: Target) -> None:
        self.dtype = target.dtype
        self.proj = Affine.of_linear(pooling.proj).finish(target)
        # A negative scale does not commute with the maximum, so the batch norm stays behind it.
        norm: Any = pooling.norm[0]
        self.scale, self.shift = (t.float().to(target.device) for t in norm_scale(norm))

    def __call__(self, x: Tensor, fine: PaddedLevel, coarse: PaddedLevel) -> Tensor:
        """x (N, in) on ``fine`` -> (M, out) on ``coarse``."""
        y = padded.linear(x, *self.proj, fine.count, self.dtype)
        octree = coarse.octree
        return padded.pool_max(
            y, octree.parent, octree.begin, self.scale, self.shift, fine.count, coarse.count, x.dtype
        )


class _Unpooling:
    """Both projections with their batch norms folded, and the sum."""

    def __init__(self, unpooling: SerializedUnpooling, target: Target) -> None:
        self.dtype = target.dtype
        layers: Any = unpooling
        self.below, self.skip = (
            Affine.of_linear(linear).then_norm(norm).finish(target)
            for linear, norm, _ in (layers.proj, layers.proj_skip)
        )

    def __call__(self, x: Tensor, skip: Tensor, fine: PaddedLevel, coarse: PaddedLevel) -> tuple[Tensor, Tensor]:
        """x (M, in) on ``coarse``, skip (N, ...) on ``fine`` -> the sum (N, out), and the projected skip features."""
        below = padded.linear(x, *self.below, coarse.count, self.dtype, activation="gelu")
        skip = padded.linear(skip, *self.skip, fine.count, self.dtype, activation="gelu")
        return padded.gather_add(skip, below, coarse.octree.parent, fine.count, x.dtype), skip


class DeployedPTv3:
    """The network of a :class:`PointTransformerV3` and a linear head.

    Args:
        backbone: with its weights, in evaluation mode.
        head: features -> class scores.
        target: type of the products (sums, norms and the residual stream are float32) and device.

    Raises:
        ConfigError: an option of the backbone that the engine does not support.
    """

    def __init__(self, backbone: PointTransformerV3, head: nn.Linear, target: Target) -> None:
        self.dtype = target.dtype
        self.orders = ("z", *(order for order in dict.fromkeys(backbone.orders) if order != "z"))
        self.strides = backbone.strides
        self.in_channels = backbone.in_channels
        self.num_classes = head.out_features
        stem: Any = backbone.embedding.stem
        conv, norm, _ = stem
        self.stem = Affine.of_convolution(conv).then_norm(norm).finish(target)
        places = [self.orders.index(order) for order in backbone.orders]
        encoder = [backbone.enc.get_submodule(f"enc{s}") for s in range(len(self.strides) + 1)]
        decoder = [backbone.dec.get_submodule(f"dec{s}") for s in range(len(self.strides))]

        def blocks(stage: nn.Module) -> list[_Block]:
            return [_Block(block, places, target) for block in stage.blocks()]  # type: ignore[operator]

        self.encoder = [blocks(stage) for stage in encoder]
        self.decoder = [blocks(stage) for stage in decoder]
        self.poolings = [_Pooling(stage.get_submodule("down"), target) for stage in encoder[1:]]  # type: ignore[arg-type]
        self.unpoolings = [_Unpooling(stage.get_submodule("up"), target) for stage in decoder]  # type: ignore[arg-type]
        self.head = Affine.of_linear(head).finish(target)

    def __call__(self, feat: Tensor, position: Tensor, levels: list[PaddedLevel]) -> Tensor:
        """feat (capacity, C) in Morton order -> logits (capacity, K) float32, row j of them for the input row j.

        ``position`` (capacity,) says where each input row stands in Morton order.
        """
        finest = levels[0]
        cells = neighbour_maps(levels)
        around = finest.neighbours(5, levels[1], cells[1]) if len(levels) > 1 else finest.neighbours(5)
        x = padded.gathered_linear(feat, around, *self.stem, finest.count, torch.float32, activation="gelu")
        skips = []
        for s, (level, blocks) in enumerate(zip(levels, self.encoder, strict=True)):
            if s:
                x = self.poolings[s - 1](x, levels[s - 1], level)
            for block in blocks:
                x = block(x, level, cells[s], x)
            skips.append(x)
        for s in reversed(range(len(self.decoder))):
            x, position_feat = self.unpoolings[s](x, skips[s], levels[s], levels[s + 1])
            for i, block in enumerate(self.decoder[s]):
                x = block(x, levels[s], cells[s], x if i else position_feat)
        return padded.linear(x, *self.head, finest.count, torch.float32, rows=position)
