"""How long each step of the input pipeline takes: ``tools/benchmark_data.py``.

    python tools/benchmark_data.py --config configs/semantic_kitti/teacher.py --options data_root=data/semantic_kitti

The steps are timed where they really run, inside the data set that the config describes, pinned to one core as a
loading process would use it. Reading is measured on files that the operating system has seen before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointcept.utils.errors import ConfigError
from pointcept.utils.files import writable_file, write_text_atomic

from .base import BaseDataset, Draw
from .builder import build_dataset
from .collate import point_collate_fn

SPLITS = ("train", "val", "test")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Row:
    """The times of one step in milliseconds per scan.

    Attributes:
        stage: read, transforms, fragments, collate or sum.
        step: the transform, empty for the sum of a stage.
        median, p90: over the scans.
    """

    stage: str
    step: str
    median: float
    p90: float


class Stopwatch:
    """Adds up the time that steps take, scan by scan.

    Args:
        clock: a key of ``CLOCKS``.
    """

    def __init__(self, clock: str) -> None:
        self.now = CLOCKS[clock]
        self.scans: list[dict[tuple[str, str], float]] = []
        self._inside = False

    def timed(self, stage: str, step: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, with the time that it takes booked on a step of the current scan.

        What it calls in turn is its own time: a mix reads and transforms other scans.
        """

        def run(*args: Any) -> Any:
            if self._inside:
                return call(*args)
            self._inside, start = True, self.now()
            try:
                result = call(*args)
            finally:
                self._inside = False
            booked = self.scans[-1]
            booked[stage, step] = booked.get((stage, step), 0.0) + self.now() - start
            return result

        return run

    def rows(self) -> list[Row]:
        """The steps in the order of their first use, each stage with its sum, and the sum of all."""
        steps = list(dict.fromkeys(key for scan in self.scans for key in scan))
        rows = []
        for stage in dict.fromkeys(stage for stage, _ in steps):
            own = [key for key in steps if key[0] == stage]
            rows += [self._row(stage, step, [(stage, step)]) for _, step in own if step]
            rows.append(self._row(stage, "", own))
        return [*rows, self._row("sum", "", steps)]

    def _row(self, stage: str, step: str, keys: Sequence[tuple[str, str]]) -> Row:
        times = 1e3 * np.array([sum(scan.get(key, 0.0) for key in keys) for scan in self.scans])
        return Row(stage, step, float(np.median(times)), float(np.quantile(times, 0.9)))


def watch(dataset: Any, stopwatch: Stopwatch) -> None:
    """Put ``stopwatch`` around the steps of ``dataset``, which it changes.

    Raises:
        ConfigError: the data set has no steps of its own.
    """
    if not isinstance(dataset, BaseDataset):
        raise ConfigError(f"{type(dataset).__name__} has no transforms to time: time the data sets that it is made of")
    dataset.get_data = stopwatch.timed("read", "", dataset.get_data)  # type: ignore[method-assign]
    chain = dataset.transform.transforms
    for i, transform in enumerate(chain):
        chain[i] = stopwatch.timed("transforms", f"{i} {type(transform).__name__}", transform)
    tests = dataset.test_cfg
    if tests is not None:
        tests.aug_transform = [stopwatch.timed("fragments", "aug_transform", v) for v in tests.aug_transform]  # type: ignore[misc]
        for step in ("voxelize", "crop", "post_transform"):
            setattr(tests, step, stopwatch.timed("fragments", step, getattr(tests, step)))


def measure(
    section: Mapping[str, Any],
    samples: int = 50,
    batch_size: int = 1,
    warmup: int = 3,
    clock: str = "wall",
    seed: int = 0,
    where: str = "",
) -> dict[str, Any]:
    """Time the data set that ``section`` describes.

    Args:
        section: ``data.train`` of a config, or another split.
        samples: scans to time, drawn anew from the start when the data set has fewer.
        batch_size: scans that are collated; the time is divided among them. Test scans are not collated.
        warmup: scans before these.
        clock: a key of ``CLOCKS``: "wall", or "cpu" where other programs use the machine too.
        seed: of the random transforms.
        where: place of ``section`` in the config, for messages.

    Returns:
        ``rows``, and what was measured: data set, scans, points per scan (median), clock.

    Raises:
        ConfigError, DataError: see the data set.
    """
    if min(samples, batch_size) < 1 or warmup < 0 or clock not in CLOCKS:
        raise ConfigError(f"samples={samples}, batch_size={batch_size}, warmup={warmup}, clock={clock!r}: cannot be")
    dataset = build_dataset(section, where)
    stopwatch = Stopwatch(clock)
    watch(dataset, stopwatch)
    points: list[int] = []
    read = dataset.get_data
    dataset.get_data = lambda idx: _counted(read(idx), points)  # type: ignore[method-assign]
    batch: list[Any] = []
    with one_core():
        for number in range(warmup + samples):
            stopwatch.scans.append({})
            batch.append(dataset[Draw(number % len(dataset), seed + number)])
            if len(batch) == batch_size or number == warmup + samples - 1:
                if not dataset.test_mode:
                    _collate(batch, stopwatch)
                batch = []
    del stopwatch.scans[:warmup], points[:warmup]
    return {
        "dataset": type(dataset).__name__,
        "scans": samples,
        "points": int(np.median(points)),
        "clock": clock,
        "rows": [asdict(row) for row in stopwatch.rows()],
    }


def _counted(sample: dict[str, Any], points: list[int]) -> dict[str, Any]:
    points.append(len(sample["coord"]))
    return sample


def _collate(batch: Sequence[Mapping[str, Any]], stopwatch: Stopwatch) -> None:
    start = stopwatch.now()
    point_collate_fn(batch)
    share = (stopwatch.now() - start) / len(batch)
    for scan in stopwatch.scans[-len(batch) :]:
        scan["collate", ""] = share


@contextmanager
def one_core() -> Iterator[None]:
    """Run on one core with one thread, as loading processes do."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def format_result(result: Mapping[str, Any]) -> str:
    """The table of what :func:`measure` returns."""
    rows = [("stage", "step", "median ms", "p90 ms")]
    rows += [(r["stage"], r["step"], f"{r['median']:.2f}", f"{r['p90']:.2f}") for r in result["rows"]]
    widths = [max(len(row[c]) for row in rows) for c in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}" for row in rows
    ]
    head = (
        f"{result['dataset']}, {result['scans']} scans of {result['points']} points, {result['clock']} time, one core"
    )
    return "\n".join([head, lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/benchmark_data.py``."""
    parser = argparse.ArgumentParser(description="Milliseconds per transform of a config's input pipeline.")
    parser.add_argument("--config", "--config-file", required=True, metavar="FILE")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which of data.train, data.val, data.test")
    parser.add_argument("--samples", type=int, default=50, help="scans to time")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: where other programs run too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON too")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override, data_root=PATH"
    )
    return parser


def benchmark(cfg: Any, args: argparse.Namespace) -> str:
    """Time the pipeline of ``cfg`` as the arguments ask for; returns the table, and writes the JSON file.

    Raises:
        ConfigError, DataError: see :func:`measure`.
    """
    if args.json is not None:
        writable_file(args.json, "--json")
    batch_size = cfg.batch_size if args.split == "train" else 1
    result = measure(
        cfg.data[args.split].to_dict(), args.samples, batch_size, clock=args.clock, where=f"data.{args.split}"
    )
    if args.json is not None:
        facts = {"config": str(args.config), "split": args.split, "batch_size": batch_size}
        facts |= {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        facts |= {"numpy": np.__version__, "torch": str(torch.__version__)}
        write_text_atomic(args.json, json.dumps({**facts, **result}, indent=2) + "\n")
    return format_result(result)
