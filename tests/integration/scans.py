"""Scans on disk in SemanticKITTI's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

RAW = np.array([0, 1, 10, 40, 48, 50, 70, 72, 80, 252], np.uint32)


def write_scan(root: Path, sequence: str, frame: int, points: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Write one scan.

    Args:
        points: float (N, 4).
        labels: raw labels, of any length; some of each kind by default.
    """
    folder = root / "dataset" / "sequences" / sequence
    for kind in ("velodyne", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    points.astype(np.float32).tofile(folder / "velodyne" / f"{frame:06d}.bin")
    labels = RAW[np.arange(len(points)) % len(RAW)] if labels is None else labels
    labels.astype(np.uint32).tofile(folder / "labels" / f"{frame:06d}.label")
