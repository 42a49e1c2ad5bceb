"""Standard input, output and error as they really are: closed, without a reader, on a full disk, not UTF-8."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import Any, TextIO


def open_streams() -> None:
    """Make the standard streams safe to use, once, as early as possible.

    One that is closed (``>&-``) reads and writes nothing; otherwise the next file that is opened would get its
    number, and what other programs of this process print would end in it. What nobody reads any more (``| head``) is
    dropped, and what an encoding cannot say is written as an escape. Streams that something else has put in their
    place, such as a test, stay.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            if opened > 2:
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = sys.__stdout__ = _wrapped(sys.stdout, 1)  # type: ignore[misc]
    if sys.stderr is sys.__stderr__:
        sys.stderr = sys.__stderr__ = _wrapped(sys.stderr, 2)  # type: ignore[misc]


def complain(text: str) -> None:
    """Write a line to standard error, if it takes one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def drop(stream: Any) -> None:
    """Send what is written to ``stream`` from now on nowhere; nothing happens to one that is no file."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def flush_output() -> OSError | None:
    """Write what the standard streams still hold; the error if output cannot be, and then nothing more is tried."""
    lost = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            drop(stream)
            lost = error if stream is sys.stdout else lost
    return lost


def _wrapped(stream: TextIO | None, number: int) -> io.TextIOWrapper:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    buffer = io.BufferedWriter(_Terminal(number, "w", closefd=False))
    return io.TextIOWrapper(
        buffer,
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=number == 2 or buffer.isatty(),
        write_through=getattr(stream, "write_through", False),
    )


class _Terminal(io.FileIO):
    """A stream whose reader may go away or be slow."""

    def write(self, data: Any) -> int:
        try:
            while True:
                written = super().write(data)
                if written is not None:
                    return written
                select.select([], [self], [])  # another program has made the terminal one that does not wait
        except BrokenPipeError:
            drop(self)
            if self.fileno() == 1:
                complain("nobody reads the output any more; the work goes on")
            return memoryview(data).nbytes
