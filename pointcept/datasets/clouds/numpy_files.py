"""NumPy's files: ``.npy``, one array of points, and ``.npz``, arrays by name."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from pointcept.utils.errors import DataError

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions, of_columns, of_records, to_records


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read an array (N, C) of columns, records (N,), or of ``.npz`` all arrays of N rows.

    Columns are x, y, z, intensity and more, unless ``options.fields`` says other numbers. In ``.npz`` an array (N,) or
    (N, 1) is a field of its own name; one of three or more columns holds the first fields.

    Raises:
        DataError: the file holds objects, no points, or arrays of different lengths.
    """
    try:
        content: Any = np.load(file.path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return _of_array(content)
        with content:
            arrays = {name: content[name] for name in content.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"is damaged or no file of NumPy arrays without objects: {error}") from None
    return _of_arrays(arrays)


def _of_array(array: np.ndarray) -> Cloud:
    if array.dtype.names is not None:
        return of_records(array.reshape(-1))
    if array.dtype.kind not in "fiu":
        raise DataError(f"expected numbers, got {array.dtype}")
    return of_columns(array)


def _of_arrays(arrays: dict[str, np.ndarray]) -> Cloud:
    numbers = {name: array for name, array in arrays.items() if array.dtype.kind in "fiub" and array.ndim in (1, 2)}
    wide = [name for name, array in numbers.items() if array.ndim == 2 and array.shape[1] >= 3]
    found = dict(of_columns(numbers[wide[0]]).fields) if wide else {}
    for name, array in numbers.items():
        if name not in wide and (array.ndim == 1 or array.shape[1] == 1):
            found[name] = array.reshape(-1)
    if not found:
        raise DataError(f"has no arrays of points, only {', '.join(arrays) or 'nothing'}")
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"its arrays have different lengths: {', '.join(f'{n} {c}' for n, c in lengths.items())}")
    return Cloud(found)


def write(cloud: Cloud, suffix: str) -> bytes:
    """Records in ``.npy``, an array for each field in ``.npz``."""
    buffer = io.BytesIO()
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: np.ascontiguousarray(values) for name, values in cloud.fields.items()}
        np.savez_compressed(buffer, **arrays)
    else:
        np.save(buffer, to_records(cloud), allow_pickle=False)
    return buffer.getvalue()


FORMAT = CloudFormat("NumPy", (".npy", ".npz"), read, write)
