"""The official message classes of the Waymo Open Dataset, and matrices as they are stored in them.

The classes come from the official wheel, which asks for TensorFlow but does not need it for its messages; hence
``--no-deps`` in the command below, and hence the wheel cannot stand in the package's own list of extras.
"""

from __future__ import annotations

import importlib
import zlib
from typing import Any

import numpy as np

from pointcept.utils.errors import DataError

INSTALL = "pip install 'pointcept[waymo]' && pip install --no-deps waymo-open-dataset-tf-2-12-0==1.6.7"


def optional_import(module: str) -> Any:
    """Import a module of the optional Waymo dependencies; raises ``ImportError`` with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Waymo records need the extra 'waymo' and the official message classes ({module!r} failed: {error}). "
            f"Install them with: {INSTALL}"
        ) from error


def dataset_pb2() -> Any:
    """Return the official module with ``Frame``, ``Laser``, ``MatrixFloat`` ...; raises ``ImportError``."""
    return optional_import("waymo_open_dataset.dataset_pb2")


def segmentation_pb2() -> Any:
    """Return the official module with ``SegmentationFrame`` and ``SegmentationFrameList``; raises ``ImportError``."""
    return optional_import("waymo_open_dataset.protos.segmentation_metrics_pb2")


def parse_frame(payload: bytes) -> Any:
    """Parse one record into an official ``Frame``; raises ``DataError`` if the bytes are no such message."""
    decode_error = optional_import("google.protobuf.message").DecodeError
    frame = dataset_pb2().Frame()
    try:
        frame.ParseFromString(payload)
    except decode_error as error:
        raise DataError(f"is not a Waymo Frame message: {error}") from error
    return frame


def decode_matrix(compressed: bytes, message: Any, what: str) -> np.ndarray:
    """Decompress a ``MatrixFloat`` or ``MatrixInt32`` into an array of its shape.

    Args:
        compressed: zlib stream of the serialized matrix.
        message: an empty message of the right class.
        what: names the matrix in errors.

    Raises:
        DataError: if the stream is damaged or its values do not fill its shape.
    """
    decode_error = optional_import("google.protobuf.message").DecodeError
    try:
        message.ParseFromString(zlib.decompress(compressed))
    except (zlib.error, decode_error) as error:
        raise DataError(f"{what} is damaged: {error}") from error
    dtype = np.float32 if type(message).__name__ == "MatrixFloat" else np.int32
    data = np.array(message.data, dtype=dtype)
    shape = tuple(message.shape.dims)
    if data.size != np.prod(shape, dtype=np.int64):
        raise DataError(f"{what} has {data.size} values for the shape {shape}")
    return data.reshape(shape)


def encode_matrix(array: np.ndarray) -> bytes:
    """Compress an array into the zlib stream of a ``MatrixInt32`` (integers) or ``MatrixFloat`` (anything else)."""
    pb2 = dataset_pb2()
    message = pb2.MatrixInt32() if np.issubdtype(array.dtype, np.integer) else pb2.MatrixFloat()
    message.shape.dims.extend(array.shape)
    message.data.extend(array.reshape(-1).tolist())
    return zlib.compress(message.SerializeToString())
