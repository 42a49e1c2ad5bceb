"""Starting the processes of a run, and turning its errors into one line and an exit code.

docs/reliability.md has the table of exit codes for users; the constants here are what it says.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessException

from pointcept.engines.interrupt import Interrupted, Interrupts
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
GRACE = 5.0
"""Seconds that the processes of a run have to end by themselves once one of them has."""

USER_ERRORS: dict[str, type[Exception]] = {
    "ConfigError": ConfigError,
    "DataError": DataError,
    "CheckpointError": CheckpointError,
    "MachineError": MachineError,
    "FloatingPointError": FloatingPointError,
}


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
    processes. Under ``torchrun`` the processes exist already and its environment decides.

    Args:
        main: a function of a module, so that other processes can import it.
        num_gpus: per machine.
        num_machines: machines of the run.
        machine_rank: number of this machine.
        dist_url: where the processes meet, ``tcp://host:port``; ``auto`` on one machine.
        cfg: handed to ``main``.

    Raises:
        ConfigError: more GPUs than there are, or numbers that contradict each other.
        DataError, CheckpointError, FloatingPointError, MachineError: raised by ``main`` in any process.
    """
    if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        _run_under_torchrun(main, cfg)
        return
    _check(num_gpus, num_machines, machine_rank, dist_url)
    if num_gpus * num_machines == 1:
        main(cfg)
        return
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    arguments = (main, num_gpus, num_gpus * num_machines, machine_rank, dist_url, cfg, errors)
    context = multiprocessing.start_processes(
        _process, args=arguments, nprocs=num_gpus, join=False, start_method="spawn"
    )
    try:
        _wait(context)
    except ProcessException as error:
        if not errors.empty():
            name, message = errors.get()
            raise USER_ERRORS[name](message) from error
        code = getattr(error, "exit_code", None)
        if code in CODES:
            raise Interrupted(CODES[code]) from error
        raise


def _wait(context: Any) -> None:
    """Wait for all processes; a signal is theirs, and they have as long as they need to save."""
    while True:
        try:
            while not context.join(grace_period=GRACE):
                pass
            return
        except Interrupted as request:
            for process in context.processes:
                if process.is_alive():
                    os.kill(process.pid, request.number)


def _check(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    if num_gpus < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise ConfigError(
            f"--num-gpus {num_gpus} --num-machines {num_machines} --machine-rank {machine_rank}: expected at least "
            "one of each and 0 <= rank < machines"
        )
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("several machines need --dist-url tcp://<host of machine 0>:<port>")
    count = device.device_count()
    if num_gpus > max(count, 1) and device.device_override() != "cpu":
        raise ConfigError(
            f"--num-gpus {num_gpus}, but this machine has {count}; {device.VARIABLE}=cpu runs as many CPU processes"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run_under_torchrun(main: Callable[[Any], None], cfg: Any) -> None:
    local = int(os.environ["LOCAL_RANK"])
    count = device.device_count()
    if 0 < count <= local:
        raise ConfigError(f"torchrun started process {local} on a machine with {count} GPUs: lower --nproc-per-node")
    _join(local, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "env://")
    end_at_once()
    main(cfg)
    comm.leave()


def _join(local_rank: int, rank: int, world_size: int, url: str) -> None:
    on = device.set_local_device(local_rank)
    options = {"device_id": on} if on.type == "cuda" else {}
    backend = "nccl" if on.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=url, rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]


def _process(
    local_rank: int,
    main: Callable[[Any], None],
    num_gpus: int,
    world_size: int,
    machine_rank: int,
    url: str,
    cfg: Any,
    errors: Any,
) -> None:
    """One spawned process. Errors of the user travel to the parent as they are, not as a traceback."""
    open_streams()
    code = 0
    if device.device_count() == 0:
        torch.set_num_threads(max(1, torch.get_num_threads() // num_gpus))
    try:
        with Interrupts(), machine_errors():
            _join(local_rank, machine_rank * num_gpus + local_rank, world_size, url)
            main(cfg)
            comm.leave()  # not after an error: others may never answer
    except tuple(USER_ERRORS.values()) as error:
        kind = next(name for name, cls in USER_ERRORS.items() if isinstance(error, cls))
        errors.put((kind, str(error)))
        code = USER_ERROR
    except Interrupted as error:  # torch would take it for a success
        code = code_of(error.number)
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
