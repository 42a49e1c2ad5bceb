"""What all transforms share: which keys are per point, how points are selected, where randomness comes from.

A sample is a dict. Its per-point entries are arrays with one row per point; their names stand in
``sample["index_valid_keys"]`` (:data:`POINT_KEYS` when a sample has no such entry). A transform that
adds a per-point array records its name with :func:`add_point_keys`, and every later selection keeps it
aligned with ``coord``. Transforms never write into the arrays they are given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError, DataError

Sample = dict[str, Any]

POINT_KEYS = ("coord", "strength", "color", "normal", "segment", "instance")
"""Entries that are per point unless ``sample["index_valid_keys"]`` says otherwise."""

LABEL_KEYS = ("segment", "instance")
"""Entries that an unlabelled scan lacks: naming them in a config is no mistake."""


def point_keys(sample: Sample) -> list[str]:
    """Names of the per-point entries that ``sample`` has."""
    return [key for key in sample.get("index_valid_keys", POINT_KEYS) if key in sample]


def add_point_keys(sample: Sample, keys: Iterable[str]) -> None:
    """Record ``keys`` as per-point entries of ``sample`` (in place; the old list is not changed)."""
    known = list(sample.get("index_valid_keys", POINT_KEYS))
    sample["index_valid_keys"] = known + [key for key in keys if key not in known]


def coord_of(sample: Sample) -> np.ndarray:
    """The coordinates of a sample, float32 (N, 3) in metres, N >= 1.

    Raises:
        DataError: ``coord`` is missing, has another shape or no rows.
        ConfigError: ``coord`` is a tensor already.
    """
    if "coord" not in sample:
        raise DataError(f"the sample has no 'coord', only {', '.join(map(str, sample)) or 'nothing'}")
    coord = sample["coord"]
    if not isinstance(coord, np.ndarray):
        raise ConfigError(f"coord is a {type(coord).__name__}: geometry and sampling transforms go before ToTensor")
    if coord.ndim != 2 or coord.shape[1] != 3 or len(coord) == 0:
        raise DataError(f"coord has the shape {coord.shape}, expected (N, 3) with N >= 1")
    return coord.astype(np.float32, copy=False)


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
