"""The data loader: torch's, which goes on when a loading process is lost, and says what it waits for."""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from multiprocessing import connection
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from pointcept.datasets.base import Draw
from pointcept.engines.parcel import Packing, Parcel
from pointcept.engines.watchdog import WATCHDOG
from pointcept.engines.workers import (
    CAUSES,
    UNKNOWN,
    Workers,
    affordable,
    machine_facts,
    start_worker,
    state_of,
    worker_context,
)
from pointcept.utils.checkpoint import some
from pointcept.utils.device import device_count, random_state, set_random_state
from pointcept.utils.errors import MachineError
from pointcept.utils.faults import NO_FILE, machine_fault
from pointcept.utils.logging import warning_level

logger = logging.getLogger(__name__)

RESTARTS = 3
"""How often loading processes are started again within ``CALM`` batches."""
CALM = 500
NOTICE = 3.0
"""Seconds in which the end of a process is known, once something it should have sent is missing."""
STUCK = 15.0
"""Seconds of waiting after which torch should have noticed that a loading process has ended."""


class Outstanding(Sampler[list[Draw]]):
    """The draws of each batch, and which of them have been handed out and not come back as batches.

    Args:
        sampler: yields draws.
        batch_size: draws of a batch.
    """

    def __init__(self, sampler: Sampler[Draw], batch_size: int) -> None:
        self._batches: Any = BatchSampler(sampler, batch_size, drop_last=False)  # type: ignore[arg-type]  # of draws
        self._rest: Iterator[list[Draw]] = iter(())
        self._handed: deque[list[Draw]] = deque()

    def begin(self) -> None:
        """Begin a pass over the sampler."""
        self._rest, self._handed = iter(self._batches), deque()

    def arrived(self) -> None:
        """The first batch that was handed out is there."""
        self._handed.popleft()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Draw]]:
        """What has not come back, and what was not handed out."""
        again, self._handed = list(self._handed), deque()
        for draws in chain(again, self._rest):
            self._handed.append(draws)
            yield draws


class Loader(DataLoader):
    """A data loader that can be closed, and that leaves the random generators of this process as they are.

    Without loading processes the samples seed and use them here; what the model draws would otherwise depend on the
    number of loading processes.

    A batch is a function of its draws. So when a loading process is lost, all of them are started again, with the
    draws whose batches have not come, and what follows is what it would have been.

    Args:
        dataset: a :class:`~pointcept.engines.data.ReportingDataset`.
        sampler: yields draws.
        batch_size: samples of a batch.
        collate: makes a batch of samples.
        workers: loading processes.
        seed: of its own generator: otherwise each new pass takes a number from torch's global one, and a run resumed
            within an epoch would no longer be the same.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: Sampler[Draw],
        batch_size: int,
        collate: Callable[[Sequence[Any]], Any],
        workers: int,
        seed: int,
    ) -> None:
        workers = affordable(workers)
        generator = torch.Generator()
        generator.manual_seed(seed)
        self._draws = Outstanding(sampler, batch_size)
        self._packing = Packing(collate)
        self._current: Iterator[Any] | None = None
        self._losses: list[int] = []
        self._delivered = 0
        self._told_of_room = False
        dataset.share(workers)
        super().__init__(
            dataset,
            batch_sampler=self._draws,
            collate_fn=self._packing,
            num_workers=workers,
            pin_memory=device_count() > 0,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker if workers else None,
            multiprocessing_context=worker_context() if workers else None,
            generator=generator,
        )

    def close(self) -> None:
        """End the loading processes.

        After an error its traceback keeps them alive: the garbage collector then waits five seconds for
        them, or Python ends them at its exit, which torch reports as a crash.
        """
        iterator, self._iterator, self._current = self._iterator, None, None
        if isinstance(iterator, Workers):
            if any("stopped" in state_of(worker.pid) for worker in iterator._workers):
                iterator.kill()
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # one that hangs; it ignores gentler signals

    def _get_iterator(self) -> Any:
        if not self.num_workers:
            return super()._get_iterator()
        return Workers(self)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._draws.begin()
        with WATCHDOG.waiting(self._what, self._look):
            self._start()  # now: processes load ahead while the caller is busy
        return self._batches()

    def _start(self) -> None:
        """Begin with the draws that are outstanding."""
        while True:
            try:
                self._current = super().__iter__()  # type: ignore[assignment]
                return
            except (RuntimeError, OSError, EOFError) as error:
                if self._iterator is None:
                    self._do_without(error)
                else:
                    self._replace(error)

    def _batches(self) -> Iterator[Any]:
        while True:
            with WATCHDOG.waiting(self._what, self._look):
                batch = self._next()
            if batch is None:
                return
            self._draws.arrived()
            self._delivered += 1
            if isinstance(batch, Parcel):
                self._tell_of_room(batch.reason)
                batch = batch.unpack()
            yield batch

    def _next(self) -> Any:
        """The next batch, or None."""
        while True:
            assert self._current is not None
            if not self.num_workers:
                state = random_state()
                try:
                    return next(self._current, None)
                finally:
                    set_random_state(state)
            try:
                return next(self._current, None)
            except (RuntimeError, OSError, EOFError) as error:
                if str(error).startswith("Caught "):  # it was raised in a loading process, by what it reads
                    raise
                self._replace(error)
            self._start()

    def _replace(self, error: Exception) -> None:
        """End what is left of the loading processes after one was lost; they are started again.

        Raises:
            MachineError: that has happened too often.
        """
        iterator = self._iterator
        assert isinstance(iterator, Workers)
        if not iterator.lost():
            connection.wait([worker.sentinel for worker in iterator._workers], NOTICE)
        text = self._loss(iterator, error)
        fault = machine_fault(error) or ""
        if any(word in f"{fault} {error}".lower() for word in NO_FILE):
            self._packing.shared = False  # a message needs no file
        iterator.kill()
        self._iterator = self._current = None
        self._losses = [*(number for number in self._losses if number > self._delivered - CALM), self._delivered]
        if len(self._losses) > RESTARTS:
            raise MachineError(f"{text}; that is number {len(self._losses)}, so no other ones are started") from error
        if len(self._losses) > 1:
            self.num_workers = max(1, self.num_workers // 2)
        self.multiprocessing_context = worker_context()  # its server may have died as well
        logger.log(warning_level(), "%s; %d start again with what was not there yet", text, self.num_workers)

    def _loss(self, iterator: Workers, error: Exception) -> str:
        """Says what has become of loading processes, what they read, and why that may be."""
        lost = iterator.lost()
        if not lost:
            return f"batches no longer come from the loading processes ({error}); {machine_facts()}"
        signals = [-worker.exitcode for worker in lost if worker.exitcode is not None and worker.exitcode < 0]
        by = f" by {signal_name(signals[0])}" if signals else ""
        cause = CAUSES.get(signals[0], UNKNOWN) if signals else UNKNOWN  # type: ignore[call-overload]
        which = some([f"{worker.pid} read {self._begun_by(iterator, worker)}" for worker in lost], 4)
        count = f"{len(lost)} of {len(iterator._workers)}"
        return f"lost {count} loading processes, ended{by}: {which}: {cause}; {machine_facts()}"

    def _begun_by(self, iterator: Workers, worker: Any) -> str:
        return str(self.dataset.begun_by(iterator._workers.index(worker)))  # type: ignore[attr-defined]

    def _do_without(self, error: Exception) -> None:
        """Load in this process, since loading processes cannot be started."""
        fault = machine_fault(error) or ("their server has ended" if isinstance(error, EOFError) else None)
        if fault is None or not self.num_workers:
            raise error
        self.num_workers = 0
        logger.log(
            warning_level(),
            "loading processes cannot be started (%s): this one loads, slower, with the same result",
            fault,
        )

    def _tell_of_room(self, reason: str) -> None:
        if reason and not self._told_of_room:
            self._told_of_room = True
            logger.log(
                warning_level(),
                "batches come through pipes, which is slower, since there is no shared memory for them (%s); in a "
                "container: docker run --shm-size=8g, or --ipc=host",
                reason,
            )

    def _what(self) -> str:
        """Says what is waited for."""
        iterator = self._iterator
        if not isinstance(iterator, Workers):
            return f"this process reads {self.dataset.begun_by()}"  # type: ignore[attr-defined]
        busy = [iterator._workers[number] for number in iterator.busy()]
        parts = [
            f"loading process {worker.pid} ({state_of(worker.pid) or 'waits'}) reads {self._begun_by(iterator, worker)}"
            for worker in busy
        ]
        if not parts:
            parts = [f"{worker.pid} ({state_of(worker.pid) or 'waits'})" for worker in iterator._workers]
            return f"no answer from the loading processes {some(parts, 4)}"
        return f"no batch from the loading processes: {some(parts, 4)}"

    def _look(self, seconds: float) -> None:
        """In the thread of the watchdog: end a wait for the rest of a message whose sender has ended."""
        iterator = self._iterator
        if seconds > STUCK and isinstance(iterator, Workers) and not iterator._shutdown and iterator.lost():
            iterator.wake()


def signal_name(number: int) -> str:
    """``SIGKILL``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
