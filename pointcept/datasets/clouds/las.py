"""LAS and LAZ, the formats of surveying (ASPRS), through laspy, LAZ with lazrs: the extra ``las``."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from pointcept.utils.errors import ConfigError, DataError

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions

FIRST_OWN = 64
"""The first classification code that ASPRS leaves to users (LAS 1.4 R15, table 17)."""
UNASSIGNED = 1
"""Classification code of points that have none."""
SMALLEST = 227
"""Bytes of the smallest header."""
OLD_FORMATS = {0: 6, 1: 6, 2: 7, 3: 7, 4: 9, 5: 10}
"""Point formats that hold no code above 31 -> those that hold the same and 8 bits of classification."""


def _laspy() -> ModuleType:
    try:
        import laspy
    except ImportError as error:
        raise ConfigError(f"LAS and LAZ files need laspy ({error}): pip install 'pointcept[las]'") from error
    return laspy


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read all dimensions; x, y, z are scaled, float64 [m].

    Raises:
        ConfigError: laspy is missing.
        DataError: it is no LAS file, or shorter than its header says.
    """
    laspy = _laspy()
    try:
        _check_sizes(file.path)
        data = laspy.read(file.path)
        fields = {axis: np.array(getattr(data, axis), np.float64) for axis in "xyz"}
        for name in data.point_format.dimension_names:
            values = np.asarray(data[name])
            if name not in ("X", "Y", "Z") and values.ndim == 1 and values.dtype.kind in "fiub":
                fields[name] = values
        expected = data.header.point_count
    except (OSError, DataError):
        raise
    except ModuleNotFoundError as error:
        raise ConfigError(f"LAZ files need lazrs ({error}): pip install 'pointcept[las]'") from error
    except BaseException as error:
        # laspy and lazrs have no error in common, and a panic of Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"is damaged or no LAS file: {reason}") from None
    if len(fields["x"]) != expected:
        raise DataError(f"{len(fields['x'])} points, its header says {expected}: truncated?")
    return Cloud(fields, data)


def _check_sizes(path: Path) -> None:
    """Check the counts in the header against the size of the file.

    For damaged ones laspy goes on for minutes, and lazrs asks for so much memory that Python ends.

    Raises:
        DataError: there are more records, points or chunks than the file has room for.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(375).ljust(375, b"\0")
        if head[:4] != b"LASF" or size < SMALLEST:
            raise DataError("no LAS file: it does not begin with LASF and a header")
        start, records, kind, length, points = struct.unpack_from("<IIBHI", head, 96)
        extended = 0
        if head[25] >= 4:  # LAS 1.4
            extended, points = struct.unpack_from("<IQ", head, 243)
        compressed = bool(kind & 0x80)
        needed = [("records before its points", records, 54), ("records behind its points", extended, 60)]
        needed += [] if compressed else [("points", points, length)]
        for what, count, each in needed:
            if count * each > size or start > size:
                raise DataError(f"{size} bytes, its header says {count} {what} of {each}: truncated or damaged?")
        if compressed and points:
            _check_chunks(stream, start, size, points)


def _check_chunks(stream: BinaryIO, start: int, size: int, points: int) -> None:
    """Check the table of the compressed chunks, whose place stands where the points begin."""
    stream.seek(start)
    (table,) = struct.unpack("<q", stream.read(8).ljust(8, b"\0"))
    if table == -1:  # a writer that could not go back has put the place at the end
        stream.seek(-8, io.SEEK_END)
        (table,) = struct.unpack("<q", stream.read(8))
    if not start < table <= size - 8:
        raise DataError("the table of its chunks is missing: truncated?")
    stream.seek(table)
    _, chunks = struct.unpack("<II", stream.read(8))
    if chunks > points + 1:
        raise DataError(f"the table of its chunks is damaged: {chunks} chunks for {points} points")


def write(cloud: Cloud, suffix: str) -> bytes:
    """A LAS or LAZ file with the field ``label`` as classification.

    A file that was LAS keeps its header and its other dimensions; a point format too old for 8 bits of classification
    becomes the newer one that holds the same. Of other clouds x, y, z (to 0.1 mm) and the intensity are written.
    """
    laspy = _laspy()
    data = cloud.source if isinstance(cloud.source, laspy.LasData) else _new(laspy, cloud)
    codes = cloud.fields["label"].astype(np.uint8)
    if data.point_format.id in OLD_FORMATS and len(codes) and codes.max() > 31:
        data = laspy.convert(data, point_format_id=OLD_FORMATS[data.point_format.id])
    data.classification = codes
    buffer = io.BytesIO()
    data.write(buffer, do_compress=suffix == ".laz")
    return buffer.getvalue()


def _new(laspy: ModuleType, cloud: Cloud) -> Any:
    header = laspy.LasHeader(point_format=6, version="1.4")
    coord = cloud.coord({}).astype(np.float64)
    header.scales = np.full(3, 1e-4)
    header.offsets = np.floor(np.nanmin(coord, axis=0)) if len(coord) else np.zeros(3)
    data = laspy.LasData(header)
    finite = np.isfinite(coord)
    data.x, data.y, data.z = np.where(finite, coord, header.offsets).T  # LAS has no NaN
    intensity = cloud.find("intensity", {})
    if intensity is not None:
        values = np.nan_to_num(cloud.fields[intensity].astype(np.float64))
        top = float(values.max(initial=0.0))
        data.intensity = np.clip(values * (65535 if top <= 1 else 257 if top <= 255 else 1), 0, 65535).astype(np.uint16)
    return data


FORMAT = CloudFormat("LAS", (".las", ".laz"), read, write)
