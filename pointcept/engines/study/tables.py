"""The summary of a study as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOTES = """\
mIoU: one confusion matrix over all scenes of one seed, mean over the classes that occur in their ground truth; mean ±
standard deviation over seeds. Fold columns: mIoU over the classes that occur in that fold alone."""
TESTS = """\
Pooled: mean difference of that mIoU over common seeds; p: exact test in which any two runs of one seed and fold may
change places. Folds: mean difference of the mIoU of single folds over common folds × seeds ± half the 95 % interval of
Student's t; p: exact sign-flip test of these differences; the last column counts those above 0. Both ask whether other
seeds on these scenes would give the same answer; other scenes are not drawn."""


def markdown(summary: Mapping[str, Any]) -> str:
    """Tables of rows, differences, classes and ranges."""
    parts = [_rows(summary), NOTES]
    for baseline, differences in summary["differences"].items():
        if differences:
            parts += [f"Difference to `{baseline}`, in points of mIoU:", _differences(differences), TESTS]
    whole = {row: entry for row, entry in summary["rows"].items() if entry["seeds"]}
    if whole:
        parts += ["IoU by class [%]:", _classes(whole), "mIoU by distance from the sensor [%]:"]
        parts.append(_ranges(whole, summary["ranges"]))
    made = "; ".join(f"{key} {', '.join(values)}" for key, values in summary["made_with"].items())
    parts.append(f"{sum(summary['scans'].values())} scans; {made}.")
    if summary["missing"]:
        parts.append(f"{len(summary['missing'])} runs have no result: {', '.join(summary['missing'])}.")
    return "\n\n".join(parts) + "\n"


def _rows(summary: Mapping[str, Any]) -> str:
    folds = [f"fold {fold}" for fold in summary["folds"]]
    lines = [["row", "runs", "seeds", "mIoU [%]", "classes", "accuracy [%]", *folds, "s per run"]]
    for row, entry in summary["rows"].items():
        seeds = " ".join(map(str, entry["seeds"])) or "-"
        pooled = [_cell(entry.get("miou")), str(entry.get("classes", "-")), _cell(entry.get("accuracy"))]
        seconds = entry["seconds"]["mean"]
        last = "-" if seconds is None else f"{seconds:.0f}"
        lines.append([f"`{row}`", str(entry["runs"]), seeds, *pooled, *map(_cell, entry["folds"]), last])
    return _table(lines)


def _differences(differences: Mapping[str, Any]) -> str:
    lines = [["row", "seeds", "pooled", "p", "folds × seeds", "folds", "p", "above 0"]]
    for row, entry in differences.items():
        one = entry["by_fold"]
        width = f" ± {100 * one['half_width']:.2f}" if math.isfinite(one["half_width"]) else ""
        lines.append(
            [
                *(f"`{row}`", " ".join(map(str, entry["seeds"])) or "-"),
                *(_cell(entry.get("pooled"), "+"), _p(entry.get("p_pooled"))),
                *(str(one["n"]), f"{100 * one['mean']:+.2f}{width}" if one["n"] else "-", _p(one["p"])),
                f"{one['positive']} of {one['n']}",
            ]
        )
    return _table(lines)


def _classes(rows: Mapping[str, Any]) -> str:
    first = next(iter(rows.values()))
    lines = [["class", "points", *(f"`{row}`" for row in rows)]]
    for name in first["iou"]:
        lines.append([name, str(first["points"][name]), *(_cell(entry["iou"][name]) for entry in rows.values())])
    return _table(lines)


def _ranges(rows: Mapping[str, Any], cuts: Sequence[float]) -> str:
    edges = [0, *cuts]
    names = [f"{a:g}-{b:g} m" for a, b in zip(edges, cuts, strict=False)] + [f"{edges[-1]:g} m and more"]
    first = next(iter(rows.values()))["by_range"]
    lines = [["distance", "classes", "points", *(f"`{row}`" for row in rows)]]
    for i, name in enumerate(names):
        cells = [_cell(entry["by_range"][i]["miou"]) for entry in rows.values()]
        lines.append([name, str(first[i]["classes"]), str(first[i]["points"]), *cells])
    return _table(lines)


def _cell(figure: Mapping[str, Any] | None, sign: str = "") -> str:
    """Mean ± standard deviation in percent."""
    if figure is None or figure["mean"] is None or math.isnan(figure["mean"]):
        return "-"
    std = "" if figure["std"] is None else f" ± {100 * figure['std']:.2f}"
    return f"{100 * figure['mean']:{sign}.2f}{std}"


def _p(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])
