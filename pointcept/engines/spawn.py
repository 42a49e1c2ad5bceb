"""The processes of a run on this machine: started, watched, and what became of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Container, Sequence
from multiprocessing import connection, parent_process
from typing import Any

from torch import multiprocessing

from pointcept.engines.interrupt import HANDLED, Interrupted, pass_on

PATIENCE = 12.0
"""Seconds that the others have to end once a process has failed; those that are stopped never do."""

HINTS = {
    signal.SIGKILL: "killed from outside, most often for lack of memory",
    signal.SIGSEGV: "a crash inside of a library",
    signal.SIGABRT: "a crash inside of a library",
    signal.SIGBUS: "most often for lack of room in /dev/shm, or a file that has become shorter",
}


class ProcessFailed(RuntimeError):
    """A process of the run has failed for no fault of the user; the message is its traceback."""


class Processes:
    """The processes of this machine.

    Args:
        target: a function of a module, called with the local rank, a connection for reports, and
            ``arguments``.
        number: how many.
        first: rank of the first one among those of all machines.
        arguments: further ones.
        asked: exit codes of a process that a signal has stopped.
    """

    def __init__(
        self, target: Callable[..., None], number: int, first: int, arguments: Sequence[Any], asked: Container[int]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.first = first
        self._asked_codes = asked
        self.reports: list[Any] = []
        self._pipes = []
        self.processes: list[Any] = []
        for local in range(number):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=target, args=(local, there, *arguments), name=f"process {first + local}")
            process.start()
            there.close()
            self._pipes.append(here)
            self.processes.append(process)
        self._failed: list[int] = []
        self._stopped: list[Any] = []

    def wait(self) -> None:
        """Wait for all of them; a signal is theirs, and they have as long as they need to save."""
        while True:
            try:
                self._wait()
                return
            except Interrupted as request:
                for process in self.processes:
                    if process.is_alive():
                        os.kill(process.pid, request.number)

    def _wait(self) -> None:
        deadline = None
        while alive := [process for process in self.processes if process.exitcode is None]:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = connection.wait([*(p.sentinel for p in alive), *self._pipes], timeout=left)
            for pipe in [pipe for pipe in self._pipes if pipe in ready]:
                self._receive(pipe)
            for local, process in enumerate(self.processes):
                if process.exitcode not in (None, 0) and local not in self._failed:
                    self._failed.append(local)
                    if not self._asked(process.exitcode):
                        deadline = deadline or time.monotonic() + PATIENCE
            if deadline is not None and time.monotonic() >= deadline:
                for process in alive:
                    self._stopped.append(process)
                    process.kill()
                deadline = None
        for pipe in list(self._pipes):
            while pipe in self._pipes and pipe.poll():
                self._receive(pipe)

    def _receive(self, pipe: Any) -> None:
        try:
            self.reports.append(pipe.recv())
        except (EOFError, OSError):
            self._pipes.remove(pipe)

    def _asked(self, code: int) -> bool:
        """Whether a process has ended because it was asked to, and others may still be saving."""
        return code in self._asked_codes or -code in HANDLED

    def killed(self) -> tuple[int, int] | None:
        """Rank and signal of the first process that a signal has ended which asks for nothing; None without one."""
        for local in self._failed:
            code = self.processes[local].exitcode
            if code < 0 and -code not in HANDLED and self.processes[local] not in self._stopped:
                return self.first + local, -code
        return None

    def codes(self) -> list[int]:
        """Exit codes of those that have failed, in the order of their ends."""
        return [self.processes[local].exitcode for local in self._failed]


def describe_signal(rank: int, number: int) -> str:
    """Say in one line that a signal has ended a process."""
    try:
        name = signal.Signals(number)
    except ValueError:
        return f"process {rank} was ended by signal {number}"
    hint = HINTS.get(name)
    return f"process {rank} was ended by {name.name}{f': {hint}' if hint else ''}"


def end_with_parent() -> None:
    """Have this process end as by SIGTERM when the one that has started it is gone."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        pass_on(signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
