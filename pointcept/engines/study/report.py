"""From the results of runs to means, spreads and differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pointcept.engines import ablation
from pointcept.engines.study.jobs import finished
from pointcept.engines.study.plan import Run
from pointcept.evaluation import ConfusionMatrix, Metrics
from pointcept.evaluation.paired import mean_iou, paired_difference, swap_p
from pointcept.utils.errors import DataError

Counts = dict[int, dict[int, np.ndarray]]


@dataclass
class Measured:
    """What the finished runs of a study have counted.

    Attributes:
        names: classes, K of them.
        ranges: where the distance from the sensor is cut [m].
        folds: those that were asked for and have a scene that counts.
        counts: row -> seed -> fold -> (R, K, K), one confusion matrix per range, over the scenes of the fold.
        scans: scene -> how many.
        seconds: row -> of each finished run, the last process of those that were interrupted.
        missing: names of the runs without a result.
        made_with: commits, versions of torch and devices of the runs.
    """

    names: list[str]
    ranges: list[float]
    folds: list[int]
    counts: dict[str, Counts]
    scans: dict[str, int]
    seconds: dict[str, list[float]]
    missing: list[str]
    made_with: dict[str, list[str]]

    def complete_seeds(self, row: str) -> list[int]:
        """The seeds of a row of which every fold is there."""
        return [seed for seed, folds in self.counts[row].items() if folds.keys() >= set(self.folds)]

    def stack(self, row: str, seeds: Sequence[int]) -> np.ndarray:
        """(S, F, R, K, K) counts of complete seeds."""
        return np.stack([[self.counts[row][seed][fold] for fold in self.folds] for seed in seeds])


def collect(runs: Sequence[Run], leave_out: Iterable[str] = ()) -> Measured:
    """Read the results of runs.

    Args:
        runs: finished or not.
        leave_out: scenes that do not count.

    Raises:
        ConfigError: a result of another recipe.
        DataError: no result at all, a scene that is not there, or rows that were judged by different points.
    """
    results = {run.name: finished(run) for run in runs}
    there = [(run, result) for run in runs if (result := results[run.name]) is not None]
    if not there:
        raise DataError(f"no run has a result yet in {runs[0].result.parent}")
    out = {str(scene) for scene in leave_out}
    unknown = out - {str(scene) for run in runs for scene in run.scenes}
    if unknown:
        raise DataError(f"--leave-out {' '.join(sorted(unknown))}: no run predicts it")
    counts: dict[str, Counts] = {run.row: {} for run in runs}
    seconds: dict[str, list[float]] = {run.row: [] for run in runs}
    for run, result in there:
        kept = [np.array(parts) for scene, parts in result["matrices"].items() if scene not in out]
        if kept:
            counts[run.row].setdefault(run.seed, {})[run.fold] = np.sum(kept, axis=0)
            seconds[run.row].append(result["seconds"])
    folds = sorted({run.fold for run in runs if {str(scene) for scene in run.scenes} - out})
    _check_points(counts, folds)
    first = there[0][1]
    return Measured(
        names=first["names"],
        ranges=first["ranges"],
        folds=folds,
        counts=counts,
        scans={scene: number for _, result in there for scene, number in result["scans"].items() if scene not in out},
        seconds=seconds,
        missing=[name for name, result in results.items() if result is None],
        made_with={key: sorted({str(result[key]) for _, result in there}) for key in ("commit", "torch", "device")},
    )


def _check_points(counts: Mapping[str, Counts], folds: Sequence[int]) -> None:
    """Check that a fold has the same points in all runs."""
    for fold in folds:
        seen = {
            (row, seed): own[fold].sum(axis=(0, 2)).tolist()
            for row, seeds in counts.items()
            for seed, own in seeds.items()
            if fold in own
        }
        if len({tuple(points) for points in seen.values()}) > 1:
            one, other = next((a, b) for a in seen for b in seen if seen[a] != seen[b])
            raise DataError(
                f"fold {fold}: row {one[0]} seed {one[1]} and row {other[0]} seed {other[1]} were judged by different "
                f"points: {seen[one]} and {seen[other]} per class"
            )


def summarise(measured: Measured, baselines: Sequence[str]) -> dict[str, Any]:
    """Everything that the tables show, as plain JSON types.

    Args:
        measured: see :func:`collect`.
        baselines: rows with which the others are compared, as far as they have results.
    """
    rows = {row: _row(measured, row) for row, seeds in measured.counts.items() if seeds}
    return {
        "metric": "miou_present, quick",
        "names": measured.names,
        "ranges": measured.ranges,
        "folds": measured.folds,
        "scans": measured.scans,
        "made_with": measured.made_with,
        "missing": measured.missing,
        "rows": rows,
        "differences": {
            baseline: {row: _difference(measured, row, baseline) for row in rows if row != baseline}
            for baseline in baselines
            if baseline in rows
        },
    }


def _row(measured: Measured, row: str) -> dict[str, Any]:
    """The figures of a row; pooled ones over its complete seeds."""
    seeds = measured.complete_seeds(row)
    by_fold = [
        spread(float(mean_iou(own[fold].sum(0))) for own in measured.counts[row].values() if fold in own)
        for fold in measured.folds
    ]
    entry: dict[str, Any] = {
        "runs": sum(len(own) for own in measured.counts[row].values()),
        "seeds": seeds,
        "seconds": spread(measured.seconds[row]),
        "folds": by_fold,
    }
    if not seeds:
        return entry
    pooled = measured.stack(row, seeds).sum(1)  # (S, R, K, K)
    metrics = [_metrics(counts.sum(0), measured.names) for counts in pooled]
    present = metrics[0].present()
    entry.update(
        miou=spread(m.miou_present for m in metrics),
        accuracy=spread(m.all_acc for m in metrics),
        classes=sum(present),
        iou={name: spread(m.iou[i] for m in metrics) for i, name in enumerate(measured.names) if present[i]},
        points=dict(zip(measured.names, metrics[0].target_count, strict=True)),
        by_range=[
            {
                "miou": spread(mean_iou(pooled[:, part])),
                "classes": int((pooled[0, part].sum(1) > 0).sum()),
                "points": int(pooled[0, part].sum()),
            }
            for part in range(pooled.shape[1])
        ],
        confusion=pooled.sum((0, 1)).tolist(),
    )
    return entry


def spread(values: Iterable[float]) -> dict[str, Any]:
    """n, mean and standard deviation of those values that are numbers."""
    return ablation.spread([float(value) for value in values if math.isfinite(value)])


def _metrics(counts: np.ndarray, names: Sequence[str]) -> Metrics:
    matrix = ConfusionMatrix(len(names), names=names)
    matrix.counts += torch.from_numpy(counts)
    return matrix.compute()


def _difference(measured: Measured, row: str, baseline: str) -> dict[str, Any]:
    """A row against another: over folds x seeds that both have, and pooled over the seeds that both have whole."""
    ours, theirs = measured.counts[row], measured.counts[baseline]
    pairs = [
        (ours[seed][fold], theirs[seed][fold])
        for seed in ours.keys() & theirs.keys()
        for fold in measured.folds
        if fold in ours[seed] and fold in theirs[seed]
    ]
    differences = [float(mean_iou(a.sum(0)) - mean_iou(b.sum(0))) for a, b in pairs]
    entry: dict[str, Any] = {"by_fold": asdict(paired_difference(differences)), "seeds": []}
    seeds = [seed for seed in measured.complete_seeds(row) if seed in measured.complete_seeds(baseline)]
    if seeds:
        a, b = (measured.stack(name, seeds).sum(2) for name in (row, baseline))
        pooled = mean_iou(a.sum(1)) - mean_iou(b.sum(1))
        entry.update(seeds=seeds, pooled=spread(pooled), p_pooled=swap_p(a, b))
    return entry
