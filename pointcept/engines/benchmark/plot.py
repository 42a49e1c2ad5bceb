"""Time and memory over the number of voxels, as a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pointcept.engines.benchmark.measure import Row
from pointcept.engines.benchmark.table import Growth, growth, series
from pointcept.utils.errors import ConfigError, DataError, did_you_mean
from pointcept.utils.files import write_bytes_atomic

MARKERS = "osD^v"  # of the first ten networks, the next ten, ...; within ten the colours differ
COLOURS = 10
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pointcept",
}  # searchable text, the same file every time


def check_plot(path: Path) -> None:
    """Whether a figure can be drawn into a file of this name.

    Raises:
        ConfigError: matplotlib is missing, or it does not know the file's format.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase  # a package of its own: only who draws needs it
    except ImportError as error:
        raise ConfigError(f"--plot needs matplotlib ({error}): pip install '.[plot]'") from error
    known = FigureCanvasBase.get_supported_filetypes()
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in known:
        raise ConfigError(f"--plot {path}: {did_you_mean(suffix, known)}")


def draw_growth(rows: Sequence[Row], path: Path) -> None:
    """Draw time, GPU busy time and memory of every network that ran on two or more sizes of made-up clouds.

    Args:
        rows: of one or several networks; those of scans are left out.
        path: of the figure, whose format its suffix says; the folder is created.

    Raises:
        DataError: no network ran on two sizes.
    """
    from matplotlib import rc_context

    if not series(rows):
        raise DataError(f"--plot {path}: no network was measured on two or more sizes (--points) of made-up clouds")
    drawn = io.BytesIO()
    with rc_context(STYLE):
        date = {"metadata": {"Date": None}} if path.suffix.lower() == ".svg" else {}
        growth_figure(rows).savefig(drawn, format=path.suffix.lower().removeprefix("."), **date)
    write_bytes_atomic(path, drawn.getvalue())


def growth_figure(rows: Sequence[Row]) -> Any:
    """The figure of :func:`draw_growth`, a ``matplotlib.figure.Figure``; one line of its legend for each network."""
    from matplotlib.figure import Figure

    groups, laws = list(series(rows).values()), growth(rows)
    memory = any(row.peak_bytes for group in groups for row in group)
    figure = Figure(figsize=(10 if memory else 7, 4 + 0.2 * len(groups)), layout="constrained")
    axes = figure.subplots(1, 2 if memory else 1, squeeze=False)[0]
    panels: list[tuple[Any, str, tuple[tuple[str, str, float], ...]]] = [
        (axes[0], "ms per call", (("median_ms", "-", 1.0), ("busy_ms", "--", 1.0)))
    ]
    if memory:
        panels.append((axes[1], "peak GiB", (("peak_bytes", "-", 2.0**30),)))
    handles: list[Any] = []
    for axis, label, costs in panels:
        for number, group in enumerate(groups):
            look = {"color": f"C{number % COLOURS}", "marker": MARKERS[number // COLOURS % len(MARKERS)]}
            for cost, line, unit in costs:
                known = [(row.voxels, getattr(row, cost) / unit) for row in group if getattr(row, cost)]
                drawn = axis.plot(*zip(*known, strict=True), line, **look) if known else []
                handles += drawn if cost == "median_ms" else []
        axis.set(xscale="log", yscale="log", xlabel="voxels", ylabel=label)
        axis.grid(which="both", alpha=0.3)
    title = "cost ~ voxels ** exponent (between the two largest sizes); solid: median, dashed: GPU busy"
    labels = [_label(law) for law in laws]
    figure.legend(handles, labels, loc="outside lower center", title=title, fontsize="small")
    return figure


def _label(law: Growth) -> str:
    scans = f" x {law.scans}" if law.scans > 1 else ""
    found = (
        ("time", law.time, law.time_end),
        ("GPU busy", law.busy, law.busy_end),
        ("memory", law.memory, law.memory_end),
    )
    exponents = ", ".join(f"{name} {fit:.2f} ({end:.2f})" for name, fit, end in found if None not in (fit, end))
    return f"{law.config}{scans} {law.mode} {law.dtype} {law.backend}: {exponents}"
