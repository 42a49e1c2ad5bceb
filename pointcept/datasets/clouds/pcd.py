"""PCD, the format of the Point Cloud Library: ascii, binary and binary_compressed.

Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html; the compression is that of liblzf. Read
and written here because the packages that do so bring much more with them or are no longer maintained.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from pointcept.utils.errors import DataError
from pointcept.utils.files import read_regular

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions, of_records, to_records

MOST_BYTES = 2**34  # of a file
MOST_HEADER = 2**16
KINDS = {"F": "f", "I": "i", "U": "u"}
LETTERS = {kind: letter for letter, kind in KINDS.items()}


class Header(NamedTuple):
    """What the header says."""

    dtype: np.dtype
    points: int
    data: str


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read a PCD file.

    Raises:
        DataError: it is no PCD file, or shorter than its header says.
    """
    content = read_regular(file.path, MOST_BYTES)
    header, start = _header(content)
    body = memoryview(content)[start:]
    if header.data == "ascii":
        return of_records(_ascii(bytes(body), header))
    if header.data == "binary":
        return of_records(_take(body, header.dtype, header.points))
    return _compressed(body, header)


def _header(content: bytes) -> tuple[Header, int]:
    """The header, and where the points begin."""
    entries: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in entries:
        end = content.find(b"\n", start, start + MOST_HEADER)
        if end < 0 or start > MOST_HEADER:
            raise DataError("no PCD file, or its header is damaged: there is no line DATA")
        line = content[start:end].decode("ascii", "replace").split("#")[0].split()
        start = end + 1
        if line:
            entries[line[0].upper()] = line[1:]
    try:
        names, sizes, types = entries["FIELDS"], [int(s) for s in entries["SIZE"]], entries["TYPE"]
        counts = [int(c) for c in entries.get("COUNT", ["1"] * len(names))]
        width, height = int(entries["WIDTH"][0]), int(entries.get("HEIGHT", ["1"])[0])
        points = int(entries.get("POINTS", [str(width * height)])[0])
        data = entries["DATA"][0].lower()
        if not len(names) == len(sizes) == len(types) == len(counts):
            raise ValueError("FIELDS, SIZE, TYPE and COUNT have different lengths")
        parts = [
            (name if name != "_" and name not in names[:i] else f"_{i}", f"<{KINDS[kind.upper()]}{size}", (count,))
            for i, (name, kind, size, count) in enumerate(zip(names, types, sizes, counts, strict=True))
        ]
        dtype = np.dtype([part if part[2] != (1,) else part[:2] for part in parts])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"the header is damaged: {type(error).__name__}: {error}") from None
    if data not in ("ascii", "binary", "binary_compressed") or points < 0:
        raise DataError(f"DATA {data} with {points} points: expected ascii, binary or binary_compressed")
    return Header(dtype, points, data), start


def _ascii(text: bytes, header: Header) -> np.ndarray:
    flat = [(name, *_flat(header.dtype[name])) for name in header.dtype.names or ()]
    width = sum(count for _, _, count in flat)
    if header.points == 0:
        return np.empty(0, header.dtype)
    try:
        table = np.loadtxt(io.BytesIO(text), ndmin=2, max_rows=header.points)
    except ValueError as error:
        raise DataError(f"its points are damaged: {error}") from None
    if table.shape != (header.points, width):
        raise DataError(f"has {' x '.join(map(str, table.shape))} numbers, its header says {header.points} x {width}")
    records, column = np.empty(header.points, header.dtype), 0
    with np.errstate(invalid="ignore"):
        for name, kind, count in flat:
            values = table[:, column : column + count].astype(kind)
            records[name] = values if header.dtype[name].shape else values[:, 0]
            column += count
    return records


def _flat(dtype: np.dtype) -> tuple[np.dtype, int]:
    """The numbers of a field: their type and how many."""
    return (dtype.subdtype[0], int(np.prod(dtype.shape))) if dtype.subdtype else (dtype, 1)


def _take(body: memoryview | bytes, dtype: np.dtype, points: int) -> np.ndarray:
    if len(body) < points * dtype.itemsize:
        raise DataError(f"{len(body)} bytes of points, its header says {points} x {dtype.itemsize}: truncated?")
    return np.frombuffer(body, dtype, points)


def _compressed(body: memoryview, header: Header) -> Cloud:
    """Points that stand field by field, compressed; two lengths come before them."""
    if len(body) < 8:
        raise DataError("the compressed points are missing: truncated?")
    packed, full = np.frombuffer(body[:8], "<u4").tolist()
    if len(body) < 8 + packed:
        raise DataError(f"{len(body) - 8} bytes of compressed points, expected {packed}: truncated?")
    if full != header.points * header.dtype.itemsize:
        raise DataError(f"{full} bytes of points, its header says {header.points} x {header.dtype.itemsize}")
    data = memoryview(decompress(bytes(body[8 : 8 + packed]), full))
    records, start = np.empty(header.points, header.dtype), 0
    for name in header.dtype.names or ():
        part = header.dtype[name]
        size = part.itemsize * header.points
        records[name] = np.frombuffer(data[start : start + size], part, header.points)
        start += size
    return of_records(records)


def decompress(data: bytes, size: int) -> bytes:
    """Undo the compression of liblzf.

    Args:
        data: runs of bytes as they are (a number n < 32, then n + 1 bytes), and copies of earlier output (3 bits
            length, 13 bits distance; a length of 7 goes on in the next byte).
        size: bytes of the output.

    Raises:
        DataError: it is damaged.
    """
    out, at, end = bytearray(), 0, len(data)
    try:
        while at < end:
            control = data[at]
            at += 1
            if control < 32:
                out += data[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            distance = ((control & 31) << 8 | data[at]) + 1
            at += 1
            length += 2
            first = len(out) - distance
            if first < 0:
                raise IndexError
            piece = out[first : first + length]
            # A copy may reach into what it writes itself: the piece repeats.
            out += piece if distance >= length else (piece * (length // distance + 1))[:length]
    except IndexError:
        raise DataError("the compressed points are damaged") from None
    if len(out) != size:
        raise DataError(f"the compressed points are damaged: {len(out)} bytes instead of {size}")
    return bytes(out)


def write(cloud: Cloud, suffix: str) -> bytes:
    """A binary PCD file with all fields of the cloud."""
    records = to_records(cloud)
    names = records.dtype.names or ()
    types = [records.dtype[name] for name in names]
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(name.replace(' ', '_') for name in names)}",
        f"SIZE {' '.join(str(part.itemsize) for part in types)}",
        f"TYPE {' '.join(LETTERS[part.kind] for part in types)}",
        f"COUNT {' '.join('1' for _ in types)}",
        f"WIDTH {len(records)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(records)}",
        "DATA binary\n",
    ]
    return "\n".join(lines).encode("ascii", "replace") + records.tobytes()


FORMAT = CloudFormat("PCD", (".pcd",), read, write)
