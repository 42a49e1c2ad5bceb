"""Sections about results: classes, confusion, distance, the scans with the most errors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pointcept.evaluation import birdseye
from pointcept.reports.charts import bar_chart, heat_map
from pointcept.reports.page import (
    Section,
    card,
    html_table,
    markdown_table,
    minus,
    percent,
    signed,
    stacked,
)
from pointcept.reports.run import Run

Result = Mapping[str, Any]

MEANS = {"mIoU": "miou_present", "mIoU of all": "miou_all", "mean accuracy": "macc_present", "accuracy": "all_acc"}
PICTURE = 360  # px
NO_RESULT = (
    "There is no result of the tester: train with the hook PreciseEvaluator, or run "
    "`python tools/test.py --config CONFIG --options weight=WEIGHT save_path=RUN`."
)


def colours_of(run: Run, number: int) -> list[str]:
    """``#rrggbb`` of ``number`` classes."""
    return ["#" + bytes(colour).hex() for colour in birdseye.palette(number, run.colours).tolist()]


def classes_section(run: Run, teacher: Result | None) -> Section:
    """IoU of each class, beside the teacher's where there is one."""
    result, title = run.result, "Classes"
    if result is None:
        return Section(title, f'<p class="note">{escape(NO_RESULT)}</p>', NO_RESULT)
    kind = result["kind"]
    if teacher is not None and not same_points(result, teacher):
        teacher = None
        note = "The teacher's result is of other points or made in another way, so it does not stand beside this one."
    else:
        note = f"{kind}, {result.get('num_scans')} scans, {result['num_points']} points; in percent. "
        note += (
            f"Differences are student - teacher{_sizes(result, teacher)}."
            if teacher
            else "A mean is over the classes that occur."
        )
    head = ["class", "points"] + (["teacher IoU", "student IoU", "difference"] if teacher else ["IoU"])
    head += ["accuracy", "precision"]
    colours = colours_of(run, len(result["classes"]))
    rows, plain = [], []
    for i, entry in enumerate(result["classes"]):
        iou = entry.get(f"iou_{kind}")
        theirs = teacher["classes"][i].get(f"iou_{kind}") if teacher else None
        numbers = [percent(theirs)] if teacher else []
        after = [percent(entry.get(f"acc_{kind}")), percent(entry.get(f"precision_{kind}"))]
        meter = f'<span class="meter"><i style="width:{100 * (iou or 0):.1f}%"></i></span>'
        difference = minus(iou, theirs)
        name = f'<i class="swatch" style="background:{colours[i]}"></i>{escape(entry["name"])}'
        middle = [*numbers, percent(iou) + meter, *([signed(difference)] if teacher else [])]
        rows.append([name, f"{entry['points']:,}", *middle, *after])
        shown = [f"{100 * difference:+.2f}" if difference is not None else "-"] if teacher else []
        plain.append([entry["name"], str(entry["points"]), *numbers, percent(iou), *shown, *after])
    for label, key in (("mIoU", "miou_present"), ("accuracy", "all_acc")):
        ours, theirs = result.get(f"{key}_{kind}"), teacher.get(f"{key}_{kind}") if teacher else None
        gap = minus(ours, theirs)
        start = [f"{label}", ""] + ([percent(theirs)] if teacher else [])
        rows.append([*start, percent(ours), *([signed(gap)] if teacher else []), "", ""])
        shown = [f"{100 * gap:+.2f}" if gap is not None else "-"] if teacher else []
        plain.append([*start, percent(ours), *shown, "", ""])
    html = f'<p class="note">{escape(note)}</p>' + card(html_table(head, rows, total=2))
    return Section(title, html, f"{note}\n\n{markdown_table(head, plain)}")


def _sizes(student: Result, teacher: Result) -> str:
    ours, theirs = student.get("parameters"), teacher.get("parameters")
    return f" ({ours / 1e6:.2f} M against {theirs / 1e6:.2f} M parameters)" if ours and theirs else ""


def same_points(one: Result, other: Result) -> bool:
    """Whether two results are of one kind and of scans with the same points of the same classes."""
    points = [[(entry["name"], entry["points"]) for entry in result["classes"]] for result in (one, other)]
    return one["kind"] == other["kind"] and points[0] == points[1]


def confusion_section(run: Run) -> Section | None:
    """The confusion matrix as a heat map, and the largest confusions in words."""
    result = run.result
    if result is None:
        return None
    counts = result.get("confusion")
    if not counts:
        text = "The result has no confusion matrix (an older tester wrote it): test the weights again."
        return Section("Confusion", f'<p class="note">{text}</p>', text)
    names = [entry["name"] for entry in result["classes"]]
    seen = [i for i in range(len(names)) if sum(counts[i]) or any(row[i] for row in counts)]
    shown = [[counts[i][j] for j in seen] for i in seen]
    mistaken = ((counts[i][j], i, j) for i in seen for j in seen if i != j and counts[i][j])
    worst = [(n, names[i], names[j], n / sum(counts[i])) for n, i, j in sorted(mistaken, reverse=True)[:8]]
    rows = [[f"{truth} → {pred}", f"{points:,}", percent(share)] for points, truth, pred, share in worst]
    head = ["truth → predicted", "points", "% of truth"]
    safe = [[escape(row[0]), *row[1:]] for row in rows]
    note = "Rows are true classes, in percent of their points; classes that do not occur are left out."
    matrix, list_of_them = heat_map([names[i] for i in seen], shown), html_table(head, safe)
    html = f'<p class="note">{note}</p>' + stacked(card(matrix), card(list_of_them, "What is mistaken most"))
    return Section("Confusion", html, f"What is mistaken most:\n\n{markdown_table(head, rows)}")


def range_section(run: Run, teacher: Result | None) -> Section | None:
    """IoU by the distance from the sensor."""
    result = run.result
    if result is None:
        return None
    ranges, kind = result.get("ranges"), result["kind"]
    if not ranges:
        text = "The result has no distances (an older tester wrote it, or the scans have no coordinates)."
        return Section("Distance", f'<p class="note">{text}</p>', text)
    labels = [_range_name(part) for part in ranges]
    series = {"mIoU" if teacher is None else "student": [part.get(f"miou_present_{kind}") for part in ranges]}
    if teacher is not None and same_points(result, teacher) and teacher.get("ranges"):
        series = {"teacher": [part.get(f"miou_present_{kind}") for part in teacher["ranges"]], **series}
    hints = [f"{part['classes']} classes, {part['points']:,} points" for part in ranges]
    rows, plain = [], []
    for i, entry in enumerate(result["classes"]):
        values = [part["iou"][i] for part in ranges]
        if any(value is not None for value in values):
            cells = [f'<td class="share" style="--v:{v or 0:.3f}">{percent(v, 1)}</td>' for v in values]
            rows.append([escape(entry["name"]), *cells])
            plain.append([entry["name"], *(percent(v, 1) for v in values)])
    head = ["class", *labels]
    means = ["mIoU", *(percent(part.get(f"miou_present_{kind}"), 1) for part in ranges)]
    note = "Horizontal distance from the sensor; the mean is over the classes that occur in a range, in percent."
    chart = card(bar_chart(labels, series, hints), f"mIoU {kind}")
    html = f'<p class="note">{note}</p>' + stacked(chart, card(html_table(head, rows), f"IoU {kind}"))
    return Section("Distance", html, f"{note}\n\n{markdown_table(head, [means, *plain])}")


def _range_name(part: Mapping[str, Any]) -> str:
    low, high = part["from"], part["to"]
    return f"{low:.0f}+ m" if high is None else f"{low:.0f}-{high:.0f} m"


def scenes_section(run: Run) -> Section | None:
    """The scans with the most errors, and pictures of the first."""
    result = run.results.get("precise")
    if result is None:
        return None
    scans: Sequence[Mapping[str, Any]] = result.get("worst_scans") or ()
    if not scans:
        text = "The result names no scans (an older tester wrote it): test the weights again."
        return Section("Scans with the most errors", f'<p class="note">{text}</p>', text)
    names = [entry["name"] for entry in result["classes"]]
    rows = [[s["name"], f"{s['points']:,}", percent(s["wrong"] / s["points"])] for s in scans]
    head = ["scan", "points", "wrong [%]"]
    parts = []
    if run.points:
        colours = colours_of(run, len(names))
        keys = zip(colours, names, strict=True)
        legend = "".join(f'<span><i class="swatch" style="background:{c}"></i>{escape(n)}</span>' for c, n in keys)
        parts.append(f'<div class="legend">{legend}</div>')
        errors = {s["name"]: s["wrong"] / s["points"] for s in scans}
        parts += [_scene(run, name, errors.get(name), len(names)) for name in run.points]
    else:
        parts.append(
            '<p class="note">No pictures: the tester has kept no points (the samples have no coordinates).</p>'
        )
    table = card(html_table(head, [[escape(row[0]), *row[1:]] for row in rows]))
    return Section("Scans with the most errors", "".join(parts) + table, markdown_table(head, rows))


def _scene(run: Run, name: str, error: float | None, classes: int) -> str:
    scan = run.points[name]
    coord = scan.coord.astype("float32")
    reach = birdseye.extent_of(coord)
    palette = birdseye.palette(classes, run.colours)
    pictures = {
        "truth": birdseye.render(coord, scan.target, palette, PICTURE, reach),
        "prediction": birdseye.render(coord, scan.pred, palette, PICTURE, reach),
        "errors": birdseye.render_errors(coord, scan.pred, scan.target, PICTURE, reach),
    }
    figures = "".join(
        f'<figure><img alt="{escape(f"{name}: {what}")}" width="{PICTURE}" height="{PICTURE}" '
        f'src="data:image/png;base64,{base64.b64encode(birdseye.png(picture)).decode()}">'
        f"<figcaption>{what}</figcaption></figure>"
        for what, picture in pictures.items()
    )
    wrong = "" if error is None else f", {percent(error)} % wrong"
    head = f"<h3>{escape(name)}{wrong}; {2 * reach:.0f} m across, seen from above</h3>"
    return f'<div class="scene">{head}<div class="three">{figures}</div></div>'
