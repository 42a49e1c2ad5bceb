"""The rows as text: the table, ratios between backends, growth with the number of voxels, kernels, stages."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pointcept.engines.benchmark.measure import Row

LEFT = 5  # columns of text; the others are numbers
HEAD = (
    "config", "input", "mode", "dtype", "backend", "scans", "voxels", "params M", "GFLOP", "median ms", "p99 ms",
    "FPS", "launches", "GPU busy ms", "peak GiB", "labels %",
)  # fmt: skip
RATIOS = ("speed-up", "memory x")


def add_ratios(rows: Sequence[Row], baseline: str | None) -> list[Row]:
    """Fill ``speedup`` and ``memory_ratio`` against the same row with the backend ``baseline``; None leaves them."""
    base = {_without_backend(row): row for row in rows if row.backend == baseline}
    found = []
    for row in rows:
        other = base.get(_without_backend(row))
        if other is not None:
            row = replace(
                row,
                speedup=_ratio(other.median_ms, row.median_ms),
                memory_ratio=_ratio(row.peak_bytes, other.peak_bytes),
            )
        found.append(row)
    return found


def _without_backend(row: Row) -> tuple[object, ...]:
    return (row.config, row.input, row.mode, row.dtype, row.scans)


def _ratio(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by


@dataclass(frozen=True)
class Growth:
    """How the cost of a network grows with the voxels of a made-up cloud: cost ~ voxels ** exponent.

    Attributes:
        config, mode, dtype, backend, scans: which rows.
        voxels: of the smallest and the largest cloud.
        time, busy, memory: exponents fitted to all sizes; None where it was not measured.
        time_end, busy_end, memory_end: between the two largest sizes, where fixed costs weigh least.
    """

    config: str
    mode: str
    dtype: str
    backend: str
    scans: int
    voxels: tuple[int, int]
    time: float | None
    busy: float | None
    memory: float | None
    time_end: float | None
    busy_end: float | None
    memory_end: float | None


def series(rows: Sequence[Row]) -> dict[tuple[str, str, str, str, int], list[Row]]:
    """The rows of every network that ran on two or more sizes of made-up clouds, from the smallest to the largest.

    Returns:
        (config, mode, dtype, backend, scans) -> rows.
    """
    groups: dict[tuple[str, str, str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.points and row.voxels and row.median_ms is not None:
            groups[row.config, row.mode, row.dtype, row.backend, row.scans].append(row)
    return {
        key: sorted(group, key=lambda row: row.voxels or 0)
        for key, group in groups.items()
        if len({row.voxels for row in group}) > 1
    }


def growth(rows: Sequence[Row]) -> list[Growth]:
    """The growth of every network of :func:`series`."""
    found = []
    for key, group in series(rows).items():
        voxels = [row.voxels or 0 for row in group]
        costs: list[list[float | None]] = [
            [r.median_ms for r in group],
            [r.busy_ms for r in group],
            [r.peak_bytes for r in group],
        ]
        fits = [exponent(voxels, cost) for cost in costs] + [exponent(voxels[-2:], cost[-2:]) for cost in costs]
        found.append(Growth(*key, (voxels[0], voxels[-1]), *fits))
    return found


def exponent(sizes: Sequence[int], costs: Sequence[float | None]) -> float | None:
    """Slope of log(cost) over log(size) by least squares; None where a cost is unknown or sizes do not differ."""
    known = [cost for cost in costs if cost]
    if len(known) < len(costs) or len(set(sizes)) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(known), 1)[0])


def format_rows(rows: Sequence[Row]) -> str:
    """The table; below it why rows failed, how costs grow, expensive kernels, and the stages."""
    ratios = any(row.speedup is not None for row in rows)
    failed = [row for row in rows if row.error is not None]
    texts = [_align([(*HEAD, *(RATIOS if ratios else ())), *(_cells(row, ratios) for row in rows)])]
    if failed:
        texts.append("\n".join(["failed:", *(f"  {_title(row)}: {row.error}" for row in failed)]))
    found = growth(rows)
    if found:
        texts.append(_format_growth(found))
    texts += [_format_kernels(row) for row in rows if row.top]
    texts += [_format_stages(row) for row in rows if row.stages]
    return "\n\n".join(texts) + "\n"


def _cells(row: Row, ratios: bool) -> tuple[str, ...]:
    texts = (row.config, row.input, row.mode, row.dtype, row.backend)
    counts = (str(row.scans), _number(row.voxels, 0), _number(row.parameters, 2, 1e6), _number(row.flops, 2, 1e9))
    if row.error is not None:
        measured = ("failed", *("-",) * 6)
    else:
        measured = (
            _number(row.median_ms, 2),
            _number(row.p99_ms, 2),
            _number(row.fps, 2),
            _number(row.launches, 0),
            _number(row.busy_ms, 2),
            _number(row.peak_bytes, 2, 2**30),
            _number(row.agreement, 3, 0.01),
        )
    return (*texts, *counts, *measured, *((_number(row.speedup, 2), _number(row.memory_ratio, 2)) if ratios else ()))


def _number(value: float | None, digits: int, unit: float = 1) -> str:
    return "-" if value is None or math.isnan(value) else f"{value / unit:.{digits}f}"


def _align(rows: Sequence[Sequence[str]], left: int = LEFT) -> str:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(widths[c]) if c < left else cell.rjust(widths[c]) for c, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _title(row: Row) -> str:
    return f"{row.config} {row.input} x {row.scans}, {row.mode} {row.dtype} {row.backend}"


def _format_growth(found: Sequence[Growth]) -> str:
    head = ("growth", "mode", "dtype", "backend", "voxels", "scans", "time", "GPU busy", "memory")
    rows = [
        (
            *(g.config, g.mode, g.dtype, g.backend, f"{g.voxels[0]}-{g.voxels[1]}", str(g.scans)),
            *(
                f"{_number(all_sizes, 2)} ({_number(end, 2)})"
                for all_sizes, end in ((g.time, g.time_end), (g.busy, g.busy_end), (g.memory, g.memory_end))
            ),
        )
        for g in found
    ]
    note = "cost ~ voxels ** exponent; in brackets between the two largest sizes"
    return f"{_align([head, *rows])}\n{note}"


def _format_kernels(row: Row) -> str:
    total = row.busy_ms or math.nan
    lines = [
        (k.name if len(k.name) <= 100 else k.name[:97] + "...", f"{k.count:.1f}", f"{k.ms:.3f}", f"{k.ms / total:.1%}")
        for k in row.top
    ]
    return _align([(f"kernels of {_title(row)}", "per call", "ms", "of busy"), *lines], left=1)


def _format_stages(row: Row) -> str:
    head = ("stage", "us", "kernels", "MFLOP", "MB", "arithmetic us", "bandwidth us")
    lines = []
    for name, stages in [*((stage.name, [stage]) for stage in row.stages), ("total", list(row.stages))]:
        kernels = _sum([stage.kernels for stage in stages])
        lines.append(
            (
                name,
                _number(_sum([stage.us for stage in stages]), 1),
                "-" if kernels is None else f"{kernels:g}",
                _number(_sum([stage.flops for stage in stages]), 2, 1e6),
                _number(_sum([stage.bytes for stage in stages]), 3, 1e6),
                _number(_sum([stage.arithmetic_us for stage in stages]), 2),
                _number(_sum([stage.bandwidth_us for stage in stages]), 2),
            )
        )
    note = "the last two columns: what the operations and the least bytes take at the peaks"
    return f"stages of {_title(row)}\n{_align([head, *lines], left=1)}\n{note}"


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
