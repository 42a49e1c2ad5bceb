"""Processes of a run that are forked, which takes no second imports: how they end, and what they say."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import torch

from pointcept.engines import launch
from pointcept.engines.world import World
from pointcept.models import MODELS
from pointcept.models.losses.distill.base import OwnGenerator
from pointcept.utils.faults import exit_at_once


@MODELS.register_module("DrawingModel")
class DrawingModel(fakes.FakeModel, OwnGenerator):
    """Draws from a generator of its own as well, as often as its batch is large."""

    def __init__(self) -> None:
        super().__init__()
        self.seed(3)

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.training:
            noise = torch.rand(len(batch["feat"]), generator=self.generator)
            batch = {**batch, "feat": batch["feat"] + 0.1 * noise[:, None]}
        return super().forward(batch)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(
    main: Callable[[Any], None], cfg: Any, folder: Path, patience: float = 60.0, limit: float = 60.0, stopped: int = 0
) -> tuple[list[int | None], list[str], float]:
    """Run ``main(cfg)`` in two processes as a launcher of a cluster starts them.

    Args:
        main: what they do.
        cfg: handed to ``main``.
        folder: for what they say.
        patience: ``dist_timeout``.
        limit: seconds after which those that have not ended are killed.
        stopped: how many are expected not to end.

    Returns:
        Exit codes (negative for signals, None for one that did not end), what each has said on standard error, and
        seconds.
    """
    size, port, begin = 2, free_port(), time.monotonic()
    pids = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            _child(main, cfg, World(rank, size, rank, "127.0.0.1", port, "srun", alone=True), patience, folder)
        pids.append(pid)
    codes: list[int | None] = [None] * size
    while codes.count(None) > stopped and time.monotonic() - begin < limit:
        for rank, pid in enumerate(pids):
            if codes[rank] is None:
                done, status = os.waitpid(pid, os.WNOHANG)
                codes[rank] = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.02)
    seconds = time.monotonic() - begin
    for rank, pid in enumerate(pids):
        if codes[rank] is None:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return codes, [(folder / f"stderr{rank}").read_text() for rank in range(size)], seconds


def _child(main: Callable[[Any], None], cfg: Any, world: World, patience: float, folder: Path) -> None:
    code = 99
    try:
        file = os.open(folder / f"stderr{world.rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 2)
        os.dup2(file, 1)
        sys.stderr = sys.stdout = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        logging.getLogger().handlers.clear()  # those of pytest
        torch.set_num_threads(1)
        code = launch.exit_code(lambda: launch._run_under_launcher(main, cfg, world, patience))
    except BaseException:
        traceback.print_exc()
    exit_at_once(code)
