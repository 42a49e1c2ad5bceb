"""Scalars over time, written for TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from pointcept.utils import comm
from pointcept.utils.faults import machine_fault

logger = logging.getLogger(__name__)

PERIOD = 120.0
"""Seconds after which scalars are forced to the disk, and between two attempts to open a file."""


class ScalarWriter:
    """Writes scalars to TensorBoard event files; ranks other than 0 write nothing.

    Where they cannot be written, on a full disk for one, the log says so once, and a new file is tried again every
    two minutes. tensorboardX's own ``SummaryWriter`` leaves that to a thread: it ends with a traceback, and whoever
    adds the tenth scalar after it waits forever.

    Args:
        folder: where the event files go. Nothing is created before the first scalar.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        self._due = float("-inf")
        self._failed = False

    def add(self, name: str, value: float, step: int) -> None:
        """Write one value.

        Args:
            name: the curve, such as ``train/loss``.
            value: the number.
            step: position on the horizontal axis.
        """
        if not comm.is_main_process() or (self._writer is None and time.monotonic() < self._due):
            return
        # Imported here: it costs a second, and nobody else needs it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        try:
            if self._writer is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Names of event files count seconds; a start may follow another one within the same.
                self._writer = EventsWriter(str(self.folder / "events"), f".{time.time_ns()}")
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + PERIOD
                self._writer.flush()
        except OSError as error:
            self._lose(error)

    def flush(self) -> None:
        """Write to the files what has been added."""
        try:
            if self._writer is not None:
                self._writer.flush()
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        """Flush and close the files; more scalars would open new ones."""
        writer, self._writer = self._writer, None
        self._due = float("-inf")
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("TensorBoard: %s; scalars are lost, the run goes on", machine_fault(error) or error)
        writer, self._writer = self._writer, None
        self._due = time.monotonic() + PERIOD
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()
