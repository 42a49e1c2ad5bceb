"""What a sensor's scans look like in four numbers, and how those of another sensor differ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CELL = 2.0
"""Edge [m] of the cells in which the lowest point is looked for."""
NEAR = 30.0
"""Horizontal distance [m] up to which the ground is looked for."""


class Sensor(NamedTuple):
    """Numbers of a data set's scans; None where they are not known.

    Args:
        points: of a scan.
        reach: horizontal distance [m] within which 95 % of the points lie.
        ground: height [m] of the ground in the coordinates of the scans.
        strength: its mean.
    """

    points: int | None = None
    reach: float | None = None
    ground: float | None = None
    strength: float | None = None


def measure(coord: np.ndarray, strength: np.ndarray) -> Sensor:
    """Measure one scan.

    Args:
        coord: (N, 3) [m], z up, N > 0.
        strength: (N, 1).
    """
    reach = float(np.percentile(np.hypot(coord[:, 0], coord[:, 1]), 95))
    return Sensor(len(coord), reach, ground_height(coord), float(strength.mean()))


def ground_height(coord: np.ndarray) -> float:
    """Height of the ground [m]: the median over cells of the lowest point in each, near the origin if there are any.

    Args:
        coord: (N, 3) [m], z up, N > 0.
    """
    near = np.hypot(coord[:, 0], coord[:, 1]) < NEAR
    points = coord[near] if near.any() else coord
    cells = np.floor(points[:, :2] / CELL).astype(np.int64)
    order = np.lexsort((points[:, 2], cells[:, 1], cells[:, 0]))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(cells[order], axis=0) != 0).any(axis=1)
    return float(np.median(points[order][first, 2]))


def differences(scan: Sensor, trained: Sensor) -> dict[str, str]:
    """Kind -> how a scan differs from those that a network was trained on; empty if it looks like one of them.

    Classes suffer from each; docs/predict.md says what helps.
    """
    found: dict[str, str] = {}
    if trained.points and scan.points and not 0.25 <= scan.points / trained.points <= 4:
        found["points"] = f"{scan.points} points, in training about {trained.points}"
    if trained.reach and scan.reach and not 0.5 <= scan.reach / trained.reach <= 2:
        found["reach"] = f"95 % of the points within {scan.reach:.1f} m, in training within {trained.reach:.1f} m"
    if trained.ground is not None and scan.ground is not None and abs(scan.ground - trained.ground) > 0.7:
        found["ground"] = (
            f"the ground seems to lie at z = {scan.ground:.1f} m, in training at {trained.ground:.1f} m: say the "
            "height of the sensor"
        )
    if trained.strength and scan.strength is not None and not 0.33 <= scan.strength / trained.strength <= 3:
        found["strength"] = f"mean strength {scan.strength:.3f}, in training {trained.strength:.3f}"
    return found
