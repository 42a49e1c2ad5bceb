"""How like the real scans the synthetic ones are: class shares, ranges, rings, intensities."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pointcept.utils.errors import DataError

from ..semantic_kitti import CLASSES, label_table

IGNORED = len(CLASSES)
RANGE_EDGES = np.array([0, 5, 10, 15, 20, 30, 40, 50, 60, 120.0])
INTENSITY_EDGES = np.linspace(0, 1, 21)
ELEVATION_EDGES = np.linspace(-26, 4, 31)


@dataclass
class Statistics:
    """Sums over scans in the SemanticKITTI layout.

    Attributes:
        scans: number of scans.
        points: (C+1,) points of each class, the last entry those without a class.
        ranges: (C+1,R) points of each class in the bins of ``RANGE_EDGES``.
        intensities: (C+1,I) points of each class in the bins of ``INTENSITY_EDGES``.
        intensity_sums: (C+1,2) sums of intensity and its square.
        elevations: (E,) points in the bins of ``ELEVATION_EDGES`` [deg].
    """

    scans: int
    points: np.ndarray
    ranges: np.ndarray
    intensities: np.ndarray
    intensity_sums: np.ndarray
    elevations: np.ndarray

    def shares(self) -> np.ndarray:
        """(C+1,) percent of all points."""
        return 100 * self.points / max(self.points.sum(), 1)

    def intensity(self) -> tuple[np.ndarray, np.ndarray]:
        """(C+1,) mean and standard deviation of the intensity of each class; NaN where it has no points."""
        n = np.where(self.points > 0, self.points, np.nan)
        mean = self.intensity_sums[:, 0] / n
        return mean, np.sqrt(np.maximum(self.intensity_sums[:, 1] / n - mean**2, 0))


def measure(root: Path, every: int = 1) -> Statistics:
    """Statistics of the labelled scans (every ``every``-th) below ``root/dataset/sequences``.

    Raises:
        DataError: there are none.
    """
    files = sorted((Path(root) / "dataset" / "sequences").glob("*/labels/*.label"))[::every]
    if not files:
        raise DataError(f"no labelled scans in {root}/dataset/sequences/XX/labels")
    c = IGNORED + 1
    table = label_table(IGNORED)
    total = Statistics(
        len(files), np.zeros(c), np.zeros((c, len(RANGE_EDGES) - 1)), np.zeros((c, len(INTENSITY_EDGES) - 1)),
        np.zeros((c, 2)), np.zeros(len(ELEVATION_EDGES) - 1),
    )  # fmt: skip
    for file in files:
        raw = np.fromfile(file, np.uint32) & 0xFFFF
        points = np.fromfile(file.parent.parent / "velodyne" / f"{file.stem}.bin", np.float32).reshape(-1, 4)
        label = np.maximum(table[raw], 0)
        distance = np.linalg.norm(points[:, :3], axis=1)
        total.points += np.bincount(label, minlength=c)
        total.ranges += np.histogram2d(label, distance, [np.arange(c + 1), RANGE_EDGES])[0]
        total.intensities += np.histogram2d(label, points[:, 3], [np.arange(c + 1), INTENSITY_EDGES])[0]
        for power in (1, 2):
            total.intensity_sums[:, power - 1] += np.bincount(label, points[:, 3].astype(np.float64) ** power, c)
        elevation = np.degrees(np.arcsin(points[:, 2] / np.maximum(distance, 1e-3)))
        total.elevations += np.histogram(elevation, ELEVATION_EDGES)[0]
    return total


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Common area of two histograms after normalisation: 1 for equal ones, 0 for disjoint ones."""
    if not a.sum() or not b.sum():
        return float("nan")
    return float(np.minimum(a / a.sum(), b / b.sum()).sum())


def compare(real_root: Path, synthetic_root: Path) -> str:
    """A plain-text table that compares two data sets in the SemanticKITTI layout."""
    real, made = measure(real_root), measure(synthetic_root)
    names = [*CLASSES, "(no class)"]
    columns = ("class", "share %", "", "intensity", "", "spread", "", "overlap of", "")
    kinds = ("", "real", "made", "real", "made", "real", "made", "ranges", "intens.")
    lines = ["".join(f"{c:>11}" for c in row) for row in (columns, kinds)]
    (real_mean, real_std), (made_mean, made_std) = real.intensity(), made.intensity()
    for i, name in enumerate(names):
        values = (real.shares()[i], made.shares()[i], real_mean[i], made_mean[i], real_std[i], made_std[i])
        likeness = (overlap(real.ranges[i], made.ranges[i]), overlap(real.intensities[i], made.intensities[i]))
        lines.append(f"{name:>13}" + "".join(f"{v:11.2f}"[2 * (k == 0) :] for k, v in enumerate((*values, *likeness))))
    lines.append("")
    lines.append(f"scans: {real.scans} real, {made.scans} synthetic")
    lines.append(
        f"points per scan: {real.points.sum() / real.scans:.0f} real, {made.points.sum() / made.scans:.0f} synthetic"
    )
    edges = [f"{int(a)}-{int(b)}" for a, b in pairwise(RANGE_EDGES)]
    lines.append("range [m]     " + "".join(f"{e:>8}" for e in edges))
    for label, s in (("real", real), ("made", made)):
        share = 100 * s.ranges.sum(0) / s.ranges.sum()
        lines.append(f"  {label} %      " + "".join(f"{v:8.1f}" for v in share))
    for what, a, b in (
        ("class shares", real.points, made.points),
        ("ranges", real.ranges.sum(0), made.ranges.sum(0)),
        ("elevations", real.elevations, made.elevations),
        ("intensities", real.intensities.sum(0), made.intensities.sum(0)),
    ):
        lines.append(f"overlap of {what}: {overlap(a, b):.3f}")
    return "\n".join(lines) + "\n"
