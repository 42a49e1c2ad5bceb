"""Ranks: who am I among the processes of this run, and how do we add things up.

Every function works without ``torch.distributed`` too: one process is a world of size 1.
"""

from __future__ import annotations

import gc
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


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


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()


def leave() -> None:
    """Leave the process group together with all others; nothing happens without one.

    Every process has to call it, at its end and after no error. Threads of the group free tensors, for which they need
    Python: they have ended when this returns, unless something still refers to the group.
    """
    if is_distributed():
        barrier()
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
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total.to(home)


def gather_objects(value: T) -> list[T]:
    """Return the ``value`` of every process in rank order (anything that can be pickled)."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T, source: int = 0) -> T:
    """Return the ``value`` that process ``source`` holds."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]
