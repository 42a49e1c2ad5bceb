"""Ctrl-C and SIGTERM between two optimizer steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from pointcept.utils import comm
from pointcept.utils.device import get_device


class Interrupts:
    """While it is entered, SIGINT and SIGTERM become ``KeyboardInterrupt`` where the state is whole.

    In one process the interrupt comes at once, but after the step that is running and its hooks. With
    several, every process has to stop after the same step; they agree on it every ``period`` steps. A
    second signal interrupts at once in any case.

    Args:
        period: steps between two agreements.

    Attributes:
        half_done: an optimizer step is running, so the state is not one to go on from.
    """

    def __init__(self, period: int = 10) -> None:
        self.period = period
        self.half_done = False
        self._holding = False
        self._asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked or not (self._holding or comm.world_size() > 1):
            raise KeyboardInterrupt
        self._asked = True

    @contextmanager
    def hold(self, iteration: int) -> Iterator[None]:
        """Hold an interrupt back until what is inside is done: an optimizer step and its hooks.

        Args:
            iteration: the same on all processes.

        Raises:
            KeyboardInterrupt: one was held back.
        """
        self._holding = True
        yield
        self._holding = False
        if self._everyone_stops(iteration):
            raise KeyboardInterrupt

    def _everyone_stops(self, iteration: int) -> bool:
        if comm.world_size() == 1:
            return self._asked
        if iteration % self.period:
            return False
        asked = torch.tensor(int(self._asked), device=get_device())
        return bool(comm.all_reduce_sum(asked).item())
