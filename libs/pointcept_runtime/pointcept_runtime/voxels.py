"""From points to the voxels that a network reads, as the validation transforms of its training do it.

Where training draws a random point of each voxel, this takes the first one, so that a scan always gets the same labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pointcept_runtime.card import Card
from pointcept_runtime.errors import ScanError

MAX_VOXELS = (1 << 16) - 1
"""Voxels along an axis: the curves have 16 levels."""

RESOLUTION = 0.01
"""Coarsest spacing of float32 [m] that a whole scan may be given with."""


class Voxels(NamedTuple):
    """One row for each voxel, ascending by (x, y, z).

    ``grid`` (M, 3) int64 >= 0; ``feat`` (M, C) float32 of the first point of each; ``inverse`` (N,) int64, the voxel of
    every point.
    """

    grid: np.ndarray
    feat: np.ndarray
    inverse: np.ndarray


def check_points(points: Any, strength_range: tuple[float, float] | None) -> np.ndarray:
    """Points as a float array (N, 4).

    Raises:
        ScanError: another shape, no real numbers, no point, values that are not finite, or strengths out of range.
    """
    try:
        array = np.asarray(points)
    except ValueError as error:
        raise ScanError(f"points must be (N, 4): x, y, z [m], strength; got rows that do not fit: {error}") from None
    if array.dtype.kind not in "fiu" or array.dtype == np.float16:
        raise ScanError(f"points must be (N, 4) float32 or float64: x, y, z [m], strength; got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 4 or len(array) == 0:
        raise ScanError(f"points must be (N, 4): x, y, z [m], strength, N > 0; got {array.shape}")
    array = array if array.dtype == np.float32 else array.astype(np.float64)
    with np.errstate(over="ignore"):
        bad = int((~np.isfinite(array.astype(np.float32, copy=False)).all(axis=1)).sum())
    if bad:
        raise ScanError(f"{bad} of {len(array)} points have values that are not finite: leave them out")
    if strength_range is not None:
        low, high = float(array[:, 3].min()), float(array[:, 3].max())
        if low < strength_range[0] or high > strength_range[1]:
            raise ScanError(
                f"the strength of the points goes from {low:g} to {high:g}, expected {strength_range[0]:g} to "
                f"{strength_range[1]:g}, as in training: scale it"
            )
    return array


def voxelize(points: Any, card: Card) -> Voxels:
    """Group the points of a scan by voxel.

    Args:
        points: (N, 4) x, y, z [m] relative to the sensor, and strength as in training.
        card: says the size of voxels, the clipping box and the features.

    Raises:
        ScanError: see :func:`check_points`; points too far apart, or all of them so far from the origin that float32
            does not resolve an eighth of a voxel.
    """
    given = check_points(points, card.strength_range)
    size = np.array(card.grid_size)
    _check_resolution(given[:, :3], min(RESOLUTION, float(size.min()) / 8))
    narrow = given.astype(np.float32, copy=False)
    coord = narrow[:, :3]
    if card.clip is not None:
        box = np.array(card.clip, np.float32)
        coord = np.clip(coord, box[:3], box[3:])
    # float64: at 80 m a float32 quotient is only good to 1e-4 voxels
    voxel = np.floor(np.ascontiguousarray(coord.T) / size[:, None])
    low = voxel.min(axis=1, keepdims=True)
    extent = voxel.max(axis=1) - low[:, 0] + 1
    if extent.max() > MAX_VOXELS:
        raise ScanError(
            f"the points span {' x '.join(f'{e:.0f}' for e in extent)} voxels of {card.grid_size} m, at most "
            f"{MAX_VOXELS} along an axis are allowed: leave out far outliers"
        )
    grid = (voxel - low).astype(np.int64)
    _, ny, nz = extent.astype(np.int64).tolist()
    key = (grid[0] * ny + grid[1]) * nz + grid[2]
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.concatenate([[True], key[1:] != key[:-1]])
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(starts) - 1
    chosen = order[starts]
    values = np.concatenate([coord, narrow[:, 3:]], axis=1)[:, list(card.columns)]
    return Voxels(np.ascontiguousarray(grid.T[chosen]), np.ascontiguousarray(values[chosen]), inverse)


def _check_resolution(coord: np.ndarray, finest: float) -> None:
    low, high = coord.min(axis=0), coord.max(axis=0)
    distance = max(max(float(a), -float(b), 0.0) for a, b in zip(low, high, strict=True))
    spacing = float(np.spacing(np.float32(distance)))
    if spacing > finest:
        raise ScanError(
            f"all points lie {distance:.0f} m or more from the origin along an axis, where float32 resolves "
            f"{spacing:.2g} m, coarser than {finest:.2g} m: subtract the place of the sensor first, in float64"
        )
