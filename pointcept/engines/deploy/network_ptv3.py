"""Point Transformer V3 for deployment: folded weights, padded arrays, five kernels for most blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pointcept.engines.deploy.folding import Affine, Target, norm_scale, overflown
from pointcept.models.point_transformer_v3 import PointTransformerV3
from pointcept.models.point_transformer_v3.layers import Block, SerializedPooling, SerializedUnpooling
from pointcept.ops import padded
from pointcept.structures.octree_plan import PaddedLevel, neighbour_maps
from pointcept.utils.errors import ConfigError

_ORDERED_CHANNELS = 256  # from which on a convolution saves more by an order of its rows than the sort takes


class _Neighbours(NamedTuple):
    """Of the voxels of a level: ``cells`` (27, N), the map of kernel size 3, and ``order`` (N,) of its rows."""

    cells: Tensor
    order: Tensor | None


class _Features(NamedTuple):
    """The residual stream (N, C) in float32, and in the type of products the rows that the next of them reads.

    These are the same rows; before a block with ``cpe_input="mlp_branch"`` they are the MLP's output alone.
    """

    stream: Tensor
    rows: Tensor

    @classmethod
    def room_for_rows(cls, shape: Sequence[int], target: Target, apart: bool = False) -> Tensor | None:
        """Where a kernel writes the rows; None in float32, where they are the stream itself unless ``apart``."""
        if target.dtype == torch.float32 and not apart:
            return None
        return torch.empty(*shape, dtype=target.dtype, device=target.device)

    @classmethod
    def of(cls, stream: Tensor, rows: Tensor | None) -> _Features:
        """``rows`` as :meth:`room_for_rows` gave them."""
        return cls(stream, stream if rows is None else rows)


class _Block:
    """x += norm(conv(x)); x += attention(norm(x)); x += MLP(norm(x)), with five to eight kernels.

    ``last`` of its stage: no block of this stage reads the rows, but what is behind it, which reads the sum.
    """

    def __init__(self, block: Block, orders: list[int], target: Target, last: bool) -> None:
        if not block.pre_norm or block.attn.rpe is not None:
            raise ConfigError("the inference engine supports PT-v3m1 with pre_norm=True and enable_rpe=False only")
        layers: Any = block  # a sequence of modules does not tell their types
        conv, linear, norm = layers.cpe
        (norm1,), (norm2,), (mlp,) = layers.norm1, layers.norm2, layers.mlp
        self.target, self.dtype = target, target.dtype
        self.feeds_branch = block.feeds_branch and not last
        self.order = orders[block.order_index % len(orders)]
        self.channels = linear.out_features
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

    def __call__(self, x: Tensor, level: PaddedLevel, around: _Neighbours, position: Tensor) -> _Features:
        """x (N, C) the residual stream on ``level``, ``position`` (N, C) what the convolution reads."""
        count, places = level.count, level.octree.inverse[self.order]
        encoding = padded.gathered_linear(position, around.cells, *self.position, count, self.dtype, order=around.order)
        x, normal = padded.residual_norm(x, encoding, count, self.eps[0], self.dtype, inner=self.norm, places=places)
        qkv = padded.linear(normal, *self.qkv, count, self.dtype)
        attended = padded.window_attention(qkv, level.ends, self.heads, self.scale, self.patch_size)
        rows = _Features.room_for_rows(x.shape, self.target, apart=self.feeds_branch)
        if x.shape[1] <= padded.fused_channels(self.dtype):
            parts = self.projection, self.expansion, self.reduction
            x = padded.block_tail(x, attended, places, *parts, self.eps[1], count, rows, self.feeds_branch)
            return _Features.of(x, rows)
        branch = padded.linear(attended, *self.projection, count, self.dtype)
        x, normal = padded.residual_norm(x, branch, count, self.eps[1], self.dtype, rows=places)
        hidden = padded.linear(normal, *self.expansion, count, self.dtype, activation="gelu")
        x = padded.linear(hidden, *self.reduction, count, x.dtype, residual=x, copy=rows, copy_branch=self.feeds_branch)
        return _Features.of(x, rows)


class _Pooling:
    """Linear layer, maximum over the children, batch norm, GELU."""

    def __init__(self, pooling: SerializedPooling, target: Target) -> None:
        self.target = target
        self.proj = Affine.of_linear(pooling.proj).finish(target)
        # A negative scale does not commute with the maximum, so the batch norm stays behind it.
        norm: Any = pooling.norm[0]
        self.scale, self.shift = (t.float().to(target.device) for t in norm_scale(norm))

    def __call__(self, x: Tensor, fine: PaddedLevel, coarse: PaddedLevel) -> _Features:
        """x (N, in) on ``fine`` -> (M, out) on ``coarse``."""
        y = padded.linear(x, *self.proj, fine.count, self.target.dtype)
        octree, counts = coarse.octree, (fine.count, coarse.count)
        rows = _Features.room_for_rows((len(octree.begin), y.shape[1]), self.target)
        maps = octree.parent, octree.begin, self.scale, self.shift
        return _Features.of(padded.pool_max(y, *maps, *counts, torch.float32, rows), rows)


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
        return padded.gather_add(skip, below, coarse.octree.parent, fine.count, torch.float32), skip


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
        self.target = target
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
            found: list[Block] = stage.blocks()  # type: ignore[operator]
            return [_Block(block, places, target, block is found[-1]) for block in found]

        self.encoder = [blocks(stage) for stage in encoder]
        self.decoder = [blocks(stage) for stage in decoder]
        self._blocks = [[*down, *up] for down, up in zip(self.encoder, [*self.decoder, []], strict=True)]
        self.poolings = [_Pooling(stage.get_submodule("down"), target) for stage in encoder[1:]]  # type: ignore[arg-type]
        self.unpoolings = [_Unpooling(stage.get_submodule("up"), target) for stage in decoder]  # type: ignore[arg-type]
        self.head = Affine.of_linear(head).finish(target)

    def not_finite(self) -> list[str]:
        """Which layers have folded weights that the type of the products cannot hold."""
        return overflown(self._folded())

    def _folded(self) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
        yield "backbone.embedding.stem", self.stem
        for side, stages in (("enc", self.encoder), ("dec", self.decoder)):
            for s, blocks in enumerate(stages):
                for i, block in enumerate(blocks):
                    layers = {"cpe": block.position, "attn.qkv": block.qkv, "attn.proj": block.projection}
                    layers |= {"mlp.fc1": block.expansion, "mlp.fc2": block.reduction}
                    for name, layer in layers.items():
                        yield f"backbone.{side}.{side}{s}.block{i}.{name}", layer
        for s, down in enumerate(self.poolings, start=1):
            yield f"backbone.enc.enc{s}.down", (*down.proj, down.scale, down.shift)
        for s, up in enumerate(self.unpoolings):
            yield f"backbone.dec.dec{s}.up", (*up.below, *up.skip)
        yield "seg_head", self.head

    def __call__(self, feat: Tensor, position: Tensor, levels: list[PaddedLevel]) -> Tensor:
        """feat (capacity, C) in Morton order -> logits (capacity, K) float32, row j of them for the input row j.

        ``position`` (capacity,) says where each input row stands in Morton order.
        """
        finest, target = levels[0], self.target
        around = self._neighbours(levels)
        wide = finest.neighbours(5, levels[1], around[1].cells) if len(levels) > 1 else finest.neighbours(5)
        rows = _Features.room_for_rows((len(feat), self.stem[0].shape[1]), target)
        stem = padded.gathered_linear(feat, wide, *self.stem, finest.count, torch.float32, activation="gelu", copy=rows)
        x, skips = _Features.of(stem, rows), []
        for s, (level, blocks) in enumerate(zip(levels, self.encoder, strict=True)):
            if s:
                x = self.poolings[s - 1](x.rows, levels[s - 1], level)
            for block in blocks:
                x = block(x.stream, level, around[s], x.rows)
            skips.append(x.rows)
        for s in reversed(range(len(self.decoder))):
            total, skip = self.unpoolings[s](x.rows, skips[s], levels[s], levels[s + 1])
            x = _Features(total, skip)  # the position encoding of the first block reads the skip features alone
            for block in self.decoder[s]:
                x = block(x.stream, levels[s], around[s], x.rows)
        return padded.linear(x.rows, *self.head, finest.count, torch.float32, rows=position)

    def _neighbours(self, levels: list[PaddedLevel]) -> list[_Neighbours]:
        """The maps of all levels, with orders where wide convolutions are worth the sort."""
        cells = neighbour_maps(levels)
        orders: list[Tensor | None] = [None] * len(levels)
        wide = [s for s, blocks in enumerate(self._blocks) if any(b.channels >= _ORDERED_CHANNELS for b in blocks)]
        if wide:
            found = padded.row_orders([cells[s] for s in wide], [levels[s].count for s in wide])
            for s, order in zip(wide, found, strict=True):
                orders[s] = order
        return [_Neighbours(*pair) for pair in zip(cells, orders, strict=True)]
