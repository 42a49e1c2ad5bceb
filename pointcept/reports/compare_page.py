"""Several runs and studies on one page: curves over each other, classes with their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pointcept.reports.charts import bar_chart, line_chart
from pointcept.reports.page import Section, card, html_page, html_table, minus, pair, percent, signed, stacked
from pointcept.reports.results import MEANS, same_points
from pointcept.reports.run import Run
from pointcept.reports.study import Row

CURVES = {
    "mIoU quick [%]": ("val_quick/miou_present", True),
    "loss": ("train/loss", False),
    "learning rate": ("lr/base", False),
    "seconds per iteration": ("time/step", False),
}


def comparison_page(runs: Mapping[str, Run], studies: Mapping[str, Sequence[Row]]) -> str:
    """The page of runs by name, the first of which the others are compared with, and of studies by name."""
    first = next(iter(runs), "")
    sections = [Section("Runs", _heads(runs))]
    if runs:
        sections += [Section("Results", _results(runs)), Section("Curves", _curves(runs))]
        sections += [Section("Terms of the loss", _terms(runs)), Section("Distance", _ranges(runs))]
    sections += [Section(f"Study {name}", _study(rows)) for name, rows in studies.items()]
    kept = [section for number, section in enumerate(sections) if section.html or number == 0]
    title = " · ".join([*runs, *studies])
    return html_page(title, f"differences are those from {first}" if len(runs) > 1 else "", kept)


def _heads(runs: Mapping[str, Run]) -> str:
    rows = []
    for name, run in runs.items():
        git, result = run.environment.get("git") or {}, run.result or {}
        parameters = result.get("parameters")
        model = (run.config.get("model") or {}).get("type")
        size = f"{parameters / 1e6:.2f}" if parameters else "-"
        facts = [str(model or "-"), size, f"{run.iterations:,}", str(git.get("commit") or "-")[:10], str(run.folder)]
        rows.append([escape(cell) for cell in (name, *facts)])
    head = ["run", "network", "parameters [M]", "iterations", "commit", "folder"]
    return card(html_table(head, rows)) if rows else ""


def _results(runs: Mapping[str, Run]) -> str:
    results = {name: run.result for name, run in runs.items() if run.result is not None}
    lacking = [name for name in runs if name not in results]
    notes = [f"{name} has no result." for name in lacking]
    if not results:
        return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    first, base = next(iter(results.items()))
    alike = {name: result for name, result in results.items() if same_points(base, result)}
    others = [name for name in results if name not in alike]
    notes += [f"{name} was evaluated in another way or on other points than {first}." for name in others]
    kind = base["kind"]
    head = ["class", "points", *(part for i, n in enumerate(alike) for part in ((n,) if i == 0 else (n, "difference")))]
    rows = []
    for label, key in MEANS.items():
        values = [result.get(f"{key}_{kind}") for result in alike.values()]
        rows.append([label, "", *_with_differences(values)])
    sums = len(rows)
    classes = []
    for i, entry in enumerate(base["classes"]):
        values = [result["classes"][i].get(f"iou_{kind}") for result in alike.values()]
        if any(value is not None for value in values):
            classes.append([escape(entry["name"]), f"{entry['points']:,}", *_with_differences(values)])
    table = html_table(head, [*classes, *rows], total=sums)
    seen = [i for i, entry in enumerate(base["classes"]) if entry["points"]]
    parts = [seen[at : at + 7] for at in range(0, len(seen), 7)]
    bars = "".join(card(_class_bars(part, alike, kind)) for part in parts)
    shown = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return f'{shown}<p class="note">IoU {kind}, in percent</p>{stacked(card(table), pair(bars))}'


def _class_bars(classes: Sequence[int], results: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    names = [next(iter(results.values()))["classes"][i]["name"] for i in classes]
    series = {n: [result["classes"][i].get(f"iou_{kind}") for i in classes] for n, result in results.items()}
    return bar_chart(names, series)


def _with_differences(values: Sequence[float | None]) -> list[str]:
    cells = [percent(values[0])]
    for value in values[1:]:
        cells += [percent(value), signed(minus(value, values[0]))]
    return cells


def _curves(runs: Mapping[str, Run]) -> str:
    charts = []
    for title, (name, is_share) in CURVES.items():
        series = {run: own.curves.get(name, []) for run, own in runs.items()}
        charts.append(card(line_chart(series, percent=is_share), title))
    return pair(*charts)


def _terms(runs: Mapping[str, Run]) -> str:
    terms = dict.fromkeys(
        name for run in runs.values() for name in run.named("train/") if "/" not in name and name != "loss"
    )
    cards = [
        card(line_chart({run: own.curves.get(f"train/{term}", []) for run, own in runs.items()}), term)
        for term in terms
    ]
    return pair(*cards)


def _ranges(runs: Mapping[str, Run]) -> str:
    results = {name: run.result for name, run in runs.items() if run.result is not None and run.result.get("ranges")}
    if not results:
        return ""
    first = next(iter(results.values()))
    alike = {name: result for name, result in results.items() if same_points(first, result)}
    labels = [f"{r['from']:.0f}+ m" if r["to"] is None else f"{r['from']:.0f}-{r['to']:.0f} m" for r in first["ranges"]]
    key = f"miou_present_{first['kind']}"
    series = {n: [part.get(key) for part in result["ranges"]] for n, result in alike.items()}
    return stacked(card(bar_chart(labels, series), "mIoU [%]"))


def _study(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    base = rows[0]
    table = []
    for row in rows:
        spread = "-" if row.spread is None else percent(row.spread)
        gap = signed(minus(row.mean, base.mean)) if row is not base else ""
        table.append([escape(row.name), percent(row.mean), spread, gap, str(len(row.values)), escape(row.note)])
    head = ["row", "mIoU [%]", "std over seeds", f"difference from {base.name}", "seeds", "of"]
    chart = bar_chart([row.name for row in rows], {"mIoU": [row.mean for row in rows]})
    parts = [pair(card(html_table(head, table)), card(chart, "mean mIoU [%]"))]
    names = list(dict.fromkeys(name for row in rows for name in row.iou))
    if names:
        lines = []
        for name in names:
            values = [row.iou.get(name) for row in rows]
            best = max((v for v in values if v is not None), default=None)
            cells = [f"<b>{percent(v, 1)}</b>" if v is not None and v == best else percent(v, 1) for v in values]
            lines.append([escape(name), *cells])
        parts.append(card(html_table(["IoU [%]", *(row.name for row in rows)], lines)))
    return stacked(*parts)
