"""Metrics as a text table for the log and as JSON for programs.

Every figure says how it was made. ``quick``: one pass over the voxels that the network sees, as
during training; scored on every point of the raw scan where the batch has ``inverse`` and
``origin_segment``, else on the voxels. ``precise``: every point of the raw scan, by the votes of
fragments, with test-time augmentation if the config has it; the figure to publish. The two are
not comparable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pointcept.evaluation.metrics import Metrics
from pointcept.utils.files import write_text_atomic

Kind = Literal["quick", "precise"]


def format_table(metrics: Metrics, kind: Kind) -> str:
    """Aligned plain text: one row for each class, then the means and the majority baseline.

    Args:
        metrics: what to print; shown in percent, ``-`` where undefined.
        kind: how it was evaluated.

    Raises:
        ValueError: an unknown kind.
    """
    _check(kind)
    m, base = metrics, metrics.baseline
    rows = [["class", f"IoU {kind} [%]", f"acc {kind} [%]", f"precision {kind} [%]", "points", "predicted"]]
    for i, name in enumerate(m.names):
        fractions = [_percent(m.iou[i]), _percent(m.accuracy[i]), _percent(m.precision[i])]
        rows.append([name, *fractions, str(m.target_count[i]), str(m.pred_count[i])])
    present = f"mean over {sum(m.present())} present"
    rows.append([present, _percent(m.miou_present), _percent(m.macc_present), "", str(m.num_points), ""])
    rows.append([f"mean over all {len(m.names)}", _percent(m.miou_all), _percent(m.macc_all), "", "", ""])
    rows.append(["all points", "", _percent(m.all_acc), "", "", ""])
    if base.name:
        always = f"always {base.name!r}"
        rows.append([f"{always}, mean over present", _percent(base.miou_present), "", "", "", ""])
        rows.append([f"{always}, mean over all", _percent(base.miou_all), "", "", "", ""])
        rows.append([f"{always}, all points", "", _percent(base.all_acc), "", "", ""])
    return "\n".join([_title(m, kind), *align(rows, 1 + len(m.names))])


def report_dict(metrics: Metrics, kind: Kind, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything in ``metrics`` as plain JSON types, undefined figures as None.

    Args:
        metrics: what to report, as fractions.
        kind: how it was evaluated; the means carry it in their names, as in ``miou_present_precise``.
        extra: further entries, such as ``{"weight": "exp/a/model_best.pth"}``.

    Raises:
        ValueError: an unknown kind, or an extra entry with the name of a figure.
    """
    _check(kind)
    m = metrics
    means = ("miou_present", "miou_all", "macc_present", "macc_all", "all_acc")
    report: dict[str, Any] = {
        "kind": kind,
        "num_scans": m.num_scans,
        "num_points": m.num_points,
        "num_classes": len(m.names),
        "num_classes_present": sum(m.present()),
        **{f"{name}_{kind}": getattr(m, name) for name in means},
        "majority_baseline": {
            "class": m.baseline.name or None,
            "miou_present": m.baseline.miou_present,
            "miou_all": m.baseline.miou_all,
            "all_acc": m.baseline.all_acc,
        },
        "classes": [
            {
                "name": name,
                f"iou_{kind}": m.iou[i],
                f"acc_{kind}": m.accuracy[i],
                f"precision_{kind}": m.precision[i],
                "points": m.target_count[i],
                "predicted": m.pred_count[i],
            }
            for i, name in enumerate(m.names)
        ],
    }
    clash = report.keys() & (extra or {}).keys()
    if clash:
        raise ValueError(f"extra: got {sorted(clash)}, which are names of the report itself")
    plain: dict[str, Any] = without_nan({**report, **(extra or {})})
    return plain


def report_file(kind: Kind) -> Path:
    """Where the tester writes the report of a run, below the folder of the run."""
    return Path("result") / f"miou_{kind}.json"


def write_report(path: str | Path, metrics: Metrics, kind: Kind, extra: Mapping[str, Any] | None = None) -> Path:
    """Write :func:`report_dict` as JSON, whole or not at all."""
    text = json.dumps(report_dict(metrics, kind, extra), indent=2, allow_nan=False)
    return write_text_atomic(path, text + "\n")


def _check(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"kind: got {kind!r}, allowed: {' or '.join(map(repr, get_args(Kind)))}")


def _title(m: Metrics, kind: str) -> str:
    return (
        f"{kind} evaluation of {m.num_scans} scans, {m.num_points} points: mIoU {kind} {_percent(m.miou_present)} % "
        f"over the {sum(m.present())} of {len(m.names)} classes present"
    )


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def align(rows: list[list[str]], rule_above: int) -> list[str]:
    """Lines of a table: first column to the left, the others to the right, rules below the head and above one row.

    Args:
        rows: cells, the head first, all of one length.
        rule_above: number of the row that gets the second rule.
    """
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:rule_above], rule, *lines[rule_above:]]


def without_nan(value: Any) -> Any:
    """The same dicts and lists with None for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
