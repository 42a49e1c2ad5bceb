"""Who is who among the processes of a run: what launchers say in the environment, and where processes meet.

torchrun      RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
mpirun        OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK (Open MPI); PMI_RANK, PMI_SIZE, MPI_LOCALRANKID (MPICH, Intel)
srun          SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS, SLURM_LOCALID

Under mpirun and srun the processes meet at MASTER_ADDR and MASTER_PORT, where these are set, otherwise at the first
machine of the job, at a port that follows from the number of the job.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from pointcept.utils.errors import ConfigError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MPI = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
LOWEST_PORT, PORTS = 15000, 15000
"""Ports for jobs, below those that systems give to whoever asks for any."""
MOST = 2**20
"""Processes."""


@dataclass(frozen=True)
class World:
    """A process among those of a run.

    Args:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on its machine.
        host, port: where all meet: rank 0 is there.
        launcher: who has started the processes, for messages.
        served: somebody else, torchrun for one, holds what they meet in, and rank 0 is a guest as well.
        alone: all are on one machine.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    port: int
    launcher: str
    served: bool = False
    alone: bool = False


def parse_url(url: str) -> tuple[str, int]:
    """Host and port of ``tcp://host:port``.

    Raises:
        ConfigError: it is something else.
    """
    match = re.fullmatch(r"tcp://(\[[0-9a-fA-F:]+\]|[^/:\s\[\]]+):(\d{1,5})/?", url)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ConfigError(f"--dist-url {url}: expected tcp://HOST:PORT with a port from 1 to 65535")
    return match[1].strip("[]"), int(match[2])


def from_environment(dist_url: str = "auto", env: Mapping[str, str] = os.environ) -> World | None:
    """What a launcher says about this process; None if none has started several.

    Args:
        dist_url: where to meet under mpirun and srun, ``tcp://host:port``; ``auto`` for what the launcher says.
        env: its variables.

    Raises:
        ConfigError: variables are missing, are no numbers, or contradict each other; the message names them.
    """
    if any(name in env for name in TORCHRUN[:3]):
        return _of_torchrun(env)
    for launcher, names in MPI.items():
        if names[0] in env:
            local = "SLURM_LOCALID" if names[2] not in env and "SLURM_LOCALID" in env else names[2]
            return _of_job(env, launcher, (*names[:2], local), dist_url)
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
    # In the script of a batch job the first two are set as well, but it is a single process.
    if "SLURM_PROCID" in env and size in env and ("SLURM_STEP_ID" in env or env.get("ENVIRONMENT") != "BATCH"):
        return _of_job(env, "srun", ("SLURM_PROCID", size, "SLURM_LOCALID"), dist_url)
    return None


def _of_torchrun(env: Mapping[str, str]) -> World:
    missing = [name for name in TORCHRUN if not env.get(name, "").strip()]
    if missing:
        there = [name for name in TORCHRUN if name not in missing]
        raise ConfigError(
            f"the environment sets {', '.join(there)} but not {', '.join(missing)}: torchrun sets all of "
            f"{', '.join(TORCHRUN)}; unset them to start without it"
        )
    rank, size, local = _ranks(env, TORCHRUN[:3])  # type: ignore[arg-type]
    port = _number(env, "MASTER_PORT", 1, 65535)
    served = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    alone = env.get("LOCAL_WORLD_SIZE") == str(size)
    return World(rank, size, local, env["MASTER_ADDR"].strip(), port, "torchrun", served, alone)


def _of_job(env: Mapping[str, str], launcher: str, names: tuple[str, str, str], dist_url: str) -> World | None:
    missing = [name for name in names if not env.get(name, "").strip()]
    if missing:
        raise ConfigError(f"{launcher}: the environment sets {names[0]} but not {', '.join(missing)}")
    rank, size, local = _ranks(env, names)
    if size == 1:
        return None
    alone = _one_machine(env, launcher, size)
    if dist_url != "auto":
        host, port = parse_url(dist_url)
    else:
        port = _number(env, "MASTER_PORT", 1, 65535) if env.get("MASTER_PORT") else job_port(env)
        host = env.get("MASTER_ADDR", "").strip() or ("127.0.0.1" if alone else first_host(env, launcher))
    return World(rank, size, local, host, port, launcher, alone=alone)


def _ranks(env: Mapping[str, str], names: tuple[str, str, str]) -> tuple[int, int, int]:
    size = _number(env, names[1], 1, MOST)
    rank, local = _number(env, names[0], 0, MOST), _number(env, names[2], 0, MOST)
    for name, value in ((names[0], rank), (names[2], local)):
        if value >= size:
            raise ConfigError(f"{name}={value}, but {names[1]}={size}: expected a number below that")
    return rank, size, local


def _number(env: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = env[name].strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,12}", text) or not low <= int(text) <= high:
        raise ConfigError(f"{name}={env[name]!r} in the environment: expected an integer from {low} to {high}")
    return int(text)


def _one_machine(env: Mapping[str, str], launcher: str, size: int) -> bool:
    """Whether the launcher says that all processes are on this machine."""
    own = {"Open MPI": "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI": "MPI_LOCALNRANKS"}.get(launcher)
    if own is not None and own in env:
        return env[own] == str(size)
    nodes = env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or env.get("SLURM_JOB_NUM_NODES")
    if nodes is not None:
        return nodes == "1"
    return not _node_list(env)


def _node_list(env: Mapping[str, str]) -> str:
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    return next((env[name].strip() for name in names if env.get(name, "").strip()), "")


def first_host(env: Mapping[str, str], launcher: str) -> str:
    """The first machine of a job, out of a list such as ``gpu[03-05,9],login``.

    Raises:
        ConfigError: there is no such list.
    """
    text = _node_list(env)
    match = re.match(r"([^\[\],\s]+)(?:\[([^\],\-]+)[^\]]*\]([^,\[\]]*))?|", text)
    if match is None or not match[0]:
        raise ConfigError(f"{launcher} does not say where the processes meet: set MASTER_ADDR, or --dist-url tcp://...")
    return match[1] + (match[2] or "") + (match[3] or "")


def job_port(env: Mapping[str, str]) -> int:
    """A port that all processes of a job find by themselves, and other jobs of a machine hardly."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE")
    text = " ".join(env.get(name, "") for name in names)
    return LOWEST_PORT + zlib.crc32(text.encode()) % PORTS
