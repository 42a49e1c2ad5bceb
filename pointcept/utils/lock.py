"""One process at a time in a folder, also where several machines share it."""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pointcept.utils.errors import ConfigError

logger = logging.getLogger(__name__)

NAME = "lock"
BEAT = 15.0
"""Seconds between two signs of life, which are the time of the lock file."""
SILENCE = 60.0
"""Seconds without a sign of life after which a process of another machine counts as gone."""

_held: dict[Path, FolderLock] = {}


class FolderLock:
    """A file that says which process uses a folder; the system lets go of it when that process ends.

    Args:
        folder: it is created.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        self._file = -1
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def acquire(self, patient: bool = False) -> None:
        """Take the folder.

        Args:
            patient: where the lock is of another machine, wait until it shows a sign of life or counts as gone.

        Raises:
            ConfigError: another process has it, or nothing can be written there.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            holder = _read(self._file)
            if holder is not None and not _is_gone(holder):
                self._outlast(holder, patient)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(_myself()).encode(), 0)
        except OSError as error:
            self._close()
            raise ConfigError(f"save_path={self.path.parent}: cannot write there: {error}") from error
        except BaseException:
            self._close()
            raise
        self._beating = threading.Thread(target=self._beat, args=(self._file,), name="lock", daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Give the folder back."""
        if self._beating is not None:
            self._ended.set()
            self._beating.join()
            self.path.unlink(missing_ok=True)
            self._close()
            self._beating = None

    def _open(self) -> None:
        while True:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._in_use(_read(self._file)) from None
            except OSError as error:
                logger.warning("%s: no locks on this file system (%s); the names in it have to do", self.path, error)
            if self.path.exists() and os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                return
            self._close()  # its owner has just removed it

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _in_use(self, holder: Mapping[str, Any] | None, more: str = "") -> ConfigError:
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
        return ConfigError(
            f"save_path={self.path.parent} is in use by {who}: wait until it has ended, or give another save_path{more}"
        )

    def _outlast(self, holder: Mapping[str, Any], patient: bool) -> None:
        """Wait until a process that cannot be asked from here counts as gone.

        Raises:
            ConfigError: it lives, or may live and ``patient`` is False.
        """
        if holder["boot"] == _boot():
            raise self._in_use(holder)
        seen = os.stat(self.path).st_mtime
        silent = self._time_there() - seen
        more = f"; last sign of life {max(0.0, silent):.0f} s ago; if it no longer runs, delete {self.path}"
        if silent < SILENCE and not patient:
            raise self._in_use(holder, more)
        if silent < SILENCE:
            logger.info(
                "%s names process %s on %s: waiting up to %.0f s for a sign of life",
                *(self.path, holder["pid"], holder["host"], SILENCE - silent),
            )
        end = time.monotonic() + SILENCE - silent
        while time.monotonic() < end:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
            if not self.path.exists() or os.stat(self.path).st_mtime != seen:
                raise self._in_use(holder, "; it has just shown a sign of life")
        logger.warning(
            "process %s on %s has gone without giving back %s: taken over",
            *(holder["pid"], holder["host"], self.path.parent),
        )

    def _time_there(self) -> float:
        """The time of the machine that keeps the folder, whose clock may differ from this one's."""
        probe = self.path.with_name(f".{NAME}.{os.getpid()}.tmp")
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self, file: int) -> None:
        while not self._ended.wait(BEAT):
            try:
                os.utime(file)
            except OSError as error:
                logger.warning("%s: cannot show a sign of life: %s", self.path, error)
                return


def hold(folder: str | Path, patient: bool = False) -> None:
    """Take a folder for this process until :func:`let_go` or its end; taking it again does nothing.

    Raises:
        ConfigError: see :meth:`FolderLock.acquire`.
    """
    place = Path(folder).resolve()
    if place not in _held:
        lock = FolderLock(folder)
        lock.acquire(patient)
        _held[place] = lock


def is_held(folder: str | Path) -> bool:
    """Whether this process holds a folder."""
    return Path(folder).resolve() in _held


def let_go(folder: str | Path) -> None:
    """Give a folder back; nothing happens if this process does not hold it."""
    lock = _held.pop(Path(folder).resolve(), None)
    if lock is not None:
        lock.release()


def _forget() -> None:
    """A forked process does not hold what its parent holds, nor longer than that."""
    for lock in _held.values():
        lock._close()
    _held.clear()


def _let_all_go() -> None:
    for place in list(_held):
        let_go(place)


os.register_at_fork(after_in_child=_forget)
atexit.register(_let_all_go)


def started(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since it was booted; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # a name may hold spaces and brackets
    return None if state in "ZX" else int(fields[18])


def was_running(pid: int, when: float) -> bool:
    """Whether there is a process of this number, and not one that began after ``when`` [s since 1970]."""
    ticks = started(pid)
    if ticks is None:
        return False
    since_boot = ticks / os.sysconf("SC_CLK_TCK")
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    return began < when + 1.0


def _boot() -> str:
    """What this start of this machine is called; the name of the host where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }


def _read(file: int) -> dict[str, Any] | None:
    """Who has written the lock; None if nobody has, or not to its end."""
    try:
        holder = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return None
    keys = ("host", "boot", "pid", "started", "since")
    return holder if isinstance(holder, dict) and all(key in holder for key in keys) else None


def _is_gone(holder: Mapping[str, Any]) -> bool:
    """Whether the process of a lock is known to have ended; of another machine, or of this one before it was booted,
    nothing is known."""
    return holder["boot"] == _boot() and started(int(holder["pid"])) != holder["started"]
