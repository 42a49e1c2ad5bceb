"""From the fields of a cloud to what networks read: coordinates [m] with z up, strengths from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pointcept.datasets.transform.points import Sample
from pointcept.utils.errors import DataError

from .cloud import Cloud, CloudOptions
from .sensor import Sensor, ground_height

TURNS: dict[str, tuple[tuple[int, int], ...]] = {
    "z": ((0, 1), (1, 1), (2, 1)),
    "-z": ((0, 1), (1, -1), (2, -1)),
    "y": ((0, 1), (2, -1), (1, 1)),
    "-y": ((0, 1), (2, 1), (1, -1)),
    "x": ((2, -1), (1, 1), (0, 1)),
    "-x": ((2, 1), (1, 1), (0, -1)),
}
"""Axis that points up -> which axis, with which sign, becomes x, y and z: turns, no reflections."""

SCALES = (1.0, 255.0, 65535.0)
"""Intensities that become strength 1, where nobody says which."""


@dataclass(frozen=True)
class Frame:
    """What a cloud has become.

    Args:
        sample: coord float32 (N, 3) [m], strength float32 (N, 1).
        kept: which points of the file they are, bool (M,) with N True; None: all.
        notes: kind -> what the user should know, as a sentence.
    """

    sample: Sample
    kept: np.ndarray | None
    notes: dict[str, str]


def to_frame(cloud: Cloud, options: CloudOptions, trained: Sensor | None, nonfinite: str = "drop") -> Frame:
    """Bring a cloud into the frame in which a network has learned.

    A cloud that does not hold the origin between its lowest and highest x and y has the coordinates of a map, while
    networks know those of a sensor: it is moved so that its middle, at the height where training had the ground, is
    the origin.

    Args:
        cloud: as it was read.
        options: what the user says about it.
        trained: the sensor of the training data; None: nothing is known of it.
        nonfinite: points with NaN or infinite values: "drop" them, or "raise".

    Raises:
        DataError: a field is missing, no point is finite, some are not and ``nonfinite`` is "raise", or intensities
            are negative.
    """
    coord, notes = cloud.coord(options.fields), {}
    name = cloud.find("intensity", options.fields)
    finite = np.isfinite(coord).all(axis=1)
    if name is not None and cloud.fields[name].dtype.kind == "f":
        finite &= np.isfinite(cloud.fields[name])
    kept = None if finite.all() else finite
    if kept is not None:
        lost = f"{len(kept) - kept.sum()} of {len(kept)} points have NaN or infinite values"
        if nonfinite == "raise" or not kept.any():
            raise DataError(lost if kept.any() else f"{lost}: no point is left")
        notes["nonfinite"] = f"{lost} and get no class"
        coord = coord[kept]
    coord, moved = _placed(turn(coord, options.up), options, trained)
    notes.update(moved)
    if name is None:
        constant, notes["intensity"] = _constant(options, trained)
        strength = np.full(len(coord), constant, np.float32)
    else:
        values = cloud.fields[name]
        strength = to_strength(values if kept is None else values[kept], options.intensity_scale)
    sample = {"coord": coord.astype(np.float32), "strength": np.ascontiguousarray(strength).reshape(-1, 1)}
    return Frame(sample, kept, notes)


def turn(coord: np.ndarray, up: str) -> np.ndarray:
    """Turn coordinates (N, 3) so that the axis ``up`` becomes z."""
    if up == "z":
        return coord
    return np.stack([sign * coord[:, axis] for axis, sign in TURNS[up]], axis=1)


def _placed(coord: np.ndarray, options: CloudOptions, trained: Sensor | None) -> tuple[np.ndarray, dict[str, str]]:
    """Coordinates with the ground where training had it, if the user gives a height, and with the origin inside."""
    low, high = coord[:, :2].min(axis=0), coord[:, :2].max(axis=0)
    ground = trained.ground if trained is not None and trained.ground is not None else 0.0
    if (low <= 0).all() and (high >= 0).all():
        if options.sensor_height is None:
            return coord, {}
        lift = ground + options.sensor_height
        return (coord, {}) if lift == 0 else (coord + np.array([0, 0, lift], coord.dtype), {})
    middle = np.append((low.astype(np.float64) + high) / 2, 0.0)
    local = coord - middle
    found = -options.sensor_height if options.sensor_height is not None else ground_height(local)
    middle[2] = found - ground
    local[:, 2] -= middle[2]
    place = ", ".join(f"{value:.2f}" for value in middle)
    note = f"the origin lies outside the cloud, as in coordinates of a map: ({place}) is taken for the sensor"
    return local, {"origin": note}


def _constant(options: CloudOptions, trained: Sensor | None) -> tuple[float, str]:
    """The strength of points without intensity, and what to tell of it."""
    if options.intensity is not None:
        return options.intensity, f"no intensity: all points get the strength {options.intensity:g}, as you say"
    known = trained.strength if trained is not None else None
    value = 0.0 if known is None else known
    source = "nothing is known of the training data" if known is None else "the mean of the training data"
    return value, (
        f"no intensity: all points get the strength {value:g} ({source}); expect worse classes than with a network "
        "trained without it"
    )


def to_strength(intensity: np.ndarray, scale: float | None) -> np.ndarray:
    """Strengths float32 (N,) of intensities (N,).

    Args:
        intensity: finite numbers.
        scale: the intensity that becomes 1; None: the first of ``SCALES`` that the largest one does not exceed, of
            integers the first above 1.

    Raises:
        DataError: intensities are negative, or exceed all of ``SCALES``, or the scale that the user gives.
    """
    low, high = float(intensity.min()), float(intensity.max())
    if scale is None:
        fitting = [one for one in SCALES[intensity.dtype.kind in "iub" :] if high <= one]
        scale = fitting[0] if fitting else 0.0
    if low < 0 or high > scale:
        limit = f"{scale:g}" if scale else f"{SCALES[-1]:g}"
        raise DataError(f"its intensities go from {low:g} to {high:g}, expected 0 to {limit}: say their scale")
    if scale == 1.0 and intensity.dtype == np.float32:
        return intensity
    return (intensity.astype(np.float64) / scale).astype(np.float32)
