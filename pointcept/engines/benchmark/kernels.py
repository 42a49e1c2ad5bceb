"""What the GPU does while a workload runs, from the trace that ``torch.profiler`` (CUPTI) writes."""

from __future__ import annotations

import json
import logging
import tempfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from pointcept.utils import device

logger = logging.getLogger(__name__)

KERNEL = "kernel"
ON_THE_DEVICE = (KERNEL, "gpu_memcpy", "gpu_memset")  # categories of the trace
LAUNCH = ("cuda_runtime", "cuda_driver")
OPERATION, RANGE = "cpu_op", "user_annotation"


@dataclass(frozen=True)
class KernelTime:
    """A kernel's share of one iteration.

    Attributes:
        name: as the compiler knows it.
        count: executions per iteration.
        ms: their durations added up, per iteration.
    """

    name: str
    count: float
    ms: float


@dataclass(frozen=True)
class DeviceActivity:
    """What the device did, per iteration.

    Attributes:
        launches: calls of the host that started kernels; a CUDA graph is one.
        kernels: kernels that ran.
        copies: copies and fills of memory.
        busy_ms: time in which at least one of them ran.
        top: the kernels that took longest, with copies and fills.
    """

    launches: float
    kernels: float
    copies: float
    busy_ms: float
    top: tuple[KernelTime, ...]


def profile_device(call: Callable[[], Any], iterations: int, top: int = 0) -> DeviceActivity | None:
    """Run ``call`` under the profiler.

    Args:
        call: one iteration.
        iterations: how often, after a first one that is not counted.
        top: kernels to name.

    Returns:
        None where there is no GPU, or where the driver does not let this process profile it.
    """
    events = trace_device(call, iterations)
    activity = None if events is None else summarise(events, iterations, top)
    if events is not None and activity is None:
        logger.warning("torch.profiler saw no kernel, so launches and busy time are unknown (is CUPTI allowed here?)")
    return activity


def trace_device(call: Callable[[], Any], iterations: int, host: bool = False) -> list[Mapping[str, Any]] | None:
    """Run ``call`` under the profiler and return the events of its trace.

    Args:
        call: one iteration.
        iterations: how often, after a first one that is not in the trace.
        host: also record operations and ranges of the host, which slows it.

    Returns:
        None where there is no GPU, or where the driver does not let this process profile it.
    """
    if device.device_count() == 0:
        return None
    try:
        _trace(call, 1, host)  # the profiler's own start may fall into the first session
        return _trace(call, iterations, host)
    except (RuntimeError, ValueError, OSError) as error:
        logger.warning("torch.profiler failed, so launches and busy time are unknown: %s", error)
        return None


def _trace(call: Callable[[], Any], iterations: int, host: bool) -> list[Mapping[str, Any]]:
    device.synchronize()
    activities = [ProfilerActivity.CUDA, *([ProfilerActivity.CPU] if host else [])]
    with profile(activities=activities) as profiler:
        for _ in range(iterations):
            call()
        device.synchronize()
    # The file says of every event whether it is a kernel; the attributes of events() change between versions.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[Mapping[str, Any]] = json.loads(path.read_text(errors="replace"), strict=False)["traceEvents"]
    return events


def summarise(events: Iterable[Mapping[str, Any]], iterations: int, top: int = 0) -> DeviceActivity | None:
    """Add up the events of a trace in Chrome's format.

    Args:
        events: ``cat``, ``name``, ``ts`` and ``dur`` in microseconds, ``args.correlation``: the same number
            for all kernels that one call of the host started.
        iterations: in the trace.
        top: kernels to name.

    Returns:
        None if no kernel is among them.
    """
    spans: list[tuple[float, float]] = []
    times: dict[str, list[float]] = defaultdict(list)
    kernels, calls = 0, set()
    for event in events:
        category = event.get("cat")
        if category not in ON_THE_DEVICE:
            continue
        begin, duration = float(event["ts"]), float(event.get("dur", 0.0))
        spans.append((begin, begin + duration))
        times[event["name"]].append(duration)
        if category == KERNEL:
            kernels += 1
            calls.add(event.get("args", {}).get("correlation", f"kernel {kernels}"))
    if not kernels:
        return None
    ranking = sorted(times, key=lambda name: -sum(times[name]))[:top]
    return DeviceActivity(
        launches=len(calls) / iterations,
        kernels=kernels / iterations,
        copies=(len(spans) - kernels) / iterations,
        busy_ms=covered(spans) / 1000 / iterations,
        top=tuple(KernelTime(n, len(times[n]) / iterations, sum(times[n]) / 1000 / iterations) for n in ranking),
    )


def split_by_range(events: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, list[Mapping[str, Any]]]:
    """What the device did for each range of the host.

    A kernel belongs to the range in which the host began the operation that launched it, or, where it was launched
    outside any operation of PyTorch (as our own kernels are), in which the launch itself began.

    Args:
        events: of a trace that also has those of the host.
        prefix: of the names of the ranges, which do not overlap; other ranges are ignored.

    Returns:
        Name without prefix -> events on the device; those that belong to no range under "".
    """
    ranges = sorted(
        (float(event["ts"]), float(event["ts"]) + float(event.get("dur", 0.0)), event["name"].removeprefix(prefix))
        for event in events
        if event.get("cat") == RANGE and event["name"].startswith(prefix)
    )
    begins = [begin for begin, _, _ in ranges]
    operations, launches = _begins(events, (OPERATION,), "External id"), _begins(events, LAUNCH, "correlation")
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") not in ON_THE_DEVICE:
            continue
        ids = event.get("args", {})
        name = ""
        for moment in (operations.get(ids.get("External id")), launches.get(ids.get("correlation"))):
            place = -1 if moment is None else bisect_right(begins, moment) - 1
            if place >= 0 and moment is not None and moment <= ranges[place][1]:
                name = ranges[place][2]
                break
        found[name].append(event)
    return dict(found)


def _begins(events: Iterable[Mapping[str, Any]], categories: Sequence[str], key: str) -> dict[Any, float]:
    """When the events of the host began, by the number that they share with what they started."""
    return {
        event["args"][key]: float(event["ts"])
        for event in events
        if event.get("cat") in categories and key in event.get("args", {})
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of the intervals (begin, end)."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
