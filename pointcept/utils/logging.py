"""The log of a run: one root logger, ``pointcept``, to the terminal and to ``train.log``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pointcept.utils import comm

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
    """
    logger = logging.getLogger(ROOT)
    close_logging()
    logger.propagate = False
    main = comm.is_main_process()
    logger.setLevel(logging.INFO if main else logging.ERROR)
    prefix = "" if main else f"[rank {comm.rank()}] "
    formatter = logging.Formatter(prefix + FORMAT, DATES)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if save_path is not None and main:
        Path(save_path).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(save_path) / filename, mode="a" if resume else "w", encoding="utf-8"))
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
