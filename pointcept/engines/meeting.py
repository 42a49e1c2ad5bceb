"""Where the processes of a run meet: a wait that says what it waits for, and ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from pointcept.engines.world import World
from pointcept.utils.errors import MachineError

logger = logging.getLogger(__name__)

WORD = 10.0
"""Seconds of waiting after which the log says what is waited for."""
NO_NAME = 30.0
"""Seconds in which a name server may have trouble of its own."""


def meet(world: World, patience: float) -> dist.Store:
    """Wait until all processes are there; returns what they share.

    Args:
        world: this process.
        patience: seconds.

    Raises:
        MachineError: the host does not exist or does not answer, the port is taken, or processes do not come.
    """
    end = time.monotonic() + patience
    serves = world.rank == 0 and not world.served
    if serves:
        _check_name(world)
    else:
        _wait_for_host(world, end, patience)
    store = _open(world, serves, patience)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"pointcept/{attempt}", store)
    store.set(f"here/{world.rank}", socket.gethostname())
    _wait_for_all(world, store, end, patience)
    return store


def _check_name(world: World) -> None:
    """Process 0 needs no name of itself, but the others do.

    Raises:
        MachineError: there is no such host.
    """
    try:
        socket.getaddrinfo(world.host, world.port)
    except (socket.gaierror, UnicodeError) as error:
        if getattr(error, "errno", None) != socket.EAI_AGAIN:
            raise MachineError(f"there is no host {world.host}, where the processes are to meet: {error}") from error


def _wait_for_host(world: World, end: float, patience: float) -> None:
    """Wait until somebody listens where the processes meet."""
    where = f"{world.host}:{world.port}"
    begin, told = time.monotonic(), False
    while True:
        now = time.monotonic()
        try:
            with socket.create_connection((world.host, world.port), timeout=max(1.0, min(5.0, end - now))):
                return
        except (socket.gaierror, UnicodeError) as error:
            reason = f"there is no host {world.host} ({getattr(error, 'strerror', None) or error})"
            temporary = getattr(error, "errno", None) == socket.EAI_AGAIN
            if not temporary or now - begin > min(NO_NAME, patience):
                raise MachineError(f"process {world.rank} cannot meet the others at {where}: {reason}") from error
        except OSError as error:
            reason = error.strerror or str(error)
        if now >= end:
            raise MachineError(
                f"process {world.rank} cannot meet the others at {where} within dist_timeout={patience:g} s: {reason}; "
                "is process 0 running on that machine, and does a firewall let others through?"
            )
        if not told and now - begin > WORD:
            told = True
            logger.warning(
                "process %d: waiting for process 0 at %s (%s), at most %g s", world.rank, where, reason, patience
            )
        time.sleep(0.3)


def _open(world: World, serves: bool, patience: float) -> dist.Store:
    try:
        return dist.TCPStore(
            "127.0.0.1" if serves else world.host,
            world.port,
            world.size,
            serves,
            timedelta(seconds=patience),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        text = str(error)
        where = f"{world.host}:{world.port}"
        if serves and ("EADDRINUSE" in text or "Address already in use" in text):
            raise MachineError(
                f"port {world.port} of this machine is taken by another program or run: give another one "
                "(--dist-url tcp://HOST:PORT, or MASTER_PORT)"
            ) from error
        if serves and ("EACCES" in text or "Permission denied" in text):
            raise MachineError(f"port {world.port} is not allowed for this user: take one above 1023") from error
        raise MachineError(
            f"process {world.rank} cannot meet the others at {where}: {text.splitlines()[0] if text else error!r}"
        ) from error


def _wait_for_all(world: World, store: dist.Store, end: float, patience: float) -> None:
    begin, told, missing = time.monotonic(), False, list(range(world.size))
    while True:
        try:
            missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        except RuntimeError as error:
            raise MachineError(
                f"process {world.rank}: process 0 at {world.host}:{world.port} has gone while the others were awaited"
            ) from error
        now = time.monotonic()
        if not missing:
            return
        who = f"process{'es' if len(missing) > 1 else ''} {_some(missing)} of {world.size}"
        if now >= end + (1.0 if world.rank else 0.0):  # process 0 knows best, so it is first
            raise MachineError(
                f"{who} did not come to {world.host}:{world.port} within dist_timeout={patience:g} s: were all "
                f"machines started ({world.launcher}), with the same address?"
            )
        if not told and now - begin > WORD and world.rank == 0:
            told = True
            logger.warning("waiting for %s to come to %s:%d, at most %g s", who, world.host, world.port, patience)
        time.sleep(0.02 if now - begin < 5 else 0.3)


def _some(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"


def own_address(world: World) -> str:
    """The address of this machine by which others reach it: that of the way to where the processes meet."""
    family = socket.getaddrinfo(world.host, world.port, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((world.host, world.port))  # sends nothing
        return str(probe.getsockname()[0])


def choose_interface(world: World) -> None:
    """Have gloo use the network that leads to the other machines.

    By itself it takes the address of the host's name, which on many systems is that of the machine alone.
    """
    if world.alone or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    with contextlib.suppress(OSError):
        address = own_address(world)
        for name in sorted(entry.name for entry in Path("/sys/class/net").iterdir()):
            if _address_of(name) == address:
                os.environ["GLOO_SOCKET_IFNAME"] = name
                return


def _address_of(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", interface.encode()[:15]))  # SIOCGIFADDR
        except OSError:
            return None
    return socket.inet_ntoa(found[20:24])
