"""What the folder of a run holds, as far as it is there and whole; what is missing is said, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pointcept.evaluation.report import report_file
from pointcept.evaluation.worst import POINTS, ScanPoints, read_points
from pointcept.reports.events import read_events
from pointcept.utils.config_diff import parse_config
from pointcept.utils.errors import DataError
from pointcept.utils.files import read_json, read_regular
from pointcept.utils.scalars import ITERATION, SCALARS, read_scalars

Curve = list[tuple[int, float]]
T = TypeVar("T")

MOST_CONFIG = 2**24  # bytes
RESULT_KEYS = ("kind", "num_points", "num_classes_present", "majority_baseline", "classes")
HIDDEN = "wandb_key"  # of a person


@dataclass
class Run:
    """A run.

    Attributes:
        folder: where it is.
        curves: name of a scalar -> (iteration, value), in that order.
        config_text: the resolved config as Python.
        config: the same as a tree.
        environment: versions, machine, commit, command.
        results: ``precise`` and ``quick`` -> what the tester wrote.
        points: the scans with the most errors by name, the worst first.
        colours: ``#rrggbb`` of the classes; empty where nobody has chosen any.
        missing: what is not there or not whole, one sentence each.
    """

    folder: Path
    curves: dict[str, Curve] = field(default_factory=dict)
    config_text: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: dict[str, ScanPoints] = field(default_factory=dict)
    colours: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def result(self) -> dict[str, Any] | None:
        """The result to show: the precise one where there is one."""
        return self.results.get("precise") or self.results.get("quick")

    @property
    def iterations(self) -> int:
        """The last iteration that a scalar tells of."""
        return max((curve[-1][0] for curve in self.curves.values() if curve), default=0)

    def last(self, name: str) -> float | None:
        """The last value of a scalar."""
        curve = self.curves.get(name)
        return curve[-1][1] if curve else None

    def named(self, prefix: str) -> dict[str, Curve]:
        """The curves whose name begins with ``prefix``, which is taken away."""
        return {name.removeprefix(prefix): c for name, c in self.curves.items() if name.startswith(prefix) and c}


def read_run(folder: str | Path) -> Run:
    """Read the folder of a run.

    Raises:
        DataError: there is no such folder, or nothing of a run in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"no run {path}: {'it is a file, expected the folder of a run' if path.exists() else 'there is no such folder'}")  # fmt: skip  # noqa: E501
    run = Run(path)
    _read_curves(run)
    run.config_text = _part(run, "config.py", lambda p: read_regular(p, MOST_CONFIG).decode("utf-8", "replace"))
    if run.config_text is not None:
        run.config_text = "\n".join(line for line in run.config_text.splitlines() if not line.startswith(HIDDEN))
        try:
            run.config = parse_config(run.config_text)
        except ValueError as error:
            run.missing.append(f"config.py is {error}")
    run.environment = _part(run, "environment.json", read_environment) or {}
    for kind in ("precise", "quick"):
        file = report_file(kind)  # type: ignore[arg-type]
        if kind == "precise" or (path / file).exists():
            result = _part(run, str(file), read_result)
            if result is not None:
                run.results[kind] = result
    if (path / POINTS).exists():
        run.points, run.colours = _part(run, str(POINTS), read_points) or ({}, [])
    if not (run.curves or run.results or run.environment or run.config_text):
        raise DataError(
            f"{path} holds nothing of a run: {SCALARS}, config.py, environment.json and results are missing"
        )
    return run


def read_environment(path: Path) -> dict[str, Any]:
    """``environment.json`` of a run.

    Raises:
        DataError, OSError: it is damaged, or cannot be read.
    """
    facts: dict[str, Any] = read_json(path, ("torch", "git"))
    return facts


def read_result(path: str | Path) -> dict[str, Any]:
    """Read what the tester wrote.

    Raises:
        DataError: it is something else.
        OSError: it cannot be read.
    """
    report = read_json(path, parse_constant=_refuse)
    if not isinstance(report, dict) or not all(key in report for key in RESULT_KEYS):
        raise DataError(f"{path} is no result of tools/test.py: it needs the keys {', '.join(RESULT_KEYS)}")
    return report


def _refuse(constant: str) -> None:
    """Python would read NaN and Infinity, which the tester never writes, as numbers."""
    raise ValueError(f"{constant} is no number; undefined ones are null")


def _part(run: Run, name: str, read: Callable[[Path], T]) -> T | None:
    """One file of the run; None, with a word in ``run.missing``, where it is not there or not whole."""
    path = run.folder / name
    try:
        return read(path)
    except FileNotFoundError:
        run.missing.append(f"there is no {name}")
    except OSError as error:
        run.missing.append(f"{name} cannot be read: {error.strerror or error}")
    except DataError as error:
        run.missing.append(str(error))
    return None


def _read_curves(run: Run) -> None:
    path = run.folder / SCALARS
    if path.exists():
        entries, broken = _part(run, SCALARS, read_scalars) or ([], 0)
        if broken:
            run.missing.append(f"{broken} line{'s' * (broken > 1)} of {SCALARS} not whole (the run was killed there)")
        for entry in entries:
            for name, value in entry.items():
                if name != ITERATION and isinstance(value, (int, float)):
                    run.curves.setdefault(name, []).append((entry[ITERATION], float(value)))
        return
    run.curves = read_events(run.folder)
    if run.curves:
        run.missing.append(f"there is no {SCALARS} (an older run): the curves are those of its TensorBoard files")
    else:
        run.missing.append(f"there is no {SCALARS}, and no TensorBoard file in its place: there are no curves")


def teacher_of(config: Mapping[str, Any]) -> Path | None:
    """The folder of the run that a distillation's config takes its teacher's weights from, if that is there."""
    model = config.get("model")
    weights = model.get("teacher_weight") if isinstance(model, Mapping) else None
    first = weights[0] if isinstance(weights, (list, tuple)) and weights else weights
    if not isinstance(first, str):
        return None
    folder = Path(first).parent.parent
    return folder if first.endswith(".pth") and (folder / report_file("precise").parent).is_dir() else None
