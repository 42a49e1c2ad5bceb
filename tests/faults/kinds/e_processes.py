"""E: processes that die, stop, or meet: ranks, launchers, and two runs in one folder."""

from __future__ import annotations

import os
import signal
import socket

from tests.faults.case import Broken, Step, fault
from tests.faults.kinds.e_workers import FAILED, told_and_resumed, wakes_after_word
from tests.faults.process import Running
from tests.faults.promises import (
    INTERRUPTED,
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
)
from tests.faults.stage import KILL, Act, Stage, send
from tests.faults.trigger import Moment
from tests.faults.world import EPOCH_STEPS, STEPS

SOON = 20.0
"""Seconds in which the other processes end when one has died."""


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
    wakes_after_word(stage, running, lambda: running.family("spawn_main"))


fault("E", "two processes: one is stopped, then goes on", two_stopped, equals_whole_numbers)


def two_stopped_for_good(number: int) -> Step:
    """A rank stands still and never goes on: the run ends after ``dist_timeout``, and is gone on with."""

    def inject(stage: Stage) -> None:
        stage.use("two")
        stage.interrupted(Moment("step", 5, rank=0), rank(number, signal.SIGSTOP), "dist_timeout=12")
        refused(f"process {number}", "dist_timeout", codes=FAILED)(stage)
        stage.resume()

    return inject


for _number in (0, 1):
    fault("E", f"two processes: rank {_number} stands still", two_stopped_for_good(_number), equals_whole_numbers)
fault(
    "E",
    "two processes: the second gets SIGTERM in the evaluation",
    two(rank(1, signal.SIGTERM), step=EPOCH_STEPS),
    equals_whole_numbers,
)
fault(
    "E",
    "two processes share their norms on the CPU",
    lambda stage: (stage.use("two"), stage.train("sync_bn=True")),
    ended(OK),
)

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
SRUN = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "8", "SLURM_STEP_ID": "0"}
for _changes, _words in (
    ({**SRUN, "SLURM_PROCID": "x"}, ("SLURM_PROCID", "x")),
    ({**SRUN, "SLURM_PROCID": "2"}, ("SLURM_PROCID", "SLURM_NTASKS")),
    ({**SRUN, "SLURM_LOCALID": None}, ("SLURM_LOCALID",)),
    ({**SRUN, "SLURM_NNODES": "2"}, ("MASTER_ADDR",)),
    ({"OMPI_COMM_WORLD_RANK": "0"}, ("OMPI_COMM_WORLD_SIZE",)),
    ({"PMI_RANK": "0", "PMI_SIZE": "two", "MPI_LOCALRANKID": "0"}, ("PMI_SIZE", "two")),
):
    fault(
        "E",
        f"a launcher says {', '.join(f'{key}={value}' for key, value in _changes.items())}",
        lambda stage, env=_changes: stage.train(env=env),
        refused(*_words),
    )
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


def rehearsal(*options: str, of: str = "") -> Step:
    """``--dry-run``, in the folder of a run if one is named."""

    def inject(stage: Stage) -> None:
        if of:
            stage.take(getattr(stage.world, of)("student"))
            keep(stage)
        stage.train(*options, flags=("--dry-run",))
        if not of and stage.run.exists():
            raise Broken("leaked", f"--dry-run has made {stage.run}")

    return inject


fault("E", "a rehearsal", rehearsal(), ended(OK), said("the whole training would take"))
fault("E", "a rehearsal in the folder of a run", rehearsal(of="half"), refused("run"), kept)
fault("E", "a rehearsal of a run that goes on", rehearsal("resume=True", of="half"), ended(OK), kept)
fault(
    "E",
    "the precise test is interrupted",
    told_and_resumed(
        act=send(signal.SIGINT),
        recipe="student",
        moment=Moment("read", 4, "/08/velodyne/000001"),
        codes=(INTERRUPTED,),
    ),
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
