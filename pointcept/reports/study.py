"""Results of studies and ablations, many runs each, as rows of figures."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.evaluation.paired import mean_iou
from pointcept.utils.errors import DataError
from pointcept.utils.files import read_json

ABLATION, RESULTS = "ablation.json", "results"
KEYS = ("row", "fold", "seed", "names", "matrices")


@dataclass(frozen=True)
class Row:
    """One recipe of a study.

    Attributes:
        name: of the recipe.
        values: mIoU of each seed (of a study over all folds), fractions.
        iou: class -> mean IoU over the seeds; empty where nobody has written it.
        note: what else is to say.
    """

    name: str
    values: tuple[float, ...]
    iou: Mapping[str, float]
    note: str = ""

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds, None below two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def is_study(path: Path) -> bool:
    """Whether a folder holds the results of a study or of an ablation."""
    return (path / ABLATION).is_file() or any(path.glob(f"{RESULTS}/*.fold*.json"))


def read_study(path: Path) -> list[Row]:
    """The rows of a study's folder, in the order of their first run.

    Raises:
        DataError: a result is damaged, or those of one fold have different classes.
    """
    try:
        if (path / ABLATION).is_file():
            return _ablation(read_json(path / ABLATION, ("rows",))["rows"])
        return _study([read_json(file, KEYS) for file in sorted((path / RESULTS).glob("*.fold*.json"))])
    except OSError as error:
        raise DataError(f"the study {path} cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the results of {path} are damaged or of another version: {error!r}") from error


def _ablation(rows: Mapping[str, Any]) -> list[Row]:
    figure = "precise" if any(entry["precise"]["n"] for entry in rows.values()) else "last_quick"
    found = []
    for name, entry in rows.items():
        values = [run[figure] for run in entry["runs"].values() if run.get(figure) is not None]
        found.append(Row(name, tuple(values), {}, f"{' + '.join(['seg', *entry['losses']])}; {figure}"))
    return found


def _study(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    names = results[0]["names"]
    folds = {result["fold"] for result in results}
    counts: dict[str, dict[int, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        if result["names"] != names:
            raise DataError(f"the results of row {result['row']} have other classes than those of {results[0]['row']}")
        scenes = [np.array(parts).sum(axis=0) for parts in result["matrices"].values()]
        counts[result["row"]][result["seed"]][result["fold"]] = np.sum(scenes, axis=0)
    rows = []
    for row, seeds in counts.items():
        whole = {seed: np.sum(list(own.values()), axis=0) for seed, own in seeds.items() if own.keys() == folds}
        partial = len(seeds) - len(whole)
        note = f"{len(folds)} folds" + (f", {partial} seeds lack folds and do not count" if partial else "")
        rows.append(
            Row(row, tuple(float(mean_iou(c)) for c in whole.values()), _by_class(list(whole.values()), names), note)
        )
    return rows


def _by_class(counts: Sequence[Any], names: Sequence[str]) -> dict[str, float]:
    if not counts:
        return {}
    stacked = np.stack(counts)  # (S, K, K)
    hit = np.diagonal(stacked, axis1=1, axis2=2)
    target, union = stacked.sum(2), stacked.sum(2) + stacked.sum(1) - hit
    mean = (hit / np.maximum(union, 1)).mean(axis=0)
    return {name: float(mean[i]) for i, name in enumerate(names) if target[:, i].any()}
