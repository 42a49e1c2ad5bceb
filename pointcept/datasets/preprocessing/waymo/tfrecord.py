"""TFRecord files without TensorFlow.

A record is, in little endian: uint64 length, uint32 masked CRC-32C of these eight bytes, the payload, uint32 masked
CRC-32C of the payload. Masking rotates the checksum right by 15 bits and adds a constant, so that the checksum of
data which itself holds checksums stays meaningful.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pointcept.datasets.preprocessing.waymo.protos import optional_import
from pointcept.utils.errors import DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes) -> int:
    """Return the masked CRC-32C of ``data`` as TFRecord files store it; raises ``ImportError`` without the extra."""
    crc: Any = optional_import("google_crc32c").value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def iter_records(path: Path, on_error: Callable[[DataError], None] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield ``(byte offset, payload)`` of every sound record of a TFRecord file.

    Args:
        path: the file.
        on_error: called with each fault instead of raising it. After a payload with a wrong checksum the next record
            is read; after a wrong header or a truncation the rest of the file cannot be found and reading ends.

    Raises:
        DataError: naming file and byte offset, for the first fault if ``on_error`` is None.
    """

    def report(offset: int, what: str) -> None:
        error = DataError(f"{path}: record at byte {offset}: {what}")
        if on_error is None:
            raise error
        on_error(error)

    offset = 0
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            while offset < size:
                header = file.read(_HEADER.size)
                if len(header) < _HEADER.size:
                    report(offset, f"truncated, {len(header)} of the {_HEADER.size} bytes of its header are left")
                    return
                length, length_crc = _HEADER.unpack(header)
                if masked_crc32c(header[:8]) != length_crc:
                    report(offset, "the checksum of its length is wrong, the rest of the file cannot be read")
                    return
                end = offset + _HEADER.size + length + _FOOTER.size
                if end > size:
                    report(offset, f"truncated, it should end at byte {end} but the file has {size} bytes")
                    return
                payload, footer = file.read(length), file.read(_FOOTER.size)
                if masked_crc32c(payload) == _FOOTER.unpack(footer)[0]:
                    yield offset, payload
                else:
                    report(offset, f"the checksum of its {length} bytes of data is wrong")
                offset = end
    except OSError as error:
        report(offset, f"cannot be read: {error}")


def write_records(path: Path, payloads: Iterable[bytes]) -> None:
    """Write ``payloads`` as one TFRecord file, which appears under its name only when it is whole."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            file.write(length + _FOOTER.pack(masked_crc32c(length)))
            file.write(payload)
            file.write(_FOOTER.pack(masked_crc32c(payload)))
    partial.replace(path)
