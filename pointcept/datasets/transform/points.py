"""What all transforms share: which keys are per point, how points are selected, where randomness comes from.

A sample is a dict. Its per-point entries are arrays with one row per point; their names stand in
``sample["index_valid_keys"]`` (:data:`POINT_KEYS` when a sample has no such entry). A transform that
adds a per-point array records its name with :func:`add_point_keys`, and every later selection keeps it
aligned with ``coord``. Transforms never write into the arrays they are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError, DataError

Sample = dict[str, Any]

POINT_KEYS = ("coord", "strength", "color", "normal", "segment", "instance")
"""Entries that are per point unless ``sample["index_valid_keys"]`` says otherwise."""

RESOLUTION = 0.01
"""Coarsest spacing of float32 [m] with which a whole scan may be given: its points are within 131 km of the origin."""

LABEL_KEYS = ("segment", "instance")
"""Entries that an unlabelled scan lacks: naming them in a config is no mistake."""


def point_keys(sample: Sample) -> list[str]:
    """Names of the per-point entries that ``sample`` has."""
    return [key for key in sample.get("index_valid_keys", POINT_KEYS) if key in sample]


def add_point_keys(sample: Sample, keys: Iterable[str]) -> None:
    """Record ``keys`` as per-point entries of ``sample`` (in place; the old list is not changed)."""
    known = list(sample.get("index_valid_keys", POINT_KEYS))
    sample["index_valid_keys"] = known + [key for key in keys if key not in known]


def narrow_coord(coord: np.ndarray) -> np.ndarray:
    """``coord`` (N, 3) [m] in float32, or in float64 where float32 would round it to more than a millimetre.

    Raises:
        DataError: it does not hold real numbers, or in float16.
    """
    if coord.dtype == np.float32:
        return coord
    # float16 resolves 6 cm at 64 m
    if coord.dtype.kind not in "fiu" or coord.dtype == np.float16:
        raise DataError(f"coord has the dtype {coord.dtype}, expected float32 or float64")
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = coord.astype(np.float32)
        coarse = np.spacing(np.abs(narrow).max(initial=0)) > 1e-3
    return coord.astype(np.float64, copy=False) if coarse else narrow


def bounds(coord: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of the bounding box of ``coord`` (N, 3), float64 (3,) each [m]."""
    # Column by column: a reduction over axis 0 of (N, 3) is several times slower.
    low = [coord[:, a].min() for a in range(3)]
    high = [coord[:, a].max() for a in range(3)]
    return np.array(low, np.float64), np.array(high, np.float64)


def check_resolution(
    low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray, finest: float = RESOLUTION, remedy: str = ""
) -> None:
    """Check that float32 resolves the points of a box.

    Args:
        low, high: corners of the box, (3,) each [m].
        finest: spacing that is needed [m].
        remedy: what to do, by default for points that were rounded to float32 already.

    Raises:
        DataError: along some axis all points are so far from the origin that float32 is coarser.
    """
    distance = max(max(a, -b, 0.0) for a, b in zip(low, high, strict=True))
    spacing = float(np.spacing(np.float32(distance)))
    if spacing > finest:
        remedy = remedy or "give coord in float64 and put CenterShift first, or subtract an origin before the cast"
        raise DataError(
            f"all points lie {distance:.0f} m or more from the origin along an axis, where float32 resolves"
            f" {spacing:.2g} m, coarser than {finest:.2g} m: {remedy}"
        )


def check_scan(sample: Sample) -> Sample:
    """Check a scan as it was read, before any transform.

    Returns:
        A new dict; ``coord`` is contiguous and of the dtype of :func:`narrow_coord`.

    Raises:
        DataError: ``coord`` is no array (N, 3) of numbers with N >= 1, or was rounded to float32 far from the origin,
            or a per-point entry has values that are not finite in float32.
    """
    if not isinstance(sample.get("coord", np.zeros(0)), np.ndarray):
        raise DataError(f"get_data gave coord as {type(sample['coord']).__name__}, expected a NumPy array")
    result = {**sample, "coord": np.ascontiguousarray(coord_of(sample))}
    for key in point_keys(result):
        value = result[key]
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            continue
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(np.float32, copy=False))
        if not finite.all():
            bad = (~finite.reshape(len(value), -1)).any(axis=1).sum()
            raise DataError(f"{bad} of {len(value)} points have NaN or infinite values in {key!r}: leave them out")
    if result["coord"].dtype == np.float32:
        check_resolution(*bounds(result["coord"]))
    return result


def coord_of(sample: Sample) -> np.ndarray:
    """The coordinates of a sample, (N, 3) in metres, N >= 1, of the dtype of :func:`narrow_coord`.

    Raises:
        DataError: ``coord`` is missing, has another shape or no rows, or holds no real numbers.
        ConfigError: ``coord`` is a tensor already.
    """
    if "coord" not in sample:
        raise DataError(f"the sample has no 'coord', only {', '.join(map(str, sample)) or 'nothing'}")
    coord = sample["coord"]
    if not isinstance(coord, np.ndarray):
        raise ConfigError(f"coord is a {type(coord).__name__}: geometry and sampling transforms go before ToTensor")
    if coord.ndim != 2 or coord.shape[1] != 3 or len(coord) == 0:
        raise DataError(f"coord has the shape {coord.shape}, expected (N, 3) with N >= 1")
    return narrow_coord(coord)


def select_points(sample: Sample, index: np.ndarray) -> Sample:
    """Keep the points ``index`` of a sample, in that order.

    Args:
        sample: it is not changed.
        index: int (M,) positions or bool (N,) mask.

    Returns:
        A new dict; every per-point entry has M rows, the others are shared.

    Raises:
        ConfigError: the sample has an ``inverse``, which would point to the wrong rows afterwards.
        DataError: a per-point entry does not have as many rows as ``coord``.
    """
    if "inverse" in sample:
        raise ConfigError(
            "no transform may drop or reorder points after GridSample with return_inverse=True:"
            " 'inverse' would point to the wrong rows"
        )
    if index.dtype == bool:
        index = np.flatnonzero(index)
    n = len(coord_of(sample))
    selected = dict(sample)
    for key in point_keys(sample):
        value = sample[key]
        if not isinstance(value, np.ndarray) or len(value) != n:
            got = f"{len(value)} rows" if isinstance(value, np.ndarray) else type(value).__name__
            raise DataError(f"per-point entry {key!r} is not aligned with coord: {got}, expected an array of {n} rows")
        selected[key] = np.take(value, index, axis=0)
    return selected


def child_generator() -> np.random.Generator:
    """A fast generator for large draws, seeded by one draw from the global ``np.random``.

    The legacy global functions need about 10 ms for the normal noise of one scan, this a quarter.
    """
    return np.random.Generator(np.random.SFC64(np.random.randint(0, 1 << 31)))
