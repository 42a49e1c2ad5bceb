"""Starting the processes of a run, and turning its errors into one line and an exit code.

docs/reliability.md has the table of exit codes for users; the constants here are what it says.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pointcept.engines.interrupt import HANDLED, Interrupted, Interrupts
from pointcept.engines.lifeline import End, Lifeline
from pointcept.engines.meeting import choose_interface, meet
from pointcept.engines.spawn import Processes, ProcessFailed, describe_signal, end_with_parent
from pointcept.engines.world import World, from_environment, parse_url
from pointcept.utils import comm, device
from pointcept.utils.errors import CheckpointError, ConfigError, DataError, MachineError
from pointcept.utils.faults import (
    INTERRUPTED,
    USER_ERROR,
    end_at_once,
    exit_at_once,
    machine_errors,
    show_traceback,
)
from pointcept.utils.streams import complain, open_streams

logger = logging.getLogger(__name__)

NOT_FINITE = 1
"""A loss, a trained weight or a score is no number."""
AGAIN = 75
"""A scheduler's signal; what is done is saved, the same command goes on (EX_TEMPFAIL of sysexits.h)."""

CODES = {AGAIN: int(signal.SIGTERM), INTERRUPTED: int(signal.SIGINT)}
"""Exit codes of processes that a signal has stopped, and a signal that stands for it."""
PATIENCE = 600.0
"""Seconds that processes wait for each other where no config says it."""
LEARN = 3.0
"""Seconds in which a process that others have left learns why."""
NEVER = timedelta(days=1)

MISTAKE = "mistake"
"""Kind of an error that is a mistake of ours; its message is the traceback."""

USER_ERRORS: dict[str, type[Exception]] = {
    "ConfigError": ConfigError,
    "DataError": DataError,
    "CheckpointError": CheckpointError,
    "MachineError": MachineError,
    "FloatingPointError": FloatingPointError,
}


@dataclass(frozen=True)
class Report:
    """What has ended a process.

    Args:
        kind: class of the error, or ``MISTAKE``.
        text: its message.
        told: another process has said so.
    """

    kind: str
    text: str
    told: bool

    def error(self) -> Exception:
        """The error, for the process that has started this one."""
        return USER_ERRORS.get(self.kind, ProcessFailed)(self.text)


class Told(Exception):
    """This process ends since another one of the run has failed, which has said why.

    Args:
        code: exit code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"another process of the run has failed; exit code {code}")
        self.code = code


def launch(
    main: Callable[[Any], None],
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    cfg: Any = None,
) -> None:
    """Call ``main(cfg)`` in every process of the run.

    One process per GPU; on the CPU (``POINTCEPT_DEVICE=cpu``) ``num_gpus`` is the number of
    processes. Under ``torchrun``, ``srun`` and ``mpirun`` the processes exist already, see :mod:`~.world`. When one
    fails, the others end within seconds.

    Args:
        main: a function of a module, so that other processes can import it.
        num_gpus: per machine.
        num_machines: machines of the run.
        machine_rank: number of this machine.
        dist_url: where the processes meet, ``tcp://host:port``; ``auto`` on one machine.
        cfg: handed to ``main``; ``dist_timeout`` is how long processes wait for each other at most.

    Raises:
        ConfigError: more GPUs than there are, numbers that contradict each other, or variables of a launcher that do.
        MachineError: processes do not meet, or one was killed or stands still.
        DataError, CheckpointError, FloatingPointError, MachineError: raised by ``main`` in any process.
        Told: under a launcher: another process has failed.
        ProcessFailed: a mistake of ours in another process; with its traceback.
        Interrupted: a process was asked to end.
    """
    patience = float((cfg.get("dist_timeout") if hasattr(cfg, "get") else None) or PATIENCE)
    world = None if num_gpus > 1 or num_machines > 1 else from_environment(dist_url)
    if world is not None:
        _run_under_launcher(main, cfg, world, patience)
        return
    _check(num_gpus, num_machines, machine_rank, dist_url)
    if num_gpus * num_machines == 1:
        main(cfg)
        return
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    host, port = parse_url(dist_url)
    alone = num_machines == 1
    worlds = [
        World(machine_rank * num_gpus + i, num_gpus * num_machines, i, host, port, "--num-machines", alone=alone)
        for i in range(num_gpus)
    ]
    processes = Processes(_process, num_gpus, machine_rank * num_gpus, (main, worlds, cfg, patience), CODES)
    processes.wait()
    _raise_cause(processes)


def _raise_cause(processes: Processes) -> None:
    """Raise what has ended the processes of this machine, if it was not the end of their work."""
    own, told = ([report for report in processes.reports if report.told == told] for told in (False, True))
    if own:
        raise own[0].error()
    killed = processes.killed()
    if killed is not None:
        raise MachineError(describe_signal(*killed))
    if told:
        raise told[0].error()
    for code in processes.codes():
        if code in CODES or -code in HANDLED:
            raise Interrupted(CODES.get(code, -code))
    if processes.codes():
        raise ProcessFailed(f"a process of the run has ended with exit code {processes.codes()[0]}")


def _check(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    if num_gpus < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--num-gpus {num_gpus} --num-machines {num_machines} --machine-rank {machine_rank}: expected at least "
            "one of each and 0 <= rank < machines"
        )
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("several machines need --dist-url tcp://<host of machine 0>:<port>")
    if dist_url != "auto":
        parse_url(dist_url)
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if num_machines == 1 and "SLURM_STEP_ID" in os.environ and tasks.isdigit() and int(tasks) > 1:
        raise ConfigError(
            f"srun has started {tasks} tasks, and --num-gpus {num_gpus} would start as many processes in each: leave "
            "--num-gpus out, or start one task on each machine and give --num-machines, too (scripts/slurm.sh)"
        )
    count = device.device_count()
    if num_gpus > max(count, 1) and device.device_override() != "cpu":
        raise ConfigError(
            f"--num-gpus {num_gpus}, but this machine has {count}; {device.VARIABLE}=cpu runs as many CPU processes"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_under_launcher(main: Callable[[Any], None], cfg: Any, world: World, patience: float) -> None:
    count = device.device_count()
    if count == 1 and world.launcher != "torchrun":  # each process has been given its own
        world = replace(world, local_rank=0)
    if 0 < count <= world.local_rank:
        raise ConfigError(
            f"{world.launcher} started process {world.local_rank} on a machine with {count} GPUs: start fewer there"
        )

    def ended(end: End, show: bool) -> None:
        if show:
            complain(f"error: {end.text}")

    end_at_once()
    try:
        with machine_errors():
            _join(world, patience, ended)
            main(cfg)
            comm.leave()
    except BaseException as error:
        end = _first_cause(*_as_report(error))
        if end is None or end.rank == world.rank:
            raise
        if comm.line.show:
            raise USER_ERRORS[end.kind](end.text) from error
        raise Told(end.code) from error


def _as_report(error: BaseException) -> tuple[str, str, int]:
    """Kind, message and exit code of what ends a process."""
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Interrupted) else int(signal.SIGINT)
        return "Interrupted", str(number), code_of(number)
    for kind, cls in USER_ERRORS.items():
        if isinstance(error, cls):
            return kind, str(error), NOT_FINITE if cls is FloatingPointError else USER_ERROR
    text = "".join(traceback.format_exception(error)).rstrip()
    return MISTAKE, text, error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1


def _first_cause(kind: str, text: str, code: int) -> End | None:
    """Tell the other processes why this one ends; returns why the run does, None where there is no line."""
    line = comm.line
    if line is None:
        return None
    if kind == MISTAKE:  # most often that others have gone: libraries do not say who
        end = line.learn(LEARN)
        if end is not None:
            return end
    return line.tell(code, kind, text)


def _join(world: World, patience: float, ended: Callable[[End, bool], None]) -> None:
    """Meet the other processes of the run."""
    on = device.set_local_device(world.local_rank)
    options: dict[str, Any] = {"device_id": on} if on.type == "cuda" else {}
    store = meet(world, patience)
    line = Lifeline(world.rank, world.size, patience, ended)
    if world.size > 1:
        line.start(store, world.host, world.alone)
        comm.line = line
    if on.type == "cpu":
        choose_interface(world)
    backend = "nccl" if on.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size,
        timeout=NEVER, **options,  # the line decides, which knows whether others are at work
    )  # type: ignore[arg-type]  # fmt: skip


def _process(
    local_rank: int, reports: Any, main: Callable[[Any], None], worlds: list[World], cfg: Any, patience: float
) -> None:
    """One spawned process. What ends it travels to the parent."""
    open_streams()
    end_with_parent()
    world = worlds[local_rank]
    if device.device_count() == 0:
        torch.set_num_threads(max(1, torch.get_num_threads() // len(worlds)))
    code = 0

    def ended(end: End, show: bool) -> None:
        if not end.is_signal:
            reports.send(Report(end.kind, end.text, told=True))

    try:
        with Interrupts(), machine_errors():
            _join(world, patience, ended)
            main(cfg)
            comm.leave()  # not after an error: others may never answer
    except BaseException as error:
        kind, text, code = _as_report(error)
        end = _first_cause(kind, text, code)
        told = end is not None and end.rank != world.rank
        if end is not None and told:
            kind, text, code = end.kind, end.text, end.code
        if kind != "Interrupted":
            reports.send(Report(kind, text, told))
    exit_at_once(code)


def exit_code(run: Callable[[], None], with_traceback: bool = False) -> int:
    """Run a command line tool; show what the user got wrong as one message.

    Args:
        run: the tool.
        with_traceback: show where it was raised too (also with ``POINTCEPT_TRACEBACK=1``).

    Returns:
        0, ``USER_ERROR`` (too little memory, too), ``NOT_FINITE``, ``AGAIN`` or ``INTERRUPTED``. Every other exception
        passes through.
    """
    try:
        with Interrupts(alone=True), machine_errors():
            run()
    except KeyboardInterrupt as request:
        number = request.number if isinstance(request, Interrupted) else int(signal.SIGINT)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        complain(f"interrupted{by}")
        return code_of(number)
    except Told as error:
        return error.code
    except ProcessFailed as error:
        complain(str(error))
        return 1
    except tuple(USER_ERRORS.values()) as error:
        show_traceback(with_traceback)
        complain(f"error: {user_message(error)}")
        return NOT_FINITE if isinstance(error, FloatingPointError) else USER_ERROR
    return 0


def code_of(number: int) -> int:
    """The exit code of a process that a signal has stopped."""
    return INTERRUPTED if number == signal.SIGINT else AGAIN


def user_message(error: Exception) -> str:
    """The message alone, where a data loading process has wrapped its whole traceback around it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
    return text
