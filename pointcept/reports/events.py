"""The scalars of TensorBoard files, for runs that have nothing else."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

HEAD, TAIL = 12, 4  # bytes around a record: its length with a checksum, a checksum


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of all event files of a folder: name -> (step, value), in the order of steps.

    What is not whole, or cannot be read, is left out.
    """
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    curves: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        try:
            data = path.read_bytes()
            place = 0
            while place + HEAD <= len(data):
                (length,) = struct.unpack_from("<Q", data, place)
                if place + HEAD + length + TAIL > len(data):
                    break
                event: Any = Event.FromString(data[place + HEAD : place + HEAD + length])
                place += HEAD + length + TAIL
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        curves.setdefault(value.tag, {})[event.step] = value.simple_value
        except (OSError, DecodeError):
            continue
    return {name: sorted(points.items()) for name, points in curves.items()}
