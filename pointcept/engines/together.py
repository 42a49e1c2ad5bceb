"""What several processes that train together have in common, so that the result is that of one.

Gradients are means over the processes (``DistributedDataParallel``). Statistics of norms are those of process 0, which
hands them on before each forward pass and before evaluations. What is drawn in a step, dropout for one, follows from
the seed of the run, the step and the process, so that any process can save all that a resumed run needs.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pointcept.models import reseed, synchronize_norms
from pointcept.utils import comm

STEPS = 0x57E9
"""Sets the seeds of steps apart from those of draws of the data."""


def wrap(network: nn.Module, cfg: Any, where: torch.device) -> nn.Module:
    """The module to call in training, with gradients that are means over all processes.

    Args:
        network: on its device.
        cfg: ``find_unused_parameters``.
        where: the device.
    """
    if comm.world_size() == 1:
        return network
    ids = [where] if where.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=cfg.find_unused_parameters)


def with_shared_norms(network: nn.Module, cfg: Any, where: torch.device) -> nn.Module:
    """With ``sync_bn`` and several processes: batch norms whose statistics are those of all."""
    return synchronize_norms(network, where) if cfg.sync_bn and comm.world_size() > 1 else network


def begin_step(network: nn.Module, seed: int, iteration: int) -> None:
    """Have what several processes draw in a step follow from the step and the process; nothing happens for one.

    Args:
        network: its losses may draw, too.
        seed: of the run.
        iteration: optimizer steps that are done.
    """
    if comm.world_size() == 1:
        return
    sequence = np.random.SeedSequence([seed % 2**64, iteration, comm.rank(), STEPS])
    first, second = (int(number) for number in sequence.generate_state(2, np.uint64) >> 1)
    random.seed(first)
    np.random.seed(first % 2**32)
    torch.manual_seed(first)
    reseed(network, second)


def share_statistics(network: nn.Module) -> None:
    """Give every process the buffers of process 0: each has put its own share of the last batch into its statistics."""
    if comm.world_size() > 1:
        comm.at("statistics of norms", waits=True)
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
