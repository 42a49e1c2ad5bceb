"""Check predictions and write them to files that are either whole or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointcept.utils.errors import DataError
from pointcept.utils.files import write_bytes_atomic


def check_prediction(pred: Any, num_points: int, num_classes: int, name: str) -> np.ndarray:
    """Return the predicted classes of one scan as int64 (N,).

    Args:
        pred: integers (N,), tensor or array.
        num_points: N, the points of the scan file.
        num_classes: every prediction must lie in [0, num_classes).
        name: the scan, for messages.

    Raises:
        DataError: another shape, no integers, or a class out of range.
    """
    array = pred.detach().cpu().numpy() if isinstance(pred, torch.Tensor) else np.asarray(pred)
    if array.dtype.kind not in "iu":
        raise DataError(f"prediction for {name}: expected integer classes, got {array.dtype}")
    if array.shape != (num_points,):
        raise DataError(f"prediction for {name} has the shape {array.shape}, the scan has {num_points} points")
    outside = (array < 0) | (array >= num_classes)
    if outside.any():
        raise DataError(
            f"prediction for {name}: {outside.sum()} of {num_points} points have a class outside"
            f" 0..{num_classes - 1}, for instance {array[outside][0]}"
        )
    return array.astype(np.int64)


def write_array(path: Path, array: np.ndarray) -> Path:
    """Write the bytes of ``array`` to ``path`` in one step: a reader never sees half a file.

    Folders are made as needed; an existing file is replaced.
    """
    return write_bytes_atomic(path, np.ascontiguousarray(array).tobytes())


def write_npy(path: Path, array: np.ndarray) -> Path:
    """Write ``array`` as a ``.npy`` file in one step, see :func:`write_array`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return write_bytes_atomic(path, buffer.getvalue())
