"""Bags of ROS 2 (and ROS 1) in MCAP files: the messages PointCloud2. The extra ``ros``.

The container is read by the package mcap, which is pure Python. The message is decoded here: sensor_msgs/PointCloud2 in
CDR (OMG DDS-XTypes, plain CDR) or in ROS 1's serialization.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError, DataError, did_you_mean

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions, of_records

SCHEMAS = ("sensor_msgs/msg/PointCloud2", "sensor_msgs/PointCloud2")
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""sensor_msgs/PointField.datatype -> type of numbers."""


def _reader() -> ModuleType:
    try:
        import mcap.reader
    except ImportError as error:
        raise ConfigError(f"bags (.mcap) need the package mcap ({error}): pip install 'pointcept[ros]'") from error
    return mcap.reader


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    module = _reader()
    try:
        with open(path, "rb") as stream:
            yield module.make_reader(stream)
    except Exception as error:
        package = type(error).__module__.partition(".")[0]
        # RuntimeError: lz4; zstandard has an error of its own.
        if package not in ("mcap", "zstandard") and not isinstance(error, (EOFError, struct.error, RuntimeError)):
            raise
        raise DataError(f"is damaged or no MCAP file: {type(error).__name__}: {error}") from None


def parts(path: Path, options: CloudOptions) -> list[str]:
    """The clouds of a bag in the order of time, as ``<topic>@<log time in ns>``.

    Raises:
        ConfigError: mcap is missing.
        DataError: it is damaged, has no clouds, or none of ``options.topic``.
    """
    with _opened(path) as reader:
        summary = reader.get_summary()
        if summary is None:
            raise DataError("has no summary, as a bag whose recording was cut off: mend it with `mcap recover`")
        topics = sorted(
            channel.topic
            for channel in summary.channels.values()
            if channel.schema_id in summary.schemas and summary.schemas[channel.schema_id].name in SCHEMAS
        )
        if not topics:
            others = sorted({schema.name for schema in summary.schemas.values()})
            raise DataError(f"has no messages PointCloud2, only {', '.join(others) or 'nothing'}")
        if options.topic is not None and options.topic not in topics:
            raise DataError(f"has no clouds of the topic {options.topic!r}: {did_you_mean(options.topic, topics)}")
        wanted = topics if options.topic is None else [options.topic]
        messages = reader.iter_messages(topics=wanted)
        return [f"{channel.topic}@{message.log_time}" for _, channel, message in messages]


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read one cloud of a bag.

    Raises:
        ConfigError: mcap is missing.
        DataError: the bag is damaged, or has no such message.
    """
    topic, _, time = (file.part or parts(file.path, options)[0]).rpartition("@")
    with _opened(file.path) as reader:
        start = int(time)
        for _, channel, message in reader.iter_messages(topics=[topic], starting_at=start, ending_at=start):
            try:
                return decode(message.data, ros1=channel.message_encoding == "ros1")
            except (struct.error, ValueError, KeyError, TypeError) as error:
                if isinstance(error, DataError):
                    raise
                raise DataError(f"the message is damaged: {error}") from None
    raise DataError(f"has no message of {topic} at {time} ns")


class _Cursor:
    """Reads primitives one after the other; CDR puts each at a multiple of its size, counted from behind its header."""

    def __init__(self, data: bytes, ros1: bool) -> None:
        self.data, self.ros1, self.order = data, ros1, "<"
        self.origin = self.at = 0
        if not ros1:
            self.order = "<" if data[1] & 1 else ">"
            self.origin = self.at = 4

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        if not self.ros1:
            self.at += -(self.at - self.origin) % size
        (value,) = struct.unpack_from(f"{self.order}{form}", self.data, self.at)
        self.at += size
        return int(value)

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            raise DataError(f"the message is cut off: {len(self.data)} bytes")
        self.at += size
        return memoryview(self.data)[self.at - size : self.at]

    def text(self) -> str:
        return bytes(self.take(self.number("I"))).rstrip(b"\0").decode("utf-8", "replace")


def decode(data: bytes, ros1: bool = False) -> Cloud:
    """Decode a message PointCloud2.

    Args:
        data: the message in CDR, with its header of four bytes; or as ROS 1 writes it.
        ros1: whether it is the latter.

    Raises:
        DataError: it is cut off, or its sizes contradict each other.
    """
    cursor = _Cursor(data, ros1)
    if ros1:
        cursor.number("I")  # header.seq
    cursor.number("I"), cursor.number("I"), cursor.text()  # header.stamp, header.frame_id
    height, width = cursor.number("I"), cursor.number("I")
    names, forms, offsets = [], [], []
    for _ in range(cursor.number("I")):
        name, offset, datatype, count = cursor.text(), cursor.number("I"), cursor.number("B"), cursor.number("I")
        names.append(name)
        forms.append((DATATYPES[datatype], (count,)) if count > 1 else DATATYPES[datatype])
        offsets.append(offset)
    big_endian = bool(cursor.number("B"))
    step, row = cursor.number("I"), cursor.number("I")
    body = cursor.take(cursor.number("I"))
    dtype = np.dtype({"names": names, "formats": forms, "offsets": offsets, "itemsize": step})
    dtype = dtype.newbyteorder(">" if big_endian else "<")
    row = row if height > 1 else step * width
    if row < step * width or len(body) < row * height:
        raise DataError(f"{len(body)} bytes of points, expected {height} rows of {row}: the message is damaged")
    lines = np.frombuffer(body[: row * height], np.uint8).reshape(height, row)[:, : step * width]
    return of_records(np.ascontiguousarray(lines).reshape(-1).view(dtype))


FORMAT = CloudFormat("MCAP", (".mcap",), read, None, parts)
