"""What each stage of a forward pass costs, and what it costs at least.

Stages are ``pyramid`` (serialization, coarser grids, neighbour maps, patches), ``embedding``, ``enc0`` ..., ``dec0``,
``head``, in the order in which they run. Neighbour maps and patches, which layers ask for when they first need them,
count to ``pyramid``. A stage that begins ends the one before it, so that together they are the whole pass.
"""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pointcept.engines.benchmark.flops import counted
from pointcept.engines.benchmark.kernels import split_by_range, summarise, trace_device
from pointcept.engines.benchmark.plan import Settings
from pointcept.engines.inference import Precision
from pointcept.models.modules import InverseConv, StridedConv, SubmanifoldConv
from pointcept.models.point_transformer_v3.layers import PatchAttention, SerializedPooling, SerializedUnpooling
from pointcept.models.segmentor import Segmentor
from pointcept.ops import api as ops
from pointcept.structures import GridPyramid, Pooling, VoxelGrid
from pointcept.utils import device
from pointcept.utils.errors import ConfigError

logger = logging.getLogger(__name__)

PYRAMID = "pyramid"
ELSEWHERE = "elsewhere"  # kernels that the trace assigns to no stage
PREFIX = "stage "  # of the profiler's ranges

# name of a module of a segmentor -> its stage; each is called once, and all that has products is in one of them
STAGES = (
    (r"backbone\.(?:embedding|conv_input\.0)", "embedding"),
    (r"backbone\.(?:enc\.enc|down\.|enc\.)(\d+)\.(?:down|0|block\d+)", r"enc\1"),
    (r"backbone\.(?:dec\.dec|up\.|dec\.)(\d+)\.(?:up|0|block\d+)", r"dec\1"),
    (r"seg_head|backbone\.final", "head"),
)

Switch = Callable[[str | None], None]
"""Told the name of the stage that begins, None at the end."""


@dataclass(frozen=True)
class StageCost:
    """One stage of one forward pass; None where it could not be measured.

    Attributes:
        name: of the stage.
        us: microseconds in which the device did something for it; on the CPU its wall clock, median over the calls.
        kernels: that ran for it.
        flops: see :mod:`pointcept.engines.benchmark.flops`.
        bytes: the least that it moves, see :func:`least_bytes`.
        arithmetic_us, bandwidth_us: what ``flops`` and ``bytes`` take at the peaks of the settings.
    """

    name: str
    us: float | None
    kernels: float | None
    flops: int | None
    bytes: int | None
    arithmetic_us: float | None
    bandwidth_us: float | None


def measure_stages(
    network: nn.Module, batch: Mapping[str, Tensor], precision: Precision, settings: Settings
) -> tuple[StageCost, ...]:
    """Measure every stage of a network in evaluation.

    Args:
        network: a segmentor, warmed up.
        batch: on the device.
        precision: of the forward pass.
        settings: calls, and the peaks of the floors.

    Raises:
        ConfigError: a network whose stages are unknown.
    """
    if not isinstance(network, Segmentor) or not any(stage_of(name) for name, _ in network.named_modules()):
        raise ConfigError(f"--stages knows segmentors with PT-v3m1 or SpUNet-v1m1, not {type(network).__name__}")
    batch = {key: value for key, value in batch.items() if key != "segment"}
    sizes = least_bytes(network, batch, precision)
    flops = _flops(network, batch, precision)
    if device.device_count() > 0:
        times = _device_times(network, batch, precision, settings.profiled)
    else:
        times = {name: (us, None) for name, us in _wall_times(network, batch, precision, settings.iterations).items()}
    costs = []
    for name in [*sizes, *(name for name in times if name not in sizes)]:
        us, kernels = times.get(name, (None, None))
        operations, size = flops.get(name), sizes.get(name)
        costs.append(
            StageCost(
                name=name,
                us=us,
                kernels=kernels,
                flops=operations,
                bytes=size,
                arithmetic_us=None if operations is None else operations / settings.peak_tflops / 1e6,
                bandwidth_us=None if size is None else size / settings.peak_gbs / 1e3,
            )
        )
    return tuple(costs)


def stage_of(module_name: str) -> str | None:
    """The stage that a module begins or goes on with, None for the parts of such modules and for all others."""
    for pattern, stage in STAGES:
        match = re.fullmatch(pattern, module_name)
        if match:
            return match.expand(stage)
    return None


# --- one pass ---


@torch.no_grad()
def _run(network: Segmentor, batch: Mapping[str, Tensor], precision: Precision, switch: Switch) -> GridPyramid:
    """A forward pass that tells ``switch`` where it is."""
    with precision.context(), _following(network, switch):
        switch(PYRAMID)
        pyramid = network.build_pyramid(batch)
        network.network(batch, pyramid)
        switch(None)
    return pyramid


@contextmanager
def _following(network: nn.Module, switch: Switch) -> Iterator[None]:
    """Call ``switch`` when a stage begins, and around the making of tables, inside ``with``."""
    current: list[str | None] = [None]

    def enter(stage: str) -> None:
        current[0] = stage
        switch(stage)

    def make_tables(layer: nn.Module, args: tuple[Any, ...]) -> None:
        switch(PYRAMID)
        TABLES[type(layer)](layer, *args)
        switch(current[0])

    handles = []
    for name, module in network.named_modules():
        stage = stage_of(name)
        if stage is not None:
            handles.append(module.register_forward_pre_hook(lambda *_, stage=stage: enter(stage)))
        if type(module) in TABLES:
            handles.append(module.register_forward_pre_hook(make_tables))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# --- time ---


class _Ledger:
    """Adds what a meter shows to the stage that runs."""

    def __init__(self, meter: Callable[[], float]) -> None:
        self.amounts: dict[str, float] = defaultdict(float)
        self._meter, self._stage, self._before = meter, cast("str | None", None), 0.0

    def switch(self, stage: str | None) -> None:
        now = self._meter()
        if self._stage is not None:
            self.amounts[self._stage] += now - self._before
        self._stage, self._before = stage, now


class _Ranges:
    """A range of the profiler for each stage."""

    def __init__(self) -> None:
        self._range: Any = None

    def switch(self, stage: str | None) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
        self._range = None
        if stage is not None:
            self._range = record_function(PREFIX + stage)
            self._range.__enter__()


def _wall_times(
    network: Segmentor, batch: Mapping[str, Tensor], precision: Precision, iterations: int
) -> dict[str, float]:
    """Microseconds of each stage on the CPU, medians over the calls."""
    calls = []
    for _ in range(iterations):
        ledger = _Ledger(time.perf_counter)
        _run(network, batch, precision, ledger.switch)
        calls.append(ledger.amounts)
    return {name: 1e6 * float(np.median([call[name] for call in calls])) for name in calls[0]}


def _device_times(
    network: Segmentor, batch: Mapping[str, Tensor], precision: Precision, iterations: int
) -> dict[str, tuple[float | None, float | None]]:
    """Microseconds in which the GPU worked for each stage, and its kernels; nothing where it cannot be profiled."""
    events = trace_device(lambda: _run(network, batch, precision, _Ranges().switch), iterations, host=True)
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, part in split_by_range(events or [], PREFIX).items():
        activity = summarise(part, iterations)
        if activity is not None:
            found[name or ELSEWHERE] = 1000 * activity.busy_ms, activity.kernels
    return found


# --- operations and bytes ---


def _flops(network: Segmentor, batch: Mapping[str, Tensor], precision: Precision) -> dict[str, int]:
    """FLOPs of each stage; nothing where memory does not suffice to count them."""
    try:
        with counted(network) as so_far:
            ledger = _Ledger(so_far)
            _run(network, batch, precision, ledger.switch)
    except torch.OutOfMemoryError as error:
        logger.warning("no memory to count the FLOPs of the stages with the backend torch: %s", error)
        return {}
    return {name: int(amount) for name, amount in ledger.amounts.items()}


def least_bytes(network: Segmentor, batch: Mapping[str, Tensor], precision: Precision) -> dict[str, int]:
    """The bytes that every stage has to move if each of its modules is one perfect kernel.

    A module (embedding, pooling, block, unpooling, head) reads the features that it is given, its weights and the
    tables of its layers, and writes its features: each once, features and weights in the type of the pass, tables as
    they are. The pyramid reads the coordinates and writes all that it keeps.

    Returns:
        Stage -> bytes, in the order in which the stages run.
    """
    size = precision.dtype.itemsize if precision.enabled else torch.float32.itemsize
    found: dict[str, int] = {PYRAMID: 0}

    def count(stage: str, module: nn.Module, args: Any, output: Any) -> None:
        weights = [*module.parameters(), *module.buffers()]
        tensors = {id(tensor): tensor for tensor in _floating((*args, output, *weights))}  # given twice, moved once
        numbers = sum(tensor.numel() for tensor in tensors.values())
        layers = [layer for layer in module.modules() if type(layer) in TABLES]
        found[stage] = found.get(stage, 0) + numbers * size + sum(seen[layer] for layer in layers)

    def look(layer: nn.Module, args: tuple[Any, ...], _output: Any) -> None:
        seen[layer] = sum(table.numel() * table.element_size() for table in TABLES[type(layer)](layer, *args))

    seen: dict[nn.Module, int] = {}
    handles = [module.register_forward_hook(look) for module in network.modules() if type(module) in TABLES]
    for name, module in network.named_modules():
        stage = stage_of(name)
        if stage is not None:
            handles.append(module.register_forward_hook(lambda m, args, out, stage=stage: count(stage, m, args, out)))
    try:
        pyramid = _run(network, batch, precision, lambda _stage: None)
    finally:
        for handle in handles:
            handle.remove()
    given = sum(batch[key].numel() * batch[key].element_size() for key in ("grid_coord", "offset"))
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _reachable(pyramid, set())}
    found[PYRAMID] = given + sum(kept.values())
    return found


def _floating(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, tuple):
            yield from _floating(value)
        elif isinstance(value, Tensor) and value.is_floating_point():
            yield value


def _reachable(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor on the device in a structure of ours."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _reachable(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _reachable(item, seen)
    elif type(value).__module__.startswith("pointcept."):
        yield from _reachable(vars(value), seen)


def _neighbours(layer: SubmanifoldConv, _x: Tensor, grid: VoxelGrid) -> tuple[Tensor, ...]:
    if layer.kernel_size == 1:
        return ()
    if grid.duplicates is not None:
        return (grid.duplicates.maps(layer.kernel_size).index,)
    return (grid.neighbours(layer.kernel_size),)


def _slots(layer: PatchAttention, _x: Tensor, grid: VoxelGrid, order: str) -> tuple[Tensor, ...]:
    return (grid.patches(order, layer.patch_size).rows,)


def _cells(layer: StridedConv | InverseConv, _x: Tensor, fine: VoxelGrid, pooling: Pooling) -> tuple[Tensor, ...]:
    if pooling.strided_maps is None:
        pooling.strided_maps = ops.strided_maps(fine.grid_coord, pooling.cluster, len(pooling.lengths))
    return (pooling.strided_maps[isinstance(layer, InverseConv)],)


# layer -> the tables of rows that it reads; the call makes those that there are not yet
TABLES: dict[type[nn.Module], Callable[..., tuple[Tensor, ...]]] = {
    SubmanifoldConv: _neighbours,
    PatchAttention: _slots,
    StridedConv: _cells,
    InverseConv: _cells,
    SerializedPooling: lambda _layer, _x, pooling: (pooling.permutation,),
    SerializedUnpooling: lambda _layer, _x, _skip, pooling: (pooling.cluster,),
}
