"""Results of several runs in one table: ``tools/compare.py``.

    python tools/compare.py teacher=exp/teacher student=exp/student

reads the JSON files that the tester writes. Only results on the same points, made in the same way, are put side by
side.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pointcept.evaluation.report import align, report_file
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import read_json

RESULT = report_file("precise")

MEANS = {"mIoU": "miou_present", "mIoU of all": "miou_all", "accuracy": "all_acc"}


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/compare.py``."""
    parser = argparse.ArgumentParser(description="Compare results of runs, and what the most frequent class would get.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]PATH",
        help=f"a run's save_path, with {RESULT} in it, or such a JSON file; NAME heads its column",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    return parser


def compare(runs: Iterable[str]) -> str:
    """The table of the runs that the command line names.

    Args:
        runs: ``NAME=PATH`` or ``PATH``, which is its own name.

    Raises:
        ConfigError: two runs of one name.
        DataError: a result is missing or malformed, or they are not comparable.
    """
    reports: dict[str, dict[str, Any]] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if name in reports:
            raise ConfigError(f"two runs are called {name!r}: give each a name of its own, NAME=PATH")
        reports[name] = read_report(path if equals else name)
    return format_comparison(reports) + "\n"


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a result.

    Args:
        path: a JSON file that the tester wrote, or the folder of a run.

    Raises:
        DataError: there is none, or it is none.
    """
    path = Path(path)
    file = path / RESULT if path.is_dir() else path
    try:
        report = read_json(file, parse_constant=_refuse)
    except OSError as error:
        raise DataError(f"no result {file} ({error.strerror}): tools/test.py writes one") from error
    keys = ("kind", "num_points", "num_classes_present", "majority_baseline", "classes")
    if not isinstance(report, dict) or not all(key in report for key in keys):
        raise DataError(f"{file} is no result of tools/test.py: it needs the keys {', '.join(keys)}")
    return report


def _refuse(constant: str) -> None:
    """Python would read NaN and Infinity, which the tester never writes, as numbers."""
    raise ValueError(f"{constant} is no number; undefined ones are null")


def format_comparison(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Aligned plain text: a column for each run and one for always predicting the most frequent class.

    The rows are the numbers of parameters, the means and the IoU of each class; in percent, ``-`` where undefined.

    Args:
        reports: name -> what :func:`read_report` gives, at least one.

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
