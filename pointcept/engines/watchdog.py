"""Says what is waited for when a wait takes long; silent otherwise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pointcept.utils.logging import warning_level

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds before the first word; each further one takes twice as long as the one before."""
LOOKS = 12
"""How often a wait is looked at before the first word."""


@dataclass
class Wait:
    """Something is waited for.

    Attributes:
        what: says in a sentence what.
        look: called every few seconds, in the thread of the watchdog.
        since: beginning.
        words: how often it was spoken of.
    """

    what: Callable[[], str]
    look: Callable[[float], None] | None
    since: float
    words: int = 0


class Watchdog:
    """Looks at waits in a thread of its own, which begins with the first one."""

    def __init__(self) -> None:
        self._waits: list[Wait] = []
        self._thread: threading.Thread | None = None

    @contextmanager
    def waiting(self, what: Callable[[], str], look: Callable[[float], None] | None = None) -> Iterator[Wait]:
        """Watch over what is waited for inside.

        Args:
            what: says in a sentence what, in the thread of the watchdog.
            look: called there every few seconds with the seconds that have gone by.
        """
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._waits = []
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
        wait = Wait(what, look, time.monotonic())
        self._waits.append(wait)
        try:
            yield wait
            if wait.words:
                logger.log(warning_level(), "what was waited for came after %.0f s", time.monotonic() - wait.since)
        finally:
            self._waits.remove(wait)

    def _run(self) -> None:
        while True:
            time.sleep(PATIENCE / LOOKS)
            for wait in list(self._waits):
                try:
                    self._look_at(wait)
                except Exception as error:  # what is waited for may come while it is looked at
                    logger.debug("watchdog: %s: %s", type(error).__name__, error)

    @staticmethod
    def _look_at(wait: Wait) -> None:
        seconds = time.monotonic() - wait.since
        if seconds >= PATIENCE * (2**wait.words):
            wait.words += 1
            logger.log(warning_level(), "waiting for %.0f s: %s", seconds, wait.what())
        if wait.look is not None:
            wait.look(seconds)


WATCHDOG = Watchdog()
"""That of this process."""
