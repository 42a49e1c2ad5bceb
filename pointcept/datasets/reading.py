"""Read the binary files of data sets; every fault is a ``DataError`` that names the file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

UNKNOWN = np.iinfo(np.int64).min
"""Entry of a label table for a raw id that the class map does not know."""


def require_folder(path: Path, layout: str) -> Path:
    """Return ``path`` if it is a folder.

    Args:
        path: the folder.
        layout: the layout that the data set expects, for the message.

    Raises:
        DataError: there is no such folder; the message names the nearest existing parent.
    """
    if path.is_dir():
        return path
    parent = next((p for p in path.absolute().parents if p.is_dir()), None)
    raise DataError(f"no folder {path} (the path exists as far as {parent}). Expected layout: {layout}")


def read_binary(path: Path, dtype: type[np.generic], columns: int = 1) -> np.ndarray:
    """Read a headerless binary file.

    Args:
        path: the file.
        dtype: type of its numbers.
        columns: numbers per point.

    Returns:
        array (N, columns), or (N,) for one column; N >= 1.

    Raises:
        DataError: the file is missing or empty, or its size is no multiple of one point.
    """
    try:
        size = path.stat().st_size
        data = np.fromfile(path, dtype=dtype)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    point = np.dtype(dtype).itemsize * columns
    if size == 0:
        raise DataError(f"{path} is empty, expected {point} bytes per point")
    if size % point:
        raise DataError(
            f"{path} has {size} bytes, which is no multiple of {point}"
            f" ({columns} x {np.dtype(dtype).name} per point): truncated or another format?"
        )
    return data.reshape(-1, columns) if columns > 1 else data


def finite_rows(points: np.ndarray, path: Path, nonfinite: str) -> np.ndarray | None:
    """Find the points of which every number is finite.

    Args:
        points: float (N, C).
        path: the file, for messages.
        nonfinite: what to do if there are others: "raise" or "drop".

    Returns:
        None if all are finite, else a bool (N,) mask.

    Raises:
        DataError: some are not finite and ``nonfinite`` is "raise", or none is finite.
    """
    finite = np.isfinite(points)
    if finite.all():
        return None
    mask = finite.all(axis=1)
    bad = f"{len(mask) - mask.sum()} of {len(mask)} points of {path} have NaN or infinite values"
    if nonfinite == "raise":
        raise DataError(f'{bad}. Set nonfinite="drop" in the data set\'s config to leave such points out')
    if not mask.any():
        raise DataError(f"{bad}: no point is left")
    logger.debug("%s: left out", bad)
    return mask


def check_learning_map(learning_map: Mapping[int, int] | None, table: np.ndarray) -> None:
    """Check that a config's own class map, as Pointcept's older configs hold it, is that of the data set.

    Args:
        learning_map: raw id -> class, negative where it is ignored; None is always right.
        table: as for :func:`map_labels`.

    Raises:
        ConfigError: the two differ.
    """
    for raw, index in (learning_map or {}).items():
        own = int(table[raw]) if isinstance(raw, int) and 0 <= raw < len(table) else UNKNOWN
        ignored = UNKNOWN < own < 0 and isinstance(index, int) and index < 0
        if own != index and not ignored:
            here = "unknown" if own == UNKNOWN else "ignored" if own < 0 else f"class {own}"
            raise ConfigError(f"learning_map has {index!r} for the raw label {raw!r}, which is {here} in this data set")


def map_labels(raw: np.ndarray, table: np.ndarray, path: Path) -> np.ndarray:
    """Map raw ids to classes.

    Args:
        raw: unsigned integers (N,), each below ``len(table)``.
        table: int64 (R,): class of every raw id, ``UNKNOWN`` where the class map has none.
        path: the label file, for messages.

    Returns:
        int64 (N,).

    Raises:
        DataError: raw ids that the class map does not know; the message names them and their counts.
    """
    segment = table[raw]
    unknown = segment == UNKNOWN
    if unknown.any():
        known = np.flatnonzero(table != UNKNOWN).tolist()
        raise DataError(f"{path}: unknown raw label {_listed(raw[unknown])}. Known: {', '.join(map(str, known))}")
    return segment


def check_strength(strength: np.ndarray, allowed: tuple[float, float] | None, reader: str) -> None:
    """Check that strengths are those of the format: without a header, a file of another one is read as nonsense.

    Args:
        strength: float (N, 1).
        allowed: lowest and highest strength, None for any.
        reader: the data set that has read it, for the message.

    Raises:
        DataError: one of them is outside or not finite.
    """
    if allowed is None or strength.size == 0:
        return
    low, high = float(strength.min()), float(strength.max())
    if not (allowed[0] <= low and high <= allowed[1]):  # this way round NaN is refused, too
        raise DataError(
            f"read as a scan of {reader} its strength goes from {low:g} to {high:g}, expected {allowed[0]:g} to"
            f" {allowed[1]:g}: it has another format, or its strength has to be scaled"
        )


def check_labels(segment: Any, num_classes: int, ignore_index: int) -> None:
    """Check that labels are classes or the ignore index.

    Args:
        segment: integers (N,), an array or a tensor.
        num_classes: K.
        ignore_index: label of the points that do not count.

    Raises:
        DataError: others, or numbers that are no integers; the message names them and their counts.
    """
    labels = np.asarray(segment)
    if labels.dtype.kind not in "iu":
        raise DataError(f"segment is {labels.dtype}, expected integers, the classes")
    if labels.size == 0 or (labels.min() >= 0 and labels.max() < num_classes):
        return
    wrong = labels[((labels < 0) | (labels >= num_classes)) & (labels != ignore_index)]
    if len(wrong):
        expected = f"classes 0 to {num_classes - 1} or {ignore_index} (ignored)"
        raise DataError(f"segment has the label {_listed(wrong)}, expected {expected}")


def _listed(values: np.ndarray) -> str:
    """``77 (3 points), 78 (1 points)``: the first eight values and how often they come."""
    ids, counts = np.unique(values, return_counts=True)
    listed = ", ".join(f"{i} ({c} points)" for i, c in zip(ids.tolist()[:8], counts.tolist()[:8], strict=True))
    return listed + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
