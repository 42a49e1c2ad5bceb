"""Scalars over time, written for TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pointcept.utils import comm


class ScalarWriter:
    """Writes scalars to TensorBoard event files; ranks other than 0 write nothing.

    Args:
        folder: where the event files go. Nothing is created before the first scalar.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None

    def add(self, name: str, value: float, step: int) -> None:
        """Write one value.

        Args:
            name: the curve, such as ``train/loss``.
            value: the number.
            step: position on the horizontal axis.
        """
        if not comm.is_main_process():
            return
        # Imported here: it costs a second, and nobody else needs it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Names of event files count seconds; a start may follow another one within the same.
            self._writer = EventsWriter(str(self.folder / "events"), f".{time.time_ns()}")
        self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))

    def flush(self) -> None:
        """Write to the files what has been added."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the files; more scalars would open new ones."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
