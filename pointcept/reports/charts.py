"""Charts as SVG text: lines, sparklines, bars, a heat map. Colours are those of the page (``page.STYLE``)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape

Curve = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 620, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 30
MOST_POINTS = 300
SMOOTHED_FROM = 60
"""Points from which on a mean over neighbours is drawn in front of the curve."""
COLOURS = 8


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between ``low`` and ``high``."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number of an axis or a hint."""
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:,.0f}".replace(",", "\u202f")


def thinned(curve: Curve, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most ``most`` points: the means of neighbours."""
    size = math.ceil(len(curve) / most)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups]


def smoothed(curve: Curve) -> list[tuple[float, float]]:
    """Means over the neighbours on both sides, a twentieth of the curve wide."""
    reach = max(1, len(curve) // 40)
    windows = [curve[max(0, i - reach) : i + reach + 1] for i in range(len(curve))]
    return [(x, math.fsum(y for _, y in w) / len(w)) for (x, _), w in zip(curve, windows, strict=True)]


def line_chart(series: Mapping[str, Curve], unit: str = "iteration", percent: bool = False, zero: bool = True) -> str:
    """Curves over one axis, with a legend; the page's script shows the values under the mouse.

    Args:
        series: name -> points.
        unit: of the horizontal axis.
        percent: values are fractions.
        zero: the vertical axis begins at 0 if no value is below.
    """
    factor = 100 if percent else 1
    scaled = {name: [(x, factor * y) for x, y in thinned(curve)] for name, curve in series.items() if curve}
    if not scaled:
        return ""
    xs = [x for curve in scaled.values() for x, _ in curve]
    ys = [y for curve in scaled.values() for _, y in curve]
    low, high = min(ys), max(ys)
    low = 0.0 if zero and low >= 0 else low
    pad = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    high, low = high + pad, low if zero and low == 0 else low - pad
    first, last = min(xs), max(xs)
    last = last if last > first else first + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(ticks(first, last, 6), ticks(low, high), place, (first, low), unit)]
    order = {name: number for number, name in enumerate(series)}  # a run keeps its colour where another has no curve
    for name, curve in scaled.items():
        colour = f"s{order[name] % COLOURS}"
        dense = len(curve) >= SMOOTHED_FROM
        parts.append(_path(curve, place, f"{colour}{' faint' if dense else ''}"))
        if dense:
            parts.append(_path(smoothed(curve), place, colour))
        elif len(curve) <= 40:
            dots = (place(x, y) for x, y in curve)
            parts += [f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="2.4"/>' for a, b in dots]
    data = {"x": [first, last], "left": LEFT, "right": WIDTH - RIGHT, "unit": unit, "mark": " %" if percent else ""}
    data["series"] = [{"name": name, "points": [[x, float(f"{y:.5g}")] for x, y in c]} for name, c in scaled.items()]
    legend = "".join(f'<span class="key k{order[name] % COLOURS}">{escape(name)}</span>' for name in scaled)
    return (
        f'<figure class="chart"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" data-chart="{escape(json.dumps(data))}">'
        f'{"".join(parts)}<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _grid(xs: Sequence[float], ys: Sequence[float], place, corner: tuple[float, float], unit: str) -> str:  # type: ignore[no-untyped-def]
    parts = []
    for y in ys:
        _, at = place(corner[0], y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 3.5:.1f}" text-anchor="end">{short(y)}</text>')
    for x in xs:
        at, _ = place(x, corner[1])
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{short(x)}</text>')
    parts.append(f'<text class="unit" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(unit)}</text>')
    return "".join(parts)


def _path(curve: Curve, place, style: str) -> str:  # type: ignore[no-untyped-def]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(x, y) for x, y in curve))
    return f'<polyline class="{style}" points="{points}"/>'


def sparkline(curve: Curve, low: float = 0.0, high: float = 1.0, width: int = 150, height: int = 36) -> str:
    """A curve without axes, between ``low`` and ``high``."""
    points = thinned(curve, 60)
    first, last = points[0][0], points[-1][0]
    span = (last - first) or 1

    def place(x: float, y: float) -> tuple[float, float]:
        return 3 + (x - first) / span * (width - 6), height - 3 - (y - low) / ((high - low) or 1) * (height - 6)

    a, b = place(*points[-1])
    line = _path(points, place, "s0") if len(points) > 1 else ""
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" role="img">{line}'
        f'<circle class="s0" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/></svg>'
    )


def bar_chart(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], hints: Sequence[str] = ()) -> str:
    """Bars of fractions in groups, one bar for each series.

    Args:
        groups: what stands below.
        series: name -> a value for each group, None where there is none.
        hints: a text for each group, shown under the mouse.
    """
    values = [v for row in series.values() for v in row if v is not None]
    if not values:
        return ""
    high = max(1.0, 100 * max(values) * 1.12)
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    bar = min(46.0, room * 0.72 / len(series))

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - value / high * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ticks(0, high):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{up(y) + 3.5:.1f}" text-anchor="end">{short(y)}</text>')
    for g, group in enumerate(groups):
        middle = LEFT + room * (g + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(group)}</text>')
        for s, (name, row) in enumerate(series.items()):
            value = row[g]
            if value is None:
                continue
            shown = f"{100 * value:.1f}"
            x, top = middle + bar * (s - len(series) / 2), up(100 * value)
            hint = f"{name}, {group}: {100 * value:.2f} %" + (f", {hints[g]}" if hints else "")
            parts.append(
                f'<rect class="s{s % COLOURS}" x="{x + 1:.1f}" y="{top:.1f}" width="{bar - 2:.1f}" '
                f'height="{HEIGHT - BOTTOM - top:.1f}" rx="2"><title>{escape(hint)}</title></rect>'
                f'<text class="value" x="{x + bar / 2:.1f}" y="{top - 4:.1f}" text-anchor="middle">{shown}</text>'
            )
    legend = "".join(f'<span class="key k{n % COLOURS}">{escape(name)}</span>' for n, name in enumerate(series))
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    return f'<figure class="chart">{svg}<figcaption>{legend}</figcaption></figure>'


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix: each row (true class) as shares of its points, the points under the mouse."""
    cell, head = 30, 8 + max(map(len, names)) * 7
    side = head + cell * len(names)
    parts = [f'<text class="unit" x="{head - 8}" y="{head - 10}" text-anchor="end">truth ↓ predicted →</text>']
    for i, name in enumerate(names):
        middle = head + cell * (i + 0.5)
        parts.append(f'<text x="{head - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text transform="translate({middle + 4:.0f} {head - 8}) rotate(-90)">{escape(name)}</text>')
        total = sum(counts[i])
        for j, other in enumerate(names):
            x, y = head + cell * j, head + cell * i
            share = counts[i][j] / total if total else 0.0
            kind = "hit" if i == j else "miss"
            hint = f"{name} → {other}: {counts[i][j]} points, {100 * share:.2f} % of {name}"
            fill = f' style="fill-opacity:{0.06 + 0.94 * share**0.6:.3f}"' if share else ""
            box = (
                f'<rect class="cell {kind if share else "none"}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}"'
            )
            parts.append(f"{box}{fill}><title>{escape(hint)}</title></rect>")
            if share >= 0.01:
                tone = "strong" if share > 0.45 else "weak"
                text = f"{100 * share:.0f}"
                parts.append(
                    f'<text class="share {tone}" x="{x + cell / 2 - 0.5:.1f}" y="{y + cell / 2 + 3:.1f}">{text}</text>'
                )
    return f'<svg class="heat" viewBox="0 0 {side} {side}" style="max-width:{side}px" role="img">{"".join(parts)}</svg>'
