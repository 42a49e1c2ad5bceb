"""Results of several runs in one table of text.

Only those on the same points, made in the same way, stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pointcept.evaluation.report import align
from pointcept.reports.report import read_precise
from pointcept.utils.errors import ConfigError, DataError

MEANS = {"mIoU": "miou_present", "mIoU of all": "miou_all", "accuracy": "all_acc"}


def compare(runs: Iterable[str]) -> str:
    """The table of the runs that the command line names.

    Args:
        runs: ``NAME=PATH`` or ``PATH``, which is its own name.

    Raises:
        ConfigError: two runs of one name.
        DataError: a result is missing or malformed, or they are not comparable.
    """
    reports: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if name in reports:
            raise ConfigError(f"two runs are called {name!r}: give each a name of its own, NAME=PATH")
        reports[name] = read_precise(path if equals else name)
    return format_comparison(reports) + "\n"


def format_comparison(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Aligned plain text: a column for each run and one for always predicting the most frequent class.

    The rows are the numbers of parameters, the means and the IoU of each class; in percent, ``-`` where undefined.

    Args:
        reports: name -> what :func:`read_precise` gives, at least one.

    Raises:
        DataError: they were evaluated on different points or in different ways.
    """
    _check_comparable(reports)
    runs = list(reports.values())
    kind, first = runs[0]["kind"], runs[0]
    base = first["majority_baseline"]
    counts = {"mIoU": first["num_classes_present"], "mIoU of all": len(first["classes"])}
    rows = [[f"{kind}, {first['num_scans']} scans [%]", *reports, f"always {base['class']!r}"]]
    rows.append(["parameters [M]", *(_millions(run.get("parameters")) for run in runs), "-"])
    for label, key in MEANS.items():
        title = f"{label}, {counts[label]} classes" if label in counts else label
        rows.append([title, *(_percent(run[f"{key}_{kind}"]) for run in runs), _percent(base[key])])
    means = len(rows)
    for i, entry in enumerate(first["classes"]):
        always = base["all_acc"] if entry["name"] == base["class"] else 0.0 if entry["points"] else None
        rows.append([entry["name"], *(_percent(run["classes"][i][f"iou_{kind}"]) for run in runs), _percent(always)])
    return "\n".join(align(rows, means))


def _check_comparable(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """The results are of one kind, and of scans with the same points of the same classes."""
    (name, first), *others = reports.items()
    for other, report in others:
        if report["kind"] != first["kind"]:
            raise DataError(f"{name} is a {first['kind']} result, {other} a {report['kind']} one: not comparable")
        theirs, ours = ({c["name"]: c["points"] for c in r["classes"]} for r in (report, first))
        if theirs != ours:
            different = next(c for c in (*ours, *theirs) if ours.get(c) != theirs.get(c))
            raise DataError(
                f"{name} and {other} were evaluated on different points: {ours.get(different, 0)} and"
                f" {theirs.get(different, 0)} of class {different!r}"
            )


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"
