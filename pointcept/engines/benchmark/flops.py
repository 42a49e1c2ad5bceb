"""Floating-point operations of a forward pass, whatever the backend.

Counted are products, at two operations for each multiplication and addition: dense ones as
:class:`torch.utils.flop_counter.FlopCounterMode` sees them; a sparse convolution by its hits, that is for
each output voxel the kernel cells in which an input voxel lies; attention by the pairs of slots of each
patch. Cells without a voxel and the padding of short patches cost time in some backends, but are no work.
Norms, activations, sorting and neighbour search are not counted. The pass runs on the backend ``torch``, whose
products the counter can see; the kernels of the others it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pointcept.engines.inference import Precision, forward
from pointcept.models.modules import InverseConv, StridedConv, SubmanifoldConv
from pointcept.models.point_transformer_v3.layers import PatchAttention
from pointcept.ops import backend
from pointcept.structures import Pooling, VoxelGrid


def submanifold_flops(layer: SubmanifoldConv, x: Tensor, grid: VoxelGrid) -> int:
    """Of a submanifold convolution: 2 · hits · C_in · C_out."""
    if layer.kernel_size == 1:
        hits = len(x)
    else:
        distinct = grid if grid.duplicates is None else grid.duplicates.grid
        index = distinct.neighbours(layer.kernel_size)
        # a copy of a voxel shares the hits of its neighbours, but sees itself
        hits = int((index < len(distinct)).sum()) + len(grid) - len(distinct)
    return 2 * hits * layer.in_channels * layer.out_channels


def strided_flops(layer: StridedConv | InverseConv, _x: Tensor, fine: VoxelGrid, _pooling: Pooling) -> int:
    """Of a convolution with stride 2, or its inverse: every fine voxel is in one cell."""
    return 2 * len(fine) * layer.in_channels * layer.out_channels


def attention_flops(layer: PatchAttention, x: Tensor, grid: VoxelGrid, order: str) -> int:
    """Of patch attention: its two projections, the scores and the weighted sums."""
    rows, channels = x.shape
    plan = grid.patches(order, layer.patch_size)
    (patches, size), (short, length) = plan.full, plan.short
    if plan.short_mask is None:
        short_pairs = short * length**2
    else:
        short_pairs = int(plan.short_mask.sum(dim=-1).square().sum())
    return 8 * rows * channels**2 + 4 * (patches * size**2 + short_pairs) * channels


FORMULAS: dict[type[nn.Module], Callable[..., int]] = {
    SubmanifoldConv: submanifold_flops,
    StridedConv: strided_flops,
    InverseConv: strided_flops,
    PatchAttention: attention_flops,
}


def count_flops(model: nn.Module, batch: Mapping[str, Any], precision: Precision) -> int:
    """FLOPs of one forward pass in evaluation; the model keeps its mode.

    Args:
        model: a segmentor.
        batch: on the device.
        precision: of the pass; it does not change the number.
    """
    with counted(model) as so_far:
        forward(model, {key: value for key, value in batch.items() if key != "segment"}, precision)
        return so_far()


@contextmanager
def counted(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Count what ``model`` does inside ``with``, in evaluation and on the backend ``torch``.

    Yields:
        A function that says how many FLOPs there were so far.
    """
    counter, known = FlopCounterMode(display=False), _ByFormula()
    handles = [
        handle
        for module in model.modules()
        if type(module) in FORMULAS
        for handle in (
            module.register_forward_pre_hook(lambda *_: known.enter(counter.get_total_flops())),
            module.register_forward_hook(
                lambda layer, args, _: known.leave(counter.get_total_flops(), FORMULAS[type(layer)](layer, *args))
            ),
        )
    ]
    training = model.training
    try:
        model.eval()
        with backend.override("torch", "the count of FLOPs"), counter:
            yield lambda: counter.get_total_flops() + known.correction
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


class _ByFormula:
    """Replaces what the counter saw inside the layers that have a formula."""

    def __init__(self) -> None:
        self.correction = 0
        self._before = 0

    def enter(self, seen: int) -> None:
        self._before = seen

    def leave(self, seen: int, flops: int) -> None:
        self.correction += flops - (seen - self._before)


def parameter_count(model: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in model.parameters())
