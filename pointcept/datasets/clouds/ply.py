"""PLY, the Stanford triangle format, of which the vertices are read: ascii and binary of both byte orders.

Source: http://paulbourke.net/dataformats/ply. Read here because plyfile, which is maintained, has a licence (GPL) that
would pass on to programs that use this package.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from pointcept.utils.errors import DataError
from pointcept.utils.files import read_regular

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions, of_records, to_records

MOST_BYTES = 2**34  # of a file
MOST_HEADER = 2**20
TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
}
NAMES = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint"}
NAMES.update({"f4": "float", "f8": "double"})
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


class Element(NamedTuple):
    """An element: how many there are, and (name, type) of its properties; None as type for lists."""

    name: str
    size: int
    properties: list[tuple[str, str | None]]


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read the vertices of a PLY file.

    Raises:
        DataError: it is no PLY file, has no vertices, or is shorter than its header says.
    """
    content = read_regular(file.path, MOST_BYTES)
    kind, elements, start = _header(content)
    for element in elements:
        if any(form is None for _, form in element.properties):
            lists = f"the element {element.name!r} has lists, which are read behind the vertices only"
            if element.name == "vertex" or kind != "ascii":
                raise DataError(lists)
        if element.name == "vertex":
            return of_records(_vertices(content, start, kind, element))
        if kind == "ascii":
            for _ in range(element.size):
                start = content.find(b"\n", start) + 1 or len(content)
        else:
            start += element.size * _dtype(element, kind).itemsize
    raise DataError("there is no element vertex")


def _header(content: bytes) -> tuple[str, list[Element], int]:
    """Format, elements, and where they begin."""
    if not content.startswith(b"ply"):
        raise DataError("no PLY file: it does not begin with 'ply'")
    mark = content.find(b"end_header", 0, MOST_HEADER)
    end = content.find(b"\n", mark) + 1
    if mark < 0 or end == 0:
        raise DataError("the header has no end: truncated?")
    kind, elements = "", []
    try:
        for line in content[:mark].decode("ascii", "replace").splitlines()[1:]:
            words = line.split()
            if not words or words[0] in ("comment", "obj_info"):
                continue
            if words[0] == "format":
                kind = words[1]
            elif words[0] == "element":
                elements.append(Element(words[1], int(words[2]), []))
            elif words[0] == "property":
                form = None if words[1] == "list" else TYPES[words[1]]
                elements[-1].properties.append((words[-1], form))
        if kind not in ORDERS or any(element.size < 0 for element in elements):
            raise ValueError(f"format {kind!r}")
        for element in elements:
            if len({name for name, _ in element.properties}) < len(element.properties):
                raise ValueError(f"{element.name} has two properties of one name")
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(f"the header is damaged: {type(error).__name__}: {error}") from None
    return kind, elements, end


def _dtype(element: Element, kind: str) -> np.dtype:
    return np.dtype([(name, f"{ORDERS[kind]}{form}") for name, form in element.properties])


def _vertices(content: bytes, start: int, kind: str, element: Element) -> np.ndarray:
    dtype, count = _dtype(element, kind), element.size
    if kind != "ascii":
        if len(content) - start < count * dtype.itemsize:
            raise DataError(f"{len(content) - start} bytes, its header says {count} x {dtype.itemsize}: truncated?")
        return np.frombuffer(content, dtype, count, start)
    if count == 0:
        return np.empty(0, dtype)
    try:
        table = np.loadtxt(io.BytesIO(content[start:]), ndmin=2, max_rows=count, comments=None)
    except ValueError as error:
        raise DataError(f"its vertices are damaged: {error}") from None
    width = len(element.properties)
    if table.shape != (count, width):
        raise DataError(f"has {' x '.join(map(str, table.shape))} numbers, its header says {count} x {width}")
    records = np.empty(count, dtype)
    for column, (name, _) in enumerate(element.properties):
        records[name] = table[:, column]
    return records


def write(cloud: Cloud, suffix: str) -> bytes:
    """A binary PLY file, its vertices with all fields of the cloud; integers of 8 bytes become 4."""
    fields = {
        name: values.astype(f"{values.dtype.kind}4")
        if values.dtype.kind in "iu" and values.dtype.itemsize > 4
        else values
        for name, values in cloud.fields.items()
    }
    records = to_records(Cloud(fields))
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(records)}"]
    for name in records.dtype.names or ():
        lines.append(f"property {NAMES[records.dtype[name].str[1:]]} {name.replace(' ', '_')}")
    return "\n".join([*lines, "end_header\n"]).encode("ascii", "replace") + records.tobytes()


FORMAT = CloudFormat("PLY", (".ply",), read, write)
