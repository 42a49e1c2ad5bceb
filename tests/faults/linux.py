"""What Python has no function for: capabilities, namespaces, mounts, and who descends from whom."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.case import NotHere

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_SECUREBITS, PR_SET_CHILD_SUBREAPER = 28, 36
SECBIT_NOROOT = 1
CAPABILITY_VERSION = 0x20080522


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent dies."""
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Let file permissions bind this process and its children also where it runs as root."""
    if os.geteuid() != 0:
        return
    _call("prctl", PR_SET_SECUREBITS, SECBIT_NOROOT, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _call("capset", header, (ctypes.c_uint32 * 6)())


def own_mounts() -> None:
    """Enter a mount namespace of this process's own.

    Raises:
        NotHere: the machine does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    flags = CLONE_NEWNS if user == 0 else CLONE_NEWNS | CLONE_NEWUSER
    try:
        _call("unshare", flags)
        if user != 0:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    except OSError as error:
        raise NotHere(f"no mount namespace: {error}") from None


def mount_memory(folder: Path, options: str = "") -> None:
    """Mount an empty file system in memory; ``options``: ``size=64k``, ``nr_inodes=20``."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _call("mount", b"tmpfs", bytes(folder), b"tmpfs", 0, options.encode())
    except OSError as error:
        raise NotHere(f"no file system in memory: {error}") from None


def remount(folder: Path, options: str = "", read_only: bool = False) -> None:
    """Change size or rights of what :func:`mount_memory` has mounted."""
    _call("mount", b"tmpfs", bytes(folder), b"tmpfs", MS_REMOUNT | (MS_RDONLY if read_only else 0), options.encode())


def descendants(pid: int) -> list[int]:
    """Processes below ``pid`` that run, in the order of their numbers; zombies are left out."""
    parents: dict[int, int] = {}
    for number, parent, state in _processes():
        if state != "Z":
            parents[number] = parent
    found, frontier = set(), {pid}
    while frontier:
        frontier = {number for number, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return sorted(found)


def zombies(parent: int) -> list[int]:
    """Children of ``parent`` that have ended and were not waited for."""
    return [number for number, above, state in _processes() if above == parent and state == "Z"]


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            yield int(entry), int(fields[1]), fields[0]


def command(pid: int) -> str:
    """The command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def wait_for(condition: object, seconds: float) -> bool:
    """Whether ``condition()`` becomes true within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return bool(condition())  # type: ignore[operator]
