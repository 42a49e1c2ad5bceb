"""The log of a run: one root logger, ``pointcept``, to the terminal and to ``train.log``."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from pointcept.utils import comm
from pointcept.utils.faults import machine_fault
from pointcept.utils.streams import complain, drop

ROOT = "pointcept"
FORMAT = "[%(asctime)s %(levelname)s] %(message)s"
DATES = "%Y-%m-%d %H:%M:%S"


def setup_logging(save_path: str | Path | None = None, filename: str = "train.log", resume: bool = False) -> None:
    """Send the package's log to the terminal and, with ``save_path``, to a file in it.

    Rank 0 writes everything from INFO on; other ranks write errors only, with their number,
    to the terminal. Calling it again replaces the earlier handlers.

    Args:
        save_path: folder of the run; it is created.
        filename: the file's name in ``save_path``.
        resume: append to the file instead of starting it afresh.

    Raises:
        OSError: the file cannot be opened. Later the log ends no run, whatever happens to disk and terminal.
    """
    logger = logging.getLogger(ROOT)
    close_logging()
    logger.propagate = False
    main = comm.is_main_process()
    logger.setLevel(logging.INFO if main else logging.ERROR)
    prefix = "" if main else f"[rank {comm.rank()}] "
    formatter = logging.Formatter(prefix + FORMAT, DATES)
    handlers: list[logging.Handler] = [TerminalHandler(sys.stdout)]
    if save_path is not None and main:
        Path(save_path).mkdir(parents=True, exist_ok=True)
        handlers.append(LogFileHandler(Path(save_path) / filename, resume))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)


def close_logging() -> None:
    """Close and remove the handlers that :func:`setup_logging` added."""
    logger = logging.getLogger(ROOT)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True


class TerminalHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard output until that fails, which it says once on standard error."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        complain(f"standard output: {machine_fault(error) or error}; the log is no longer shown")
        drop(self.stream)


class LogFileHandler(logging.FileHandler):
    """A log file that may lose lines, on a full disk for one, but ends nothing.

    It says so once on standard error, tries to open the file again for each line, and when that succeeds
    writes down how many lines are missing.

    Args:
        path: the file.
        append: keep what is in it.
    """

    def __init__(self, path: Path, append: bool) -> None:
        super().__init__(path, "a" if append else "w", encoding="utf-8", errors="backslashreplace")
        self.mode = "a"  # opened again, it keeps what it has
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        before = self._lost
        try:
            super().emit(record)
        except OSError:  # it cannot be opened again
            self.handleError(record)
        if before and self._lost == before:
            self._lost = 0
            text = f"{before} lines before the last one are missing: they could not be written"
            super().emit(logging.LogRecord(ROOT, logging.WARNING, __file__, 0, text, None, None))

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if not self._lost:
            complain(f"{self.baseFilename}: {machine_fault(error) or error}; log lines are lost, the run goes on")
        self._lost += 1
        stream, self.stream = self.stream, None  # type: ignore[assignment]
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()

    def close(self) -> None:
        """Close the file; what it still holds may be lost with it."""
        with contextlib.suppress(OSError):
            super().close()
