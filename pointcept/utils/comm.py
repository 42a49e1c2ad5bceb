"""Ranks: who am I among the processes of this run, and how do we add things up.

Every function works without ``torch.distributed`` too: one process is a world of size 1.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

line: Any = None
"""The line to the other processes, see :mod:`pointcept.engines.lifeline`; None for a process that is alone."""


def is_distributed() -> bool:
    """Whether a process group has been initialised."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number among all processes of the run."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes take part in the run."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Whether this process writes the log, the checkpoints and the results."""
    return rank() == 0


def at(place: str, waits: bool = False) -> None:
    """Say what this process does from now on, for messages of a run that stands still.

    Args:
        place: such as ``iteration 7``.
        waits: it cannot go on without the others.
    """
    if line is not None:
        line.at(place, waits)


@contextmanager
def _waiting() -> Iterator[None]:
    before = ("", False) if line is None else line.place
    at(f"waits for the others after: {before[0]}", waits=True)
    yield
    at(*before)


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        with _waiting():
            dist.barrier()


def leave() -> None:
    """Leave the process group together with all others; nothing happens without one.

    Every process has to call it, at its end and after no error. Threads of the group free tensors, for which they need
    Python: they have ended when this returns, unless something still refers to the group.
    """
    global line
    if is_distributed():
        barrier()
        if line is not None:
            line.leave()
            barrier()  # only then does nobody take the end of a process for its death
            line = None
        gc.collect()  # a network for several processes in a cycle of references keeps the group
        dist.destroy_process_group()


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over all processes; the argument is not changed.

    Args:
        tensor: any shape, the same on every process. With NCCL it must lie on the GPU; a CPU
            tensor is carried there and back.
    """
    if world_size() == 1:
        return tensor
    home = tensor.device
    total = tensor.detach().clone()
    if dist.get_backend() == "nccl" and home.type != "cuda":
        total = total.to(torch.device("cuda"))
    with _waiting():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total.to(home)


_whole = False


@contextmanager
def whole_batches() -> Iterator[None]:
    """Inside, :func:`over_all` has an effect: every process comes to the same means in the same order."""
    global _whole
    before, _whole = _whole, world_size() > 1
    try:
        yield
    finally:
        _whole = before


def over_all(count: torch.Tensor) -> torch.Tensor:
    """What a mean divides by, so that the mean over the processes of such means is that over all their points.

    Args:
        count: of this process, a scalar without gradient.

    Returns:
        The mean of it over the processes within :func:`whole_batches`, otherwise ``count`` itself.
    """
    return all_reduce_sum(count.detach()) / world_size() if _whole else count


def gather_objects(value: T) -> list[T]:
    """Return the ``value`` of every process in rank order (anything that can be pickled)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _waiting():
        dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T, source: int = 0) -> T:
    """Return the ``value`` that process ``source`` holds."""
    if world_size() == 1:
        return value
    box = [value]
    with _waiting():
        dist.broadcast_object_list(box, src=source)
    return box[0]
