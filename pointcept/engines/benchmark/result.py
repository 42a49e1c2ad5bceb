"""What a command measured, as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pointcept.engines.benchmark.kernels import KernelTime
from pointcept.engines.benchmark.measure import Row
from pointcept.engines.benchmark.plan import Settings
from pointcept.engines.benchmark.stages import StageCost
from pointcept.engines.benchmark.table import growth
from pointcept.utils.errors import DataError
from pointcept.utils.files import read_json, write_text_atomic


@dataclass(frozen=True)
class Result:
    """The rows, and how they came about.

    Attributes:
        environment: of :func:`pointcept.utils.env.collect_environment`.
        settings: of all rows.
        rows: with their ratios.
    """

    environment: Mapping[str, Any]
    settings: Settings
    rows: Sequence[Row]


def write_result(path: Path, result: Result) -> None:
    """Write the result and the growth of its costs."""
    text = json.dumps({**asdict(result), "growth": [asdict(law) for law in growth(result.rows)]}, indent=2)
    write_text_atomic(path, text + "\n")


def read_result(path: Path) -> Result:
    """Read what :func:`write_result` wrote.

    Raises:
        DataError: there is no such file, or it is something else.
    """
    try:
        saved = read_json(path, ("rows", "environment", "settings"))
        rows = [_row(**row) for row in saved["rows"]]
        return Result(saved["environment"], Settings(**saved["settings"]), rows)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: no result of tools/benchmark.py: {type(error).__name__}: {error}") from error


def _row(top: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]] = (), **numbers: Any) -> Row:
    return Row(
        **numbers,
        top=tuple(KernelTime(**kernel) for kernel in top),
        stages=tuple(StageCost(**stage) for stage in stages),
    )
