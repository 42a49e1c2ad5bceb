"""Blocks of Point Transformer V3: conditional position encoding, patch attention, pooling, unpooling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pointcept.models.modules import BatchNorm, DropPath, Linear, SubmanifoldConv, activation_name, norm_act
from pointcept.models.point_transformer_v3.recompute import Recipe, Recomputation
from pointcept.ops import api as ops
from pointcept.structures import Pooling, VoxelGrid
from pointcept.utils.checks import check_choice, check_number

RECOMPUTE = ("mlp", "linear", "block")
CPE_INPUTS = ("residual", "mlp_branch")


@dataclass
class BlockOptions:
    """What all blocks of a network have in common; their meaning is documented at the backbone.

    Raises:
        ConfigError: a value is out of its range, ``recompute`` is neither None nor in ``RECOMPUTE``, or ``cpe_input``
            is not in ``CPE_INPUTS``.
    """

    mlp_ratio: float
    qkv_bias: bool
    qk_scale: float | None
    attn_drop: float
    proj_drop: float
    pre_norm: bool
    enable_rpe: bool
    upcast_attention: bool
    recompute: str | None
    cpe_input: str

    def __post_init__(self) -> None:
        check_number("mlp_ratio", self.mlp_ratio, 0, open_low=True)
        check_number("attn_drop", self.attn_drop, 0, 1, open_high=True)
        check_number("proj_drop", self.proj_drop, 0, 1, open_high=True)
        if self.qk_scale is not None:
            check_number("qk_scale", self.qk_scale, 0, open_low=True)
        if self.recompute is not None:
            check_choice("recompute", self.recompute, RECOMPUTE)
        check_choice("cpe_input", self.cpe_input, CPE_INPUTS)


class RelativePositionBias(nn.Module):
    """A learned bias per head for the difference of voxel coordinates along each axis, clamped to a bound."""

    def __init__(self, patch_size: int, heads: int) -> None:
        super().__init__()
        self.bound = int((4 * patch_size) ** (1 / 3) * 2)
        self.rpe_table = nn.Parameter(torch.zeros(3 * (2 * self.bound + 1), heads))
        nn.init.trunc_normal_(self.rpe_table, std=0.02)

    def forward(self, grid_coord: Tensor) -> Tensor:
        """grid_coord (P, K, 3) of the points of each patch -> (P, H, K, K)."""
        difference = (grid_coord[:, :, None] - grid_coord[:, None]).clamp(-self.bound, self.bound) + self.bound
        row = difference + torch.arange(3, device=difference.device) * (2 * self.bound + 1)
        return self.rpe_table[row].sum(3).permute(0, 3, 1, 2)


class PatchAttention(nn.Module):
    """Multi-head attention inside patches along one serialization order."""

    def __init__(self, channels: int, heads: int, patch_size: int, options: BlockOptions) -> None:
        super().__init__()
        self.heads, self.patch_size = heads, patch_size
        self.scale = (channels // heads) ** -0.5 if options.qk_scale is None else options.qk_scale
        self.attn_drop, self.upcast = options.attn_drop, options.upcast_attention
        self.qkv = Linear(channels, 3 * channels, bias=options.qkv_bias)
        self.proj = Linear(channels, channels)
        self.proj_drop = nn.Dropout(options.proj_drop)
        self.rpe = RelativePositionBias(patch_size, heads) if options.enable_rpe else None

    def forward(self, x: Tensor, grid: VoxelGrid, order: str, inner: list[Tensor] | None = None) -> Tensor:
        """x (N, C) on ``grid`` -> (N, C).

        Args:
            x: features.
            grid: the voxels.
            order: patches are made along it.
            inner: gets two tensors, the queries, keys and values (N, 3·C) and what attention makes of them (N, C).
        """
        qkv = self.qkv(x)
        attended = self._attend(qkv, grid, order)
        if inner is not None:
            inner += qkv, attended
        return self.proj_drop(self.proj(attended))

    def _attend(self, qkv: Tensor, grid: VoxelGrid, order: str) -> Tensor:
        plan = grid.patches(order, self.patch_size)
        bias = self._bias(grid, plan, qkv.dtype) if self.rpe is not None else (None, None)
        dropout = self.attn_drop if self.training else 0.0
        if self.upcast:
            full, short = (b if b is None else b.float() for b in bias)
            with torch.autocast(qkv.device.type, enabled=False):
                out = ops.patch_attention(qkv.float(), plan, self.heads, self.scale, dropout, (full, short))
            return out.to(qkv.dtype)
        return ops.patch_attention(qkv, plan, self.heads, self.scale, dropout, bias)

    def _bias(self, grid: VoxelGrid, plan: ops.PatchPlan, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        assert self.rpe is not None
        (patches, size), (short, length) = plan.full, plan.short
        coord = grid.grid_coord[plan.rows]
        full = self.rpe(coord[: patches * size].view(patches, size, 3)).to(dtype) if patches else None
        rest = self.rpe(coord[patches * size :].view(short, length, 3)).to(dtype) if short else None
        return full, rest


class MLP(nn.Module):
    """Linear, GELU, linear; ``recompute`` repeats the first product in the backward pass instead of keeping it."""

    def __init__(self, channels: int, ratio: float, drop: float, recompute: bool = False) -> None:
        super().__init__()
        self.fc1 = Linear(channels, int(channels * ratio))
        self.act = nn.GELU()
        self.fc2 = Linear(int(channels * ratio), channels)
        self.drop = nn.Dropout(drop)
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C) -> (N, C)."""
        if self.drop.p > 0.0 and self.training:
            return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        fc1, fc2 = self.fc1, self.fc2
        return ops.mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, self.recompute)


class Block(nn.Module):
    """x += CPE(x); x += attention(norm(x)); x += MLP(norm(x)).

    Every sum is computed together with the norm that follows it, see :func:`pointcept.ops.api.add_layer_norm`.

    Attributes:
        feeds_branch: the position encoding of the next block reads the output of MLP and drop path instead of x. It
            never does without ``pre_norm``, where the norm behind the sum gives what the next block reads.
    """

    def __init__(
        self, channels: int, heads: int, patch_size: int, drop_path: float, order_index: int, options: BlockOptions
    ) -> None:
        super().__init__()
        self.order_index, self.pre_norm = order_index, options.pre_norm
        self.recompute = options.recompute
        self.feeds_branch = options.cpe_input == "mlp_branch" and options.pre_norm
        self.cpe = nn.Sequential(
            SubmanifoldConv(channels, channels, 3, bias=True), Linear(channels, channels), nn.LayerNorm(channels)
        )
        self.norm1 = nn.Sequential(nn.LayerNorm(channels))
        self.attn = PatchAttention(channels, heads, patch_size, options)
        self.norm2 = nn.Sequential(nn.LayerNorm(channels))
        self.mlp = nn.Sequential(
            MLP(channels, options.mlp_ratio, options.proj_drop, options.recompute in ("mlp", "linear"))
        )
        self.drop_path = nn.Sequential(DropPath(drop_path))

    def forward(
        self, x: Tensor, grid: VoxelGrid, orders: list[str], position: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (N, C) on ``grid`` -> (N, C), and what the position encoding of the stage's next block reads, (N, C).

        Args:
            x: features.
            grid: the voxels.
            orders: the block attends along one of these.
            position: (N, C) features that the position encoding reads; ``x`` by default.
        """
        if self.recompute == "block" and torch.is_grad_enabled():
            return checkpoint(self._forward, x, grid, orders, position, use_reentrant=False)
        return self._forward(x, grid, orders, position)

    def _forward(self, x: Tensor, grid: VoxelGrid, orders: list[str], position: Tensor | None) -> tuple[Tensor, Tensor]:
        order, position = orders[self.order_index % len(orders)], x if position is None else position
        if not self.pre_norm:
            conv, linear, norm = self.cpe
            x = x + norm(linear(conv(position, grid)))
            x = self.norm1(x + self.drop_path(self.attn(x, grid, order)))
            x = self.norm2(x + self.drop_path(self.mlp(x)))
            return x, x
        drop_path = self.drop_path[0]
        assert isinstance(drop_path, DropPath)
        with Recomputation(x.device.type, self.recompute == "linear" and torch.is_grad_enabled()) as saved:
            x, rows, again = self._attention(x, grid, order, position, drop_path, saved)
            branch = self.mlp(rows)
            scale = drop_path.scale(branch)
            if self.feeds_branch:
                following = branch if scale is None else branch * scale
                out = ops.add_scaled(x, following)
            else:
                following = out = ops.add_scaled(x, branch, scale)
            if again is not None:
                saved.forget([x, rows], again)
        return out, following

    def _attention(
        self, x: Tensor, grid: VoxelGrid, order: str, position: Tensor, drop_path: DropPath, saved: Recomputation
    ) -> tuple[Tensor, Tensor, Recipe | None]:
        """What comes before the MLP: the stream, its norm, and how to have both again."""
        (conv, linear, norm), norm1, norm2, attn = self.cpe, self.norm1[0], self.norm2[0], self.attn
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.LayerNorm)
        assert isinstance(norm1, nn.LayerNorm)
        assert isinstance(norm2, nn.LayerNorm)
        around = conv(position, grid)
        branch = linear(around)
        x, rows = ops.norm_add_norm(x, branch, norm.weight, norm.bias, norm1.weight, norm1.bias, norm.eps)
        inner: list[Tensor] = []
        projected = attn(rows, grid, order, inner=inner)
        qkv, attended = inner
        scale = drop_path.scale(projected)
        y, normal = ops.add_layer_norm(x, projected, norm2.weight, norm2.bias, norm2.eps, scale)
        if not saved.enabled:
            return y, normal, None
        # Recipes hold the weights of now: while a graph is captured, the modules have others in the backward pass.
        saved.forget([branch], _linear(around, linear))
        saved.forget([rows, qkv], _norm_linear(x, norm1, attn.qkv, rows.dtype))
        random = attn.proj_drop.p > 0.0 and self.training
        return y, normal, None if random else _linear_norm(x, attended, scale, attn.proj, norm2)


def _detached(linear: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer with its weights of this moment, without gradients."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    return lambda x: ops.linear(x, weight, bias)


def _linear(x: Tensor, linear: nn.Linear) -> Recipe:
    """What a linear layer makes of ``x``."""
    x, project = x.detach(), _detached(linear)
    return lambda: [project(x)]


def _norm_linear(x: Tensor, norm: nn.LayerNorm, linear: nn.Linear, dtype: torch.dtype) -> Recipe:
    """The norm of ``x`` in ``dtype``, and what a linear layer makes of it."""
    x, weight, bias, eps, project = x.detach(), norm.weight.detach(), norm.bias.detach(), norm.eps, _detached(linear)

    def again() -> list[Tensor]:
        rows = ops.layer_norm(x, weight, bias, eps, dtype)
        return [rows, project(rows)]

    return again


def _linear_norm(x: Tensor, branch: Tensor, scale: Tensor | None, linear: nn.Linear, norm: nn.LayerNorm) -> Recipe:
    """``x`` plus a linear layer of ``branch``, and the norm of the sum."""
    x, branch, weight, bias, eps = x.detach(), branch.detach(), norm.weight.detach(), norm.bias.detach(), norm.eps
    project = _detached(linear)
    return lambda: ops.add_layer_norm(x, project(branch), weight, bias, eps, scale)


class SerializedPooling(nn.Module):
    """Largest projected feature of the voxels that share a coarse voxel, then batch norm and GELU."""

    def __init__(self, in_channels: int, out_channels: int, bn_momentum: float) -> None:
        super().__init__()
        self.proj = Linear(in_channels, out_channels)
        self.norm = nn.Sequential(BatchNorm(out_channels, eps=1e-3, momentum=bn_momentum))
        self.act = nn.Sequential(nn.GELU())

    def forward(self, x: Tensor, pooling: Pooling) -> Tensor:
        """x (N, in) -> (M, out) on the grid that ``pooling`` leads to."""
        x = ops.segment_max(self.proj(x), pooling.permutation, pooling.lengths)
        return norm_act(self.norm[0], x, activation_name(self.act[0]), pooling.coarse_real)


class SerializedUnpooling(nn.Module):
    """Project both sides, and add to every fine voxel the features of its coarse voxel.

    The position encoding of the block that follows reads the projected skip features alone, not the
    sum: Pointcept's implementation keeps them in its sparse tensor, and published weights expect it.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, bn_momentum: float) -> None:
        super().__init__()
        self.proj = self._projection(in_channels, out_channels, bn_momentum)
        self.proj_skip = self._projection(skip_channels, out_channels, bn_momentum)

    @staticmethod
    def _projection(in_channels: int, out_channels: int, bn_momentum: float) -> nn.Sequential:
        norm = BatchNorm(out_channels, eps=1e-3, momentum=bn_momentum)
        return nn.Sequential(Linear(in_channels, out_channels), norm, nn.GELU())

    def forward(self, x: Tensor, skip: Tensor, pooling: Pooling) -> tuple[Tensor, Tensor]:
        """x (M, in) and skip (N, skip) -> the sum (N, out), and the projected skip features (N, out)."""
        linear, norm, act = self.proj
        x = norm_act(norm, linear(x), activation_name(act), pooling.coarse_real)
        linear, norm, act = self.proj_skip
        skip = norm_act(norm, linear(skip), activation_name(act), pooling.fine_real)
        return skip + ops.expand(x, pooling.cluster, pooling.permutation, pooling.lengths), skip


class Embedding(nn.Module):
    """Submanifold convolution with kernel 5, batch norm, GELU."""

    def __init__(self, in_channels: int, channels: int, bn_momentum: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv=SubmanifoldConv(in_channels, channels, 5, bias=False),
                norm=BatchNorm(channels, eps=1e-3, momentum=bn_momentum),
                act=nn.GELU(),
            )
        )

    def forward(self, x: Tensor, grid: VoxelGrid) -> Tensor:
        """x (N, in) -> (N, C)."""
        conv, norm, act = self.stem
        return norm_act(norm, conv(x, grid), activation_name(act), grid.real)
