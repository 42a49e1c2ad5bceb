"""Scalars over time: TensorBoard files, ``scalars.jsonl``, and whatever else a hook attaches."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pointcept.utils import comm
from pointcept.utils.faults import machine_fault
from pointcept.utils.scalars import SCALARS, ScalarFile

logger = logging.getLogger(__name__)

PERIOD = 120.0
"""Seconds after which scalars are forced to the disk, and between two attempts to open a file."""

Sink = Callable[[Mapping[str, float], int], None]


class ScalarWriter:
    """Writes scalars, texts and pictures of a run; ranks other than 0 write nothing.

    Scalars go to TensorBoard event files, to ``scalars.jsonl``, and to what was attached. Texts and pictures go to
    TensorBoard. The horizontal axis is the iteration, everywhere.

    Where files cannot be written, on a full disk for one, the log says so once, and a new attempt is made every two
    minutes (at ``scalars.jsonl`` with every line).

    Args:
        folder: where the files go. Nothing is created before the first scalar.
    """

    def __init__(self, folder: str | Path) -> None:
        self._events = EventFile(Path(folder))
        self._lines = ScalarFile(Path(folder))
        self._failed = False
        self._sinks: list[Sink] = []

    def attach(self, sink: Sink) -> None:
        """Call ``sink(values, iteration)`` too whenever scalars are written."""
        self._sinks.append(sink)

    def add(self, name: str, value: float, step: int) -> None:
        """Write one value, see :meth:`add_all`."""
        self.add_all({name: value}, step)

    def add_all(self, values: Mapping[str, float], step: int) -> None:
        """Write the values of one moment.

        Args:
            values: by the name of their curve, such as ``train/loss``.
            step: iterations done.
        """
        if not values or not comm.is_main_process():
            return
        self._events.add_scalars(values, step)
        try:
            self._lines.write(values, step)
        except OSError as error:
            if not self._failed:
                self._failed = True
                logger.warning("%s: %s; scalars are lost, the run goes on", SCALARS, machine_fault(error) or error)
        for sink in self._sinks:
            sink(values, step)

    def add_text(self, name: str, text: str, step: int) -> None:
        """Write a text, shown as Markdown."""
        if comm.is_main_process():
            self._events.add_text(name, text, step)

    def add_picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Write a picture.

        Args:
            name: its name.
            png: the file's contents.
            size: width and height in pixels.
            step: iterations done.
        """
        if comm.is_main_process():
            self._events.add_picture(name, png, size, step)

    def flush(self) -> None:
        """Write to the files what has been added."""
        self._events.flush()

    def close(self) -> None:
        """Flush and close the files; more scalars would open new ones."""
        self._events.close()
        with contextlib.suppress(OSError):  # nothing was left to be written
            self._lines.close()


class EventFile:
    """A TensorBoard file that costs no run when it cannot be written.

    tensorboardX's own ``SummaryWriter`` leaves that to a thread: it ends with a traceback, and whoever adds the tenth
    scalar after it waits forever.

    Args:
        folder: where the event files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        self._due = float("-inf")
        self._failed = False

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers; those that are undefined or infinite have no place on a curve."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            if math.isfinite(value):
                self._add(scalar(name, value), step)

    def add_text(self, name: str, text: str, step: int) -> None:
        """Write a text, shown as Markdown."""
        from tensorboardX.summary import text as summary

        self._add(summary(name, text), step)

    def add_picture(self, name: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """Write a picture of ``size`` (width, height)."""
        from tensorboardX.proto.summary_pb2 import Summary

        picture = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
        self._add(Summary(value=[Summary.Value(tag=name, image=picture)]), step)

    def _add(self, summary: Any, step: int) -> None:
        if self._writer is None and time.monotonic() < self._due:
            return
        # Imported here and above: it costs a second, and nobody else needs it.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event

        try:
            if self._writer is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # Names of event files count seconds; a start may follow another one within the same.
                self._writer = EventsWriter(str(self.folder / "events"), f".{time.time_ns()}")
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + PERIOD
                self._writer.flush()
        except OSError as error:
            self._lose(error)

    def flush(self) -> None:
        """Write to the file what has been added."""
        try:
            if self._writer is not None:
                self._writer.flush()
        except OSError as error:
            self._lose(error)

    def close(self) -> None:
        """Flush and close the file; more would open a new one."""
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
