"""Runs that are cut at a moment of their choice, and what is compared of a run that was cut and one that was not."""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboardX.proto.event_pb2 import Event

from pointcept.engines.defaults import train_main
from pointcept.engines.interrupt import Interrupts
from pointcept.utils.checkpoint import read_checkpoint
from pointcept.utils.logging import close_logging

TIMES = re.compile(r"^\[[^\]]*\] |[\d.]+ s \(data [\d.]+\)| ETA [\d:]+| in [\d:]+ \([\d.]+ s each\)|, [\d.]+ s,")
STARTS = (
    "pointcept ",
    "resumed from",
    "resume: ",
    "loaded weights",
    "removed ",
    "FakeModel: ",
    "training on",
    "interrupted at",
)


def in_a_fork(do: Callable[[], Any]) -> int:
    """Do something in a forked process, which may end itself; returns how it ended (0, or minus a signal)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    raise AssertionError("the forked process hangs")


def train(cfg: Any) -> None:
    """A whole start of a run, with its log."""
    torch.set_num_threads(1)
    try:
        with Interrupts(alone=True):  # as the command line has it
            train_main(cfg)
    finally:
        close_logging()


def lines(folder: Path) -> list[str]:
    """What the log says of the course of a run: without times, and without what each start says of itself."""
    text = [TIMES.sub("", line) for line in (folder / "train.log").read_text().splitlines()]
    return [line.replace(str(folder), "RUN") for line in text if not line.startswith(STARTS)]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What stands in the TensorBoard files of a run, without times."""
    found = []
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        place = 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            place += 16 + length
    return sorted(entry for entry in found if not entry[0].startswith("time/"))


def ends(folder: Path) -> dict[str, Any]:
    """Everything that two runs have in common if they are the same."""
    states = {name: read_checkpoint(folder / "model" / name) for name in ("model_last.pth", "model_best.pth")}
    kept = ("state_dict", "optimizer", "scheduler", "random", "iteration", "epoch", "best_metric", "best_iteration")
    flat = {name: [repr(_plain(state[key])) for key in kept] for name, state in states.items()}
    result = folder / "result" / "miou_precise.json"
    table = re.sub(r'"(seconds|weight)": [^\n]*', "", result.read_text()) if result.exists() else None
    return {"states": flat, "log": lines(folder), "scalars": scalars(folder), "precise": table}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
