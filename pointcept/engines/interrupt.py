"""Signals that ask a process to end: it comes to a whole state first, and its exit code says who asked.

    SIGINT (Ctrl-C)                                            -> ``Interrupted``, exit code 130
    SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXCPU        -> ``Interrupted``, exit code 75

One that the process was started to ignore, as ``nohup`` does with SIGHUP, stays ignored. SIGTSTP and SIGCONT keep their
meaning.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from pointcept.utils import comm
from pointcept.utils.device import get_device

logger = logging.getLogger(__name__)

HANDLED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip
REPEATED = 0.5
"""Seconds in which further signals are the same request: ``timeout`` and launchers signal a process and its group."""
AGREEMENT = 2.0
"""Seconds between two moments at which several processes ask each other whether to stop."""


class Interrupted(KeyboardInterrupt):
    """A signal has asked this process to end.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interrupts:
    """While it is entered, the signals of ``HANDLED`` raise :class:`Interrupted` where the state is whole.

    They do so at once, but after what :meth:`hold` and :meth:`step` hold together. A second signal ends the process at
    once in any case, with exit code 128 + its number, also where it waits inside of a library. Where they are nested,
    the innermost receives the signals. Outside of the main thread nothing is received.

    Args:
        alone: what is left by an interrupt ends here; those around it go on.

    Attributes:
        asked: number of the signal that has come; 0 without one.
        half_done: an optimizer step is running, so the state is not one to go on from.
        agreed: all processes have come to the same step and stop there.
    """

    def __init__(self, alone: bool = False) -> None:
        self.alone = alone
        self.asked = 0
        self.half_done = False
        self.agreed = False
        self._holding = 0
        self._first: float | None = None
        self._next: int | None = None
        self._last = (0, 0.0)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            _listener.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        outer = _listener.remove(self)
        if outer is not None and isinstance(error, Interrupted) and not self.alone:
            # further signals are not the first ones there
            outer.asked, outer._first = error.number, self._first
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise what was held back, or lost: Python drops exceptions of destructors and callbacks.

        Raises:
            Interrupted: a signal has come.
        """
        if self.asked and not self._holding:
            raise Interrupted(self.asked)

    def receive(self, number: int) -> None:
        """React to a signal, in the main thread."""
        if self.asked:
            return
        self.asked = number
        if not self._holding:
            raise Interrupted(number)

    def arrive(self, number: int) -> None:
        """React to a signal, in the thread that sees it even while the main thread waits inside of a library."""
        name, now = signal.Signals(number).name, time.monotonic()
        if self._first is None:
            self._first = now
            if self._holding:
                logger.warning("%s: stops when this step is done and saved; a second signal ends at once", name)
        elif now - self._first > REPEATED:
            os.write(2, f"second signal ({name}): ends at once, the last checkpoint stays as it is\n".encode())
            os._exit(128 + number)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold an interrupt back until what is inside is done, such as the writing of a checkpoint.

        Raises:
            Interrupted: one was held back.
        """
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        self.check()

    @contextmanager
    def training(self) -> Iterator[None]:
        """The steps of an epoch. Several processes stop after the same one, wherever the signal meets them."""
        together = comm.world_size() > 1
        self._holding += together
        try:
            yield
        finally:
            self._holding -= together

    @contextmanager
    def step(self, iteration: int) -> Iterator[None]:
        """Hold an interrupt back until an optimizer step and its hooks are done.

        Args:
            iteration: the same on all processes.

        Raises:
            Interrupted: one was held back, or another process has asked for it.
        """
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if self._next is None or iteration >= self._next or comm.world_size() == 1:
            self.meet(iteration)

    def meet(self, iteration: int) -> None:
        """A place that every process comes to: all of them stop here if one was asked.

        Args:
            iteration: the same on all processes.

        Raises:
            Interrupted: a signal has come to any of them.
        """
        if comm.world_size() > 1:
            self.asked = self._agree(iteration) or self.asked
            if self.agreed:
                raise Interrupted(self.asked)
        self.check()

    def _agree(self, iteration: int) -> int:
        """The signal that has come to any process, or 0, and when to ask again: processes wait for each other here."""
        last, since = self._last
        now = time.monotonic()
        seconds = (now - since) / (iteration - last) if self._next is not None and iteration > last else AGREEMENT
        period = max(1, min(1000, round(AGREEMENT / max(seconds, 1e-6))))
        self._last = (iteration, now)
        # one transfer; the period is that of process 0
        mine = [self.asked == signal.SIGINT, self.asked not in (0, signal.SIGINT), period * comm.is_main_process()]
        keyboard, scheduler, period = comm.all_reduce_sum(torch.tensor(mine, device=get_device())).tolist()
        self._next = iteration + period
        self.agreed = bool(keyboard or scheduler)
        return int(signal.SIGTERM if scheduler else signal.SIGINT) if self.agreed else 0


class _Listener:
    """Receives signals for the innermost ``Interrupts``, and in a thread, which sees them when they come."""

    def __init__(self) -> None:
        self._stack: list[Interrupts] = []
        self._previous: dict[int, Any] = {}
        self._thread: threading.Thread | None = None
        self._write = self._wakeup = -1

    def add(self, interrupts: Interrupts) -> None:
        self._stack.append(interrupts)
        if len(self._stack) > 1:
            return
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._listen, args=(read,), name="signals", daemon=True)
        self._thread.start()
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in HANDLED:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)

    def remove(self, interrupts: Interrupts) -> Interrupts | None:
        """Take it away; returns the one that receives signals now."""
        if interrupts not in self._stack:
            return None
        self._stack.remove(interrupts)
        if self._stack:
            return self._stack[-1]
        self._restore()
        os.close(self._write)  # which ends the thread
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        return None

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        signal.set_wakeup_fd(self._wakeup)

    def in_child(self) -> None:
        """A forked process is another one: its signals are not those of its parent."""
        if self._stack:
            self._restore()
            self._stack = []
            os.close(self._write)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stack:
            self._stack[-1].receive(number)

    def _listen(self, read: int) -> None:
        while data := os.read(read, 64):
            for number in data:
                if self._stack and number in self._previous:
                    self._stack[-1].arrive(number)
        os.close(read)


_listener = _Listener()
os.register_at_fork(after_in_child=_listener.in_child)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Processes that are started inside never receive what this one handles: they end when it tells them, or ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
