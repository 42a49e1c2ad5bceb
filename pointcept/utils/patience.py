"""A word about what is being waited for, when nothing has been said for a while.

    with waiting("compiling the first step"):
        ...

Whatever takes long stands in such a block. After ten seconds of silence the innermost one is named in the log, then
again at growing intervals; any other line of the log starts the clock anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pointcept.utils import comm

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds of silence before the first word; then twice as many, and so on."""
LONGEST = 160.0
"""The longest silence between two words [s]."""
PREFIX = "still waiting: "


class Wait:
    """Something that is being waited for; ``what`` may change meanwhile."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.since = time.monotonic()


class Watch:
    """Knows what is being waited for and when something was last said.

    Args:
        patience: see ``PATIENCE``.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._waits: list[Wait] = []
        self._interval = patience
        self._heard = time.monotonic()
        self._thread: threading.Thread | None = None

    def enter(self, what: str) -> Wait:
        """Something begins."""
        wait = Wait(what)
        self._waits.append(wait)
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="patience", daemon=True)
            self._thread.start()
        return wait

    def leave(self, wait: Wait) -> None:
        """It is over."""
        if wait in self._waits:  # a generator that nobody finished may leave later than others
            self._waits.remove(wait)

    def heard(self) -> None:
        """Somebody else has said something."""
        self._heard, self._interval = time.monotonic(), self.patience

    def word(self, now: float) -> str | None:
        """What to say at this time, if anything; the next word is then further away."""
        waits = self._waits[-1:]
        if not waits:
            return None
        silent = now - max(self._heard, self._waits[0].since)
        if silent < self._interval:
            return None
        self._heard, self._interval = now, min(2 * self._interval, LONGEST)
        return f"{PREFIX}{waits[0].what}, {now - waits[0].since:.0f} s so far"

    def _look(self) -> None:
        while True:
            time.sleep(self.patience / 10)
            text = self.word(time.monotonic())
            if text is not None:
                interval = self._interval
                logger.info("%s", text)
                self._interval = interval  # the log tells of our own word too, see heard


_watch = Watch()


def _afresh() -> None:
    """In a forked process the thread is gone, and what its parent waits for is none of its business."""
    global _watch
    _watch = Watch()


os.register_at_fork(after_in_child=_afresh)


def heard() -> None:
    """Tell that the log has said something."""
    _watch.heard()


@contextmanager
def waiting(what: str) -> Iterator[Wait]:
    """Name ``what`` in the log if the block takes long; rank 0 alone speaks.

    Args:
        what: as the end of "still waiting: ...".

    Yields:
        What is waited for, to say more of it as it goes on.
    """
    if not comm.is_main_process():
        yield Wait(what)
        return
    watch = _watch
    wait = watch.enter(what)
    try:
        yield wait
    finally:
        watch.leave(wait)
