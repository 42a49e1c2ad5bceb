"""Several runs at a time, each in a process of its own, until all are done or the time is over."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pointcept.engines.interrupt import Interrupts
from pointcept.engines.launch import AGAIN, KEYBOARD
from pointcept.engines.study.plan import Run
from pointcept.utils.config import Config
from pointcept.utils.device import device_count
from pointcept.utils.errors import ConfigError

logger = logging.getLogger(__name__)

TAIL = 12  # lines of a failed run's output that are shown
STOPPED = (AGAIN, KEYBOARD, -signal.SIGTERM, -signal.SIGKILL)


def finished(run: Run) -> dict[str, Any] | None:
    """The result of a run, or None if it has none yet.

    Raises:
        ConfigError: the file is the result of another recipe.
    """
    if not run.result.exists():
        return None
    result: dict[str, Any] = json.loads(run.result.read_text(encoding="utf-8"))
    if result["fingerprint"] != run.fingerprint:
        raise ConfigError(
            f"{run.result} is the result of another recipe: give the row another name, or delete the file"
        )
    return result


def left_to_do(runs: Sequence[Run]) -> list[Run]:
    """The runs that have no result and those of the teachers that they need: teachers first, then what has begun.

    Raises:
        ConfigError: a result of another recipe, or a finished teacher whose weights are not there.
    """
    left: dict[str, Run] = {}

    def add(run: Run) -> None:
        if run.teacher is not None:
            if finished(run.teacher) is None:
                add(run.teacher)
            elif not run.teacher.weights.exists():
                raise ConfigError(
                    f"{run.name} needs {run.teacher.weights}: bring it back, or delete {run.teacher.result} to train "
                    "it again"
                )
        left.setdefault(run.name, run)

    for run in runs:
        if finished(run) is None:
            add(run)
    teachers = {run.teacher.name for run in left.values() if run.teacher is not None}
    return sorted(left.values(), key=lambda run: (run.name not in teachers, not begun(run)))


def begun(run: Run) -> bool:
    """Whether an interrupted training can go on."""
    return (run.folder / "model" / "model_last.pth").exists()


@dataclass
class Outcome:
    """What became of runs.

    Attributes:
        done: names of those that have a result now.
        failed: name -> the end of its output.
        left: names of those that were interrupted, not begun, or need the weights of one that failed.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


class Jobs:
    """Runs processes.

    Args:
        jobs: processes at a time; over several GPUs they take turns.
        time_limit: seconds until all of them have ended; None for as long as it takes.
        grace: seconds before the limit at which running trainings are told to save and stop. In the same
            time before that nothing begins any more.
        start: starts a process for ``(run, slot)``, slots being numbers below ``jobs``.
    """

    def __init__(
        self,
        jobs: int = 1,
        time_limit: float | None = None,
        grace: float = 45.0,
        start: Callable[[Run, int], Any] | None = None,
    ) -> None:
        self.jobs = jobs
        self.start = start or (lambda run, slot: start_process(run, slot, jobs))
        self.end = time.monotonic() + (float("inf") if time_limit is None else time_limit)
        self.grace = grace
        self.outcome = Outcome()
        self._active: dict[int, tuple[Run, Any, float]] = {}
        self._stopping = False

    def run(self, runs: Sequence[Run], poll: float = 0.2) -> Outcome:
        """Do the runs, in their order as far as their teachers allow.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; running trainings have been told to save and have ended.
        """
        waiting = list(runs)
        total = len(waiting)
        with Interrupts():
            try:
                while True:
                    self._reap(total)
                    now = time.monotonic()
                    if now < self.end - 2 * self.grace and not self._stopping:
                        self._fill(waiting)
                    if not self._active:
                        break
                    if now >= self.end - self.grace:
                        self._stop()
                    if now >= self.end:
                        self._kill()
                    time.sleep(poll)
            except KeyboardInterrupt:
                self._abandon(poll)
                raise
            finally:
                self._kill()
        self.outcome.left += [run.name for run in waiting]
        return self.outcome

    def _fill(self, waiting: list[Run]) -> None:
        """Start what can start."""
        for slot in range(self.jobs):
            run = next((run for run in waiting if self._ready(run)), None)
            if slot in self._active or run is None:
                continue
            waiting.remove(run)
            logger.info("start %s", run.name)
            self._active[slot] = (run, self.start(run, slot), time.monotonic())

    @staticmethod
    def _ready(run: Run) -> bool:
        return run.teacher is None or (run.teacher.result.exists() and run.teacher.weights.exists())

    def _reap(self, total: int) -> None:
        """Take note of the processes that have ended."""
        for slot, (run, process, begin) in list(self._active.items()):
            code = process.poll()
            if code is None:
                continue
            del self._active[slot]
            seconds, result = time.monotonic() - begin, finished(run)
            if code == 0 and result is not None:
                self.outcome.done.append(run.name)
                logger.info(
                    "done  %s: mIoU quick %.2f %% on its scenes, %.0f s (%d of %d)",
                    *(run.name, 100 * result["miou_present"], seconds, len(self.outcome.done), total),
                )
            elif self._stopping and code in STOPPED:
                self.outcome.left.append(run.name)
                logger.info("stop  %s after %.0f s", run.name, seconds)
            else:
                self.outcome.failed[run.name] = tail(run)
                logger.error("FAILED %s after %.0f s with code %d:\n%s", run.name, seconds, code, tail(run))

    def _stop(self) -> None:
        """Tell every training to save and stop, once."""
        if not self._stopping:
            self._stopping = True
            for _, process, _ in self._active.values():
                process.terminate()

    def _abandon(self, poll: float) -> None:
        """After an interrupt: stop, and wait as long as a training may take to save."""
        self._stop()
        end = time.monotonic() + self.grace
        while time.monotonic() < end and any(process.poll() is None for _, process, _ in self._active.values()):
            time.sleep(poll)

    def _kill(self) -> None:
        """End what is still running, with its loading processes."""
        for _, process, _ in self._active.values():
            if process.poll() is None:
                process.kill()


def tail(run: Run) -> str:
    """The last lines that the process of a run has written."""
    path = output_of(run)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return "\n".join(f"    {line}" for line in lines[-TAIL:])


def output_of(run: Run) -> Path:
    """What the process of a run writes."""
    return run.folder / "output.log"


class Process(subprocess.Popen):  # type: ignore[type-arg]
    """A process that leads a group; to kill it is to kill the group."""

    def kill(self) -> None:
        """End the process and those that it has started."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def start_process(run: Run, slot: int, jobs: int) -> Process:
    """Start the process of a run, with its share of GPUs and cores.

    Args:
        run: what to do.
        slot: its place among those that run beside each other.
        jobs: how many run beside each other.
    """
    environment = dict(os.environ)
    count = device_count()
    if count > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if len(visible) == count else [str(i) for i in range(count)]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot % count]
    cores = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment.setdefault("OMP_NUM_THREADS", str(cores))
    config = Config(run.config.to_dict())
    config.num_worker = min(config.num_worker, cores)
    output = output_of(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "wb") as file:
        process = Process(
            [sys.executable, "-m", "pointcept.engines.study.work"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(pickle.dumps(replace(run, config=config)))
        process.stdin.close()
    except BrokenPipeError:
        logger.warning("%s ended before it had read what to do", run.name)
    return process
