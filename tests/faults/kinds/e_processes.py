"""E: processes that die, stop, or meet: loading processes, ranks, launchers, and two runs in one folder."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from pathlib import Path

from tests.faults import linux
from tests.faults.case import Broken, Step, fault
from tests.faults.process import Running
from tests.faults.promises import (
    AGAIN,
    INTERRUPTED,
    LOST_LOSS,
    OK,
    USER,
    ended,
    equals_whole,
    equals_whole_numbers,
    iteration,
    keep,
    kept,
    refused,
    said,
    saved_at,
)
from tests.faults.stage import KILL, Act, Stage, send, send_workers
from tests.faults.trigger import Moment
from tests.faults.world import EPOCH_STEPS, STEPS

FAILED = (LOST_LOSS, USER, AGAIN)
SOON = 20.0
"""Seconds in which the other processes end when one has died."""
WATCH = 90.0
"""Seconds in which a run says that it waits for something."""


def told_and_resumed(*words: str, act: Act, recipe: str, moment: Moment, at_least: int | None = None) -> Step:
    """Something happens to the run's processes; it ends well, or says so in one line, has saved, and goes on."""

    def inject(stage: Stage) -> None:
        stage.use(recipe)
        stage.interrupted(moment, act)
        if stage.ending.code == OK:
            return
        refused(*words, codes=FAILED)(stage)
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
    _wakes_after_word(stage, running, running.workers)


def _wakes_after_word(stage: Stage, running: Running, who) -> None:
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


# --- two runs and one folder ---


def beside(*options: str, half: bool = False) -> Step:
    """While a run trains, another one is started in its folder; the first ends as if alone, the second is refused."""

    def act_for(stage: Stage) -> Act:
        def act(running: Running, pid: int) -> None:
            stage.train(*options)

        return act

    def inject(stage: Stage) -> None:
        first = stage.start("train", *stage.command(), moment=Moment("step", EPOCH_STEPS + 1), then=act_for(stage))
        stage.end(first)
        second = stage.endings.pop(0)
        stage.endings.append(second)
        refused("run|process", str(first.pid))(stage)
        stage.endings.reverse()

    return inject


fault("E", "a second run in the folder of one that runs", beside(), equals_whole, quick=True)
fault("E", "a resume of a run that still runs", beside("resume=True"), equals_whole)


def over(run: str, *options: str) -> Step:
    """Start a run in the folder of another one, without resume."""

    def inject(stage: Stage) -> None:
        stage.take(getattr(stage.world, run)("student"))
        keep(stage)
        stage.train(*options)

    return inject


for _run, _what in (("whole", "finished"), ("half", "half-finished")):
    for _options in ((), ("seed=9",), ("model.backbone.drop_path=0.0",), ("evaluate=False",)):
        more = f", {_options[0]}" if _options else ""
        fault(
            "E",
            f"a new run over a {_what} one{more}",
            over(_run, *_options),
            kept,
            quick=_run == "half" and not _options,
        )


def test_beside(stage: Stage) -> None:
    """Two tests at once into one folder: one of them is refused, or both give the same files."""
    stage.weight()

    def act(running: Running, pid: int) -> None:
        stage.test()

    stage.end(
        stage.start(
            "test", *stage.command(f"weight={stage.weight()}"), moment=Moment("read", 2, "/08/velodyne"), then=act
        )
    )


def one_result(stage: Stage) -> None:
    codes = sorted(ending.code or 0 for ending in stage.endings)
    if codes not in ([OK, OK], [OK, USER]):
        raise Broken("unclear", f"exit codes {codes}")


fault("E", "two tests at once into one folder", test_beside, one_result)


# --- two processes ---


def rank(number: int, *signals: int) -> Act:
    """Send signals to one rank of two."""

    def act(running: Running, pid: int) -> None:
        ranks = running.family("spawn_main")
        for each in signals:
            running.send(each, ranks[number])

    return act


def two(act: Act, *words: str, step: int = EPOCH_STEPS + 2, at: int = 0, codes: tuple[int, ...] = FAILED) -> Step:
    """Train with two processes, do something to them when rank ``at`` has done ``step``, and go on."""

    def inject(stage: Stage) -> None:
        stage.use("two")
        ending = stage.interrupted(Moment("step", step, rank=at), act)
        if ending.seconds > 3 * SOON:
            raise Broken("hung", f"the processes needed {ending.seconds:.0f} s to end")
        if words:
            refused(*words, codes=codes)(stage)
        stage.notes["saved"] = iteration(stage.last)
        stage.resume()

    return inject


fault("E", "two processes: nothing at all", lambda stage: (stage.use("two"), stage.train()), equals_whole)
for _number in (0, 1):
    fault(
        "E",
        f"two processes: rank {_number} gets SIGKILL",
        two(rank(_number, signal.SIGKILL), "rank|process"),
        equals_whole_numbers,
    )
    fault("E", f"two processes: rank {_number} gets SIGTERM", two(rank(_number, signal.SIGTERM)), equals_whole_numbers)
    fault(
        "E",
        f"two processes: rank {_number} gets SIGSEGV",
        two(rank(_number, signal.SIGSEGV), "rank|process"),
        equals_whole_numbers,
    )
fault("E", "two processes: the launcher gets SIGKILL", two(KILL), equals_whole_numbers)
fault("E", "two processes: the launcher gets SIGTERM", two(send(signal.SIGTERM)), equals_whole_numbers)
fault("E", "two processes: SIGINT to all", two(send(signal.SIGINT, group=True)), equals_whole_numbers)
fault("E", "two processes: SIGTERM to all", two(send(signal.SIGTERM, group=True)), equals_whole_numbers)
fault("E", "two processes: SIGTERM in the first step", two(send(signal.SIGTERM), step=1), equals_whole_numbers)


def two_damaged(stage: Stage) -> None:
    """One rank finds a damaged scan while the other waits for it."""
    stage.use("two")
    os.truncate(stage.scan(3), 33)
    stage.train()


fault("E", "two processes: one finds a damaged scan", two_damaged, refused("000003"))


def two_stopped(stage: Stage) -> None:
    """A rank stands still; the other one says so."""
    stage.use("two")
    running = stage.start(
        "train",
        *stage.command(flags=("--num-gpus", "2")),
        moment=Moment("step", 4, rank=0),
        then=rank(1, signal.SIGSTOP),
    )
    _wakes_after_word(stage, running, lambda: running.family("spawn_main"))


fault("E", "two processes: one is stopped, then goes on", two_stopped, equals_whole_numbers)

# --- what launchers say ---

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501"}


def launched(changes: dict[str, str | None], *flags: str) -> Step:
    return lambda stage: stage.train(env={**TORCHRUN, **changes}, flags=flags)


for _changes, _words in (
    ({"RANK": "abc"}, ("RANK", "abc")),
    ({"RANK": "-1"}, ("RANK", "-1")),
    ({"RANK": "1"}, ("RANK", "WORLD_SIZE")),
    ({"RANK": ""}, ("RANK",)),
    ({"WORLD_SIZE": "0"}, ("WORLD_SIZE", "0")),
    ({"WORLD_SIZE": "two"}, ("WORLD_SIZE", "two")),
    ({"WORLD_SIZE": None}, ("WORLD_SIZE",)),
    ({"LOCAL_RANK": "x"}, ("LOCAL_RANK", "x")),
    ({"LOCAL_RANK": "-3"}, ("LOCAL_RANK", "-3")),
    ({"LOCAL_RANK": None}, ("LOCAL_RANK",)),
    ({"MASTER_PORT": "abc"}, ("MASTER_PORT", "abc")),
    ({"MASTER_PORT": "99999"}, ("MASTER_PORT", "99999")),
    ({"MASTER_PORT": None}, ("MASTER_PORT",)),
    ({"MASTER_ADDR": None}, ("MASTER_ADDR",)),
):
    _name, _value = next(iter(_changes.items()))
    fault("E", f"torchrun: {_name}={_value}", launched(_changes), refused(*_words))
for _flags, _word in (
    (("--num-gpus", "0"), "--num-gpus"),
    (("--num-gpus", "-2"), "--num-gpus"),
    (("--num-machines", "0"), "--num-machines"),
    (("--num-machines", "2"), "--dist-url"),
    (("--num-machines", "2", "--machine-rank", "2", "--dist-url", "tcp://127.0.0.1:1"), "--machine-rank"),
    (("--num-machines", "2", "--dist-url", "nonsense"), "--dist-url"),
    (("--num-machines", "2", "--dist-url", "tcp://127.0.0.1"), "--dist-url"),
    (("--num-machines", "2", "--dist-url", "tcp://127.0.0.1:99999"), "--dist-url"),
):
    fault("E", f"flags {' '.join(_flags)}", lambda stage, flags=_flags: stage.train(flags=flags), refused(_word))

PATIENCE = ("dist_timeout=10",)
"""How long processes wait for each other at most, in seconds."""


def other_machine(url: str, number: str) -> Step:
    flags = ("--num-machines", "2", "--machine-rank", number, "--dist-url", url)
    return lambda stage: stage.train(*PATIENCE, flags=flags)


def taken_port(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other_machine(f"tcp://127.0.0.1:{other.getsockname()[1]}", "0")(stage)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


fault("E", "the port of the first machine is taken", taken_port, refused("port|address", codes=FAILED))
fault(
    "E",
    "the first machine does not exist",
    other_machine("tcp://no.such.host.invalid:29500", "1"),
    refused("no.such.host", codes=FAILED),
)
fault(
    "E",
    "the first machine is not there",
    lambda stage: other_machine(f"tcp://127.0.0.1:{free_port()}", "1")(stage),
    refused("127.0.0.1|machine", codes=FAILED),
)
fault(
    "E",
    "the second machine never comes",
    lambda stage: other_machine(f"tcp://127.0.0.1:{free_port()}", "0")(stage),
    refused("machine|process|rank", codes=FAILED),
)
fault(
    "E",
    "srun without torchrun: the other task never comes",
    lambda stage: stage.train(
        *PATIENCE,
        env={
            "SLURM_PROCID": "0",
            "SLURM_NTASKS": "2",
            "SLURM_LOCALID": "0",
            "SLURM_NODELIST": "localhost",
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_JOB_ID": "77",
            "SLURM_NNODES": "1",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "2",
        },
    ),
    refused("slurm|task|process", codes=FAILED),
)
fault(
    "E",
    "the precise test is interrupted",
    told_and_resumed(act=send(signal.SIGINT), recipe="student", moment=Moment("read", 4, "/08/velodyne/000001")),
    equals_whole,
)
fault(
    "E",
    "train is interrupted before it has read its config",
    lambda stage: stage.interrupted(Moment("read", 1, "config.py"), send(signal.SIGINT)),
    ended(INTERRUPTED),
    said("interrupted"),
)
assert STEPS > EPOCH_STEPS + 2
