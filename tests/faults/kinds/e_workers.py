"""E: loading processes that die, stop, or find too little of the machine."""

from __future__ import annotations

import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np

from tests.faults import linux, records
from tests.faults.case import Broken, Step, fault
from tests.faults.process import Running
from tests.faults.promises import (
    AGAIN,
    INTERRUPTED,
    LOST_LOSS,
    OK,
    USER,
    equals_whole,
    equals_whole_numbers,
    refused,
    said,
    saved_at,
    succeeded,
)
from tests.faults.stage import Act, Stage, send, send_workers
from tests.faults.trigger import Moment
from tests.faults.world import EPOCH_STEPS, TRAIN_SCANS, VAL_SCANS
from tests.integration.scans import write_scan

FAILED = (LOST_LOSS, USER, AGAIN)
WATCH = 90.0
"""Seconds in which a run says that it waits for something."""


def told_and_resumed(
    *words: str,
    act: Act,
    recipe: str,
    moment: Moment,
    at_least: int | None = None,
    codes: tuple[int, ...] = FAILED,
) -> Step:
    """Something happens to the run's processes; it ends well, or says so in one line, has saved, and goes on."""

    def inject(stage: Stage) -> None:
        stage.use(recipe)
        stage.interrupted(moment, act)
        if stage.ending.code == OK:
            return
        if codes != FAILED or stage.ending.code not in (AGAIN, INTERRUPTED):  # which say so in other words
            refused(*words, codes=codes)(stage)
        if at_least is not None:
            saved_at(at_least)(stage)
        stage.resume()

    return inject


# --- loading processes ---

for _name in ("SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT", "SIGBUS"):
    for _step in (1, EPOCH_STEPS + 2) if _name in ("SIGKILL", "SIGSEGV") else (EPOCH_STEPS + 2,):
        fault(
            "E",
            f"a loading process gets {_name} in step {_step}",
            told_and_resumed(
                "loading|worker",
                act=send_workers(getattr(signal, _name)),
                recipe="workers",
                moment=Moment("step", _step),
                at_least=_step,
            ),
            equals_whole_numbers,
        )
fault(
    "E",
    "all loading processes get SIGKILL in an evaluation",
    told_and_resumed(
        "loading|worker",
        act=send_workers(signal.SIGKILL, first=False),
        recipe="workers",
        moment=Moment("write", 1, "model_last"),
        at_least=None,
    ),
    equals_whole_numbers,
)


def kill_server(running: Running, pid: int) -> None:
    """The process that loading processes are forked from."""
    running.send(signal.SIGKILL, running.family("multiprocessing.forkserver")[0])


fault(
    "E",
    "the server of the loading processes gets SIGKILL",
    told_and_resumed("loading|worker", act=kill_server, recipe="workers", moment=Moment("step", EPOCH_STEPS + 2)),
    equals_whole_numbers,
)


def stopped_worker(stage: Stage) -> None:
    """Loading processes stand still, as on a file server that does not answer; the run says so, and goes on later."""
    stage.use("workers")
    running = stage.start(
        "train", *stage.command(), moment=Moment("step", 2), then=send_workers(signal.SIGSTOP, first=False)
    )
    wakes_after_word(stage, running, running.workers)


def wakes_after_word(stage: Stage, running: Running, who) -> None:
    """Wait for the word of a watchdog while some processes stand still, let them go on, and wait for the end."""
    heard: list[bool] = []

    def watch() -> None:
        words = ("waiting", "stands still", "no batch")
        heard.append(linux.wait_for(lambda: any(word in running.text().lower() for word in words), WATCH))
        for pid in who():
            running.send(signal.SIGCONT, pid)

    watcher = threading.Thread(target=watch)
    watcher.start()
    stage.end(running, WATCH + 60)
    watcher.join()
    if not all(heard):
        raise Broken("hung", f"not a word within {WATCH:.0f} s: {stage.ending.said[-300:]}")


fault("E", "loading processes are stopped, then go on", stopped_worker, equals_whole_numbers)
for _name in ("SIGHUP", "SIGQUIT", "SIGUSR1"):
    fault(
        "E",
        f"{_name} to a run and its loading processes",
        told_and_resumed(
            act=send(getattr(signal, _name), group=True), recipe="workers", moment=Moment("step", EPOCH_STEPS + 2)
        ),
        equals_whole,
    )


def few_files(limit: int, recipe: str) -> Step:
    def inject(stage: Stage) -> None:
        stage.use(recipe)
        stage.train(limits={resource.RLIMIT_NOFILE: limit})
        if stage.ending.code != OK:
            refused("file|descriptor|ulimit", codes=FAILED)(stage)
            stage.resume()

    return inject


for _limit in (16, 32, 48, 64):
    fault("E", f"ulimit -n {_limit} with loading processes", few_files(_limit, "workers"), equals_whole_numbers)


def small_shared_memory(size: str) -> Step:
    def inject(stage: Stage) -> None:
        stage.use("workers")
        linux.mount_memory(Path("/dev/shm"), f"size={size}")
        stage.train()
        if stage.ending.code != OK:
            refused("/dev/shm", codes=FAILED)(stage)
            linux.remount(Path("/dev/shm"), "size=64m")
            stage.resume()

    return inject


for _size in ("4k", "16k", "64k"):
    fault("E", f"/dev/shm of {_size}", small_shared_memory(_size), equals_whole_numbers, mounts=True)


def hard_limit(limit: int) -> Step:
    """``ulimit -n`` of a shell, which no process can raise."""

    def inject(stage: Stage) -> None:
        stage.use("workers")
        stage.train(fresh=True, shell=f'ulimit -n {limit}; exec "$@"')
        if stage.ending.code != OK:
            refused("file|descriptor|ulimit", codes=FAILED)(stage)
            stage.resume()

    return inject


for _limit in (24, 40, 64, 72, 100):
    fault("E", f"ulimit -n {_limit} that cannot be raised", hard_limit(_limit), equals_whole_numbers)


def large_batches(size: str) -> Step:
    """Batches do not fit into /dev/shm, as 16 real scans do not into Docker's 64 MB; the result is the same."""

    def inject(stage: Stage) -> None:
        stage.use("workers", "data['train']['transform'] = _formatting\n")
        random = np.random.default_rng(0)
        for sequence, scans in (("00", TRAIN_SCANS), ("08", VAL_SCANS)):
            for frame in range(scans):
                low, high = (-40, -40, -1, 0), (40, 40, 1, 1)
                write_scan(stage.data, sequence, frame, random.uniform(low, high, (8000, 4)))
        whole, stage.run = stage.run, stage.folder / "roomy"
        stage.train("evaluate=False", "epoch=1", "eval_epoch=1")
        succeeded(stage)
        expected = records.checkpoint(stage.model / "model_last.pth")
        stage.run = whole
        linux.mount_memory(Path("/dev/shm"), f"size={size}")
        stage.train("evaluate=False", "epoch=1", "eval_epoch=1")
        succeeded(stage)
        if list(records.differences(records.checkpoint(stage.model / "model_last.pth"), expected)):
            raise Broken("silent", "another result than with more shared memory")

    return inject


fault("E", "batches larger than /dev/shm", large_batches("600k"), said("/dev/shm|shared memory", "pipes"), mounts=True)


def kill_all_the_time(running: Running, pid: int) -> None:
    """Kill every loading process for as long as the run goes on, as the system does where memory is too small."""

    def kill() -> None:
        while running.text().count("start again") < 9 and linux.command(running.pid):
            for worker in running.workers():
                running.send(signal.SIGKILL, worker)
            time.sleep(0.05)

    threading.Thread(target=kill, daemon=True).start()


def lost_again_and_again(stage: Stage) -> None:
    stage.use("workers")
    stage.interrupted(Moment("step", EPOCH_STEPS + 2), kill_all_the_time)
    refused("SIGKILL", "memory", "number 4")(stage)
    saved_at(EPOCH_STEPS + 2)(stage)
    stage.resume()


fault("E", "loading processes get SIGKILL again and again", lost_again_and_again, equals_whole_numbers)


def stopped_and_orphaned(running: Running, pid: int) -> None:
    """Loading processes stand still when the run is killed: they end all the same."""
    send_workers(signal.SIGSTOP, first=False)(running, pid)
    running.send(signal.SIGKILL)


fault(
    "E",
    "a run is killed while its loading processes are stopped",
    lambda stage: (
        stage.use("workers"),
        stage.interrupted(Moment("step", EPOCH_STEPS + 2), stopped_and_orphaned),
        stage.resume(),
    ),
    equals_whole_numbers,
)


def lost_and_interrupted(running: Running, pid: int) -> None:
    """A loading process is lost, and the run is asked to end before it has noticed."""
    send_workers(signal.SIGKILL)(running, pid)
    running.send(signal.SIGTERM)


def lost_in_two(stage: Stage) -> None:
    """Each of two processes loses its loading process; both go on, and nothing else happens."""
    stage.use("two")
    stage.interrupted(Moment("step", 2, rank=1), send_workers(signal.SIGKILL, first=False), "num_worker=2")


fault(
    "E",
    "a loading process is killed, and the run told to end",
    told_and_resumed(act=lost_and_interrupted, recipe="workers", moment=Moment("step", EPOCH_STEPS + 2)),
    equals_whole_numbers,
)
fault("E", "two processes lose a loader", lost_in_two, equals_whole_numbers)
