"""One row of the table: what one network costs on one batch."""

from __future__ import annotations

import gc
import logging
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pointcept.engines.benchmark.flops import count_flops, parameter_count
from pointcept.engines.benchmark.inputs import make_batch
from pointcept.engines.benchmark.kernels import KernelTime, profile_device
from pointcept.engines.benchmark.plan import Case, Settings
from pointcept.engines.benchmark.stages import StageCost, measure_stages
from pointcept.engines.benchmark.workloads import DTYPES, Workload, build_workload, float32_products
from pointcept.engines.inference import Precision
from pointcept.engines.scores import check_scores, network_name
from pointcept.ops import backend
from pointcept.utils import device

logger = logging.getLogger(__name__)

T = TypeVar("T")
STAGED = "infer"  # the mode whose call is the forward pass of one network, stage after stage


@dataclass(frozen=True)
class Row:
    """What was measured; None where it could not be.

    Attributes:
        config, input, mode, backend, dtype: what was timed, see :class:`Case`.
        scans: in the batch.
        points: of a made-up cloud, else 0.
        voxels: in the batch.
        parameters: of the networks that run.
        flops: of one forward pass of each of them.
        median_ms, p99_ms: over the iterations.
        fps: scans per second, from the median.
        launches, kernels, copies, busy_ms: per iteration, see :class:`DeviceActivity`.
        peak_bytes: most GPU memory that tensors took at a time, from the first call of the warm-up, weights included.
        reserved_bytes: most GPU memory that PyTorch took from the driver, in the same time.
        agreement: share of the voxels whose class is that of the plain network in float32, where logits are computed.
        speedup, memory_ratio: median of the baseline / median, and peak memory / that of the baseline.
        top: the kernels that took longest.
        stages: what each stage of the network costs, where that was asked for.
        error: why there is no measurement.
    """

    config: str
    input: str
    mode: str
    backend: str
    dtype: str
    scans: int
    points: int = 0
    voxels: int | None = None
    parameters: int | None = None
    flops: int | None = None
    median_ms: float | None = None
    p99_ms: float | None = None
    fps: float | None = None
    launches: float | None = None
    kernels: float | None = None
    copies: float | None = None
    busy_ms: float | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    agreement: float | None = None
    speedup: float | None = None
    memory_ratio: float | None = None
    top: tuple[KernelTime, ...] = field(default=())
    stages: tuple[StageCost, ...] = field(default=())
    error: str | None = None


def measure(case: Case, settings: Settings) -> Row:
    """Measure one case; whatever goes wrong in it becomes the row's ``error``."""
    row = Row(
        config=case.config,
        input=case.source.name,
        mode=case.mode,
        backend=case.backend,
        dtype=case.dtype,
        scans=case.scans,
        points=case.source.points,
    )
    try:
        batch = make_batch(case.cfg, case.source, case.scans)
        row = replace(row, voxels=len(batch["feat"]))
        row = _measured(row, case, settings, batch)
    # A backend that lacks a type, memory that does not suffice, a kernel that does not compile: each library
    # has an error of its own, and the other rows are to go on.
    except Exception as error:
        logger.debug("the row failed", exc_info=True)
        row = replace(row, error=describe(error))
    release()
    return row


def _measured(row: Row, case: Case, settings: Settings, batch: Mapping[str, Tensor]) -> Row:
    precision, tf32 = DTYPES[case.dtype]
    device.seed_everything(settings.seed)
    with backend.override(case.backend, "--backend"), float32_products(tf32):
        workload = build_workload(case.mode, case.cfg, precision)
        on_device = device.move(batch, device.get_device())
        row = replace(
            row,
            parameters=sum(map(parameter_count, workload.networks)) or None,
            flops=_flops(workload, on_device, precision) or None,
        )

        def call() -> Any:
            return workload.call(on_device)

        labels = _if_memory_suffices("labels in float32", lambda: workload.labels and workload.labels(on_device))
        if workload.before_timing is not None:
            workload.before_timing(on_device)
        release()
        # Before the warm-up: it captures CUDA graphs, and what these keep for themselves is allocated then only.
        device.reset_peak_memory()
        for _ in range(settings.warmup):
            call()
        times = wall_times(call, settings.iterations)
        median = float(np.median(times))
        row = replace(
            row,
            median_ms=median,
            p99_ms=float(np.quantile(times, 0.99)),
            fps=1000 * row.scans / median,
            peak_bytes=device.peak_memory() or None,
            reserved_bytes=device.peak_reserved_memory() or None,
        )
        if labels is not None:
            scores = check_scores(call(), network_name(workload.networks[0]), precision.hint)
            row = replace(row, agreement=float((scores.argmax(1) == labels).double().mean()))
        activity = profile_device(call, settings.profiled, settings.top)
        if activity is not None:
            row = replace(
                row,
                launches=activity.launches,
                kernels=activity.kernels,
                copies=activity.copies,
                busy_ms=activity.busy_ms,
                top=activity.top,
            )
        if settings.stages and case.mode == STAGED:
            row = replace(row, stages=measure_stages(workload.networks[0], on_device, precision, settings))
        return row


def _flops(workload: Workload, batch: Mapping[str, Tensor], precision: Precision) -> int | None:
    return _if_memory_suffices(
        "FLOPs with the backend torch", lambda: sum(count_flops(n, batch, precision) for n in workload.networks)
    )


def _if_memory_suffices(what: str, function: Callable[[], T]) -> T | None:
    try:
        return function()
    except torch.OutOfMemoryError as error:
        logger.warning("no memory to compute %s: %s", what, describe(error))
        return None


def wall_times(call: Callable[[], Any], iterations: int) -> np.ndarray:
    """Milliseconds of each of ``iterations`` calls, until the device has finished."""
    times = []
    for _ in range(iterations):
        device.synchronize()
        start = time.perf_counter()
        call()
        device.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return np.array(times)


def release() -> None:
    """Give back what earlier work holds, so that it does not count as memory of the next."""
    gc.collect()
    try:
        device.empty_cache()
    except RuntimeError as error:  # after an invalid access a GPU refuses everything, which the next rows will say
        logger.warning("cannot empty the cache: %s", error)


def describe(error: Exception) -> str:
    """One line that says what went wrong."""
    text = textwrap.shorten(str(error), 300)
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
