"""The networks that can be exported, described as a :class:`~pointcept.export.graph.Graph`."""

from __future__ import annotations

from typing import Any

from torch import nn

from pointcept.engines.deploy.folding import Affine, norm_scale
from pointcept.export.graph import Graph, GraphBuilder
from pointcept.models import PointTransformerV3, SpUNet
from pointcept.models.modules import SubmanifoldConv
from pointcept.models.point_transformer_v3.layers import Block, SerializedPooling, SerializedUnpooling
from pointcept.models.segmentor import DefaultSegmentor, DefaultSegmentorV2
from pointcept.models.sparse_unet.backbone import BasicBlock
from pointcept.utils.errors import ConfigError

SUPPORTED = "DefaultSegmentorV2 or DefaultSegmentor with the backbone PT-v3m1 (enable_rpe=False) or SpUNet-v1m1"


def describe(model: nn.Module) -> Graph:
    """The graph of a segmentor, in evaluation.

    Raises:
        ConfigError: a network that cannot be exported.
    """
    backbone: Any = getattr(model, "backbone", None)
    kinds = DefaultSegmentor, DefaultSegmentorV2
    if type(model) not in kinds or type(backbone) not in (PointTransformerV3, SpUNet):
        got = f" with {type(backbone).__name__}" if backbone is not None else ""
        raise ConfigError(f"export takes {SUPPORTED}; got {type(model).__name__}{got}")
    assert isinstance(model, (DefaultSegmentor, DefaultSegmentorV2))
    graph = Graph(backbone.in_channels, model.num_classes, backbone.orders, backbone.strides)
    build = GraphBuilder(graph)
    x = _ptv3(build, backbone) if isinstance(backbone, PointTransformerV3) else _spunet(build, backbone)
    head = getattr(model, "seg_head", None)
    graph.output = x if head is None else build.linear(x, Affine.of_linear(head))
    return graph


def _ptv3(build: GraphBuilder, backbone: Any) -> str:
    conv, norm, _ = backbone.embedding.stem
    stem = Affine.of_convolution(conv).then_norm(norm)
    x = build.gelu(build.convolution(build.feat, 0, conv.kernel_size, stem))
    levels, features = len(backbone.strides), []
    for level in range(levels + 1):
        stage = backbone.enc.get_submodule(f"enc{level}")
        if level:
            x = _pooling(build, stage.get_submodule("down"), x, level - 1)
        position = x
        for block in stage.blocks():
            x, position = _block(build, block, backbone.orders, x, position, level)
        features.append(x)
    for level in reversed(range(levels)):
        stage = backbone.dec.get_submodule(f"dec{level}")
        x, position = _unpooling(build, stage.get_submodule("up"), x, features[level], level)
        for block in stage.blocks():
            x, position = _block(build, block, backbone.orders, x, position, level)
    return x


def _block(
    build: GraphBuilder, block: Block, orders: tuple[str, ...], x: str, position: str, level: int
) -> tuple[str, str]:
    """The residual stream behind a block, and what the position encoding of the next one reads."""
    layers: Any = block  # a sequence of modules does not tell their types
    conv, linear, norm = layers.cpe
    (norm1,), (norm2,), (mlp,), attn = layers.norm1, layers.norm2, layers.mlp, layers.attn
    if attn.rpe is not None:
        raise ConfigError("export takes PT-v3m1 with enable_rpe=False only: its bias is a table of K² rows per patch")
    order = orders[block.order_index % len(orders)]

    def attend(rows: str) -> str:
        qkv = build.linear(rows, Affine.of_linear(attn.qkv))
        mixed = build.attention(qkv, level, order, attn.patch_size, attn.heads, attn.scale)
        return build.linear(mixed, Affine.of_linear(attn.proj))

    def expand(rows: str) -> str:
        return build.linear(build.gelu(build.linear(rows, Affine.of_linear(mlp.fc1))), Affine.of_linear(mlp.fc2))

    # Nothing stands between the convolution and the linear layer, so they are one convolution.
    around = build.convolution(position, level, conv.kernel_size, Affine.of_convolution(conv).then_linear(linear))
    x = build.add(x, build.layer_norm(around, norm))
    if not block.pre_norm:
        x = build.layer_norm(build.add(x, attend(x)), norm1)
        x = build.layer_norm(build.add(x, expand(x)), norm2)
        return x, x
    x = build.add(x, attend(build.layer_norm(x, norm1)))
    branch = expand(build.layer_norm(x, norm2))
    x = build.add(x, branch)
    return x, branch if block.feeds_branch else x


def _pooling(build: GraphBuilder, pooling: SerializedPooling, x: str, level: int) -> str:
    norm: Any = pooling.norm[0]
    x = build.pool_max(build.linear(x, Affine.of_linear(pooling.proj)), level)
    # A negative scale does not commute with the maximum, so the batch norm stays behind it.
    return build.gelu(build.scale(x, *norm_scale(norm)))


def _unpooling(build: GraphBuilder, unpooling: SerializedUnpooling, x: str, skip: str, level: int) -> tuple[str, str]:
    layers: Any = unpooling
    (linear, norm, _), (linear_skip, norm_skip, _) = layers.proj, layers.proj_skip
    x = build.gelu(build.linear(x, Affine.of_linear(linear).then_norm(norm)))
    skip = build.gelu(build.linear(skip, Affine.of_linear(linear_skip).then_norm(norm_skip)))
    # the position encoding of the first block reads the skip features alone
    return build.add(skip, build.unpool(x, level)), skip


def _spunet(build: GraphBuilder, backbone: Any) -> str:
    conv, norm, _ = backbone.conv_input
    stem = Affine.of_convolution(conv).then_norm(norm)
    features = [build.relu(build.convolution(build.feat, 0, conv.kernel_size, stem))]
    for level, (down, blocks) in enumerate(zip(backbone.down, backbone.enc, strict=True)):
        conv, norm, _ = down
        affine = Affine.of_convolution(conv).then_norm(norm)
        x = build.relu(build.strided_convolution(features[-1], level, affine))
        for block in blocks.children():
            x = _residual(build, block, x, level + 1)
        features.append(x)
    x = features[-1]
    for level in reversed(range(len(backbone.strides))):
        conv, norm, _ = backbone.up[level]
        affine = Affine.of_convolution(conv).then_norm(norm)
        x = build.concat(build.relu(build.inverse_convolution(x, level, affine)), features[level])
        for block in backbone.dec[level].children():
            x = _residual(build, block, x, level)
    return x if backbone.final is None else build.linear(x, Affine.of_convolution(backbone.final))


def _residual(build: GraphBuilder, block: BasicBlock, x: str, level: int) -> str:
    layers: Any = block

    def convolve(rows: str, conv: SubmanifoldConv, norm: nn.BatchNorm1d) -> str:
        affine = Affine.of_convolution(conv).then_norm(norm)
        return build.linear(rows, affine) if conv.kernel_size == 1 else build.convolution(rows, level, 3, affine)

    skip = x if block.proj is None else convolve(x, *layers.proj)
    x = convolve(build.relu(convolve(x, layers.conv1, layers.bn1)), layers.conv2, layers.bn2)
    return build.relu(build.add(x, skip))
