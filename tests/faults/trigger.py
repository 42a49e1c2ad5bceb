"""Stops a tool at a moment that is counted, not timed, so that a case can act there.

The tool connects to the socket of the case, says its process number, and waits for an answer: an error number to raise,
or nothing. It runs in processes that are forked from the campaign, and through ``site/sitecustomize.py`` in those that
start anew (ranks, loading processes); so it imports neither torch nor the package.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

CALLS = "calls"
"""File in the tool's home for the number of functions that it has called."""
VARIABLE = "POINTCEPT_FAULT_TRIGGER"
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Moment:
    """When to stop.

    Args:
        event: ``step`` (an optimizer has stepped), ``read`` or ``write`` (a file is about to be opened), ``rename``,
            ``call`` (any Python function is called), ``count`` (never; the calls are counted in ``$HOME/calls``).
        nth: the event that counts, from 1, among those that match.
        match: part of the path of the file.
        rank: only in this process of several.
        error: raise an ``OSError`` with this number there, without asking the case, and at every later event as well.
    """

    event: str
    nth: int = 1
    match: str = ""
    rank: int | None = None
    error: int | None = None


def environment(moment: Moment, address: str) -> dict[str, str]:
    """What :func:`install` reads in the tool; ``address`` is that of an abstract unix socket."""
    return {VARIABLE: json.dumps({"address": address, **asdict(moment)})}


def install() -> None:
    """Watch for the moment that the environment names, if it names one."""
    text = os.environ.get(VARIABLE)
    if text:
        options = json.loads(text)
        _Watch(options.pop("address"), Moment(**options)).start()


class _Watch:
    def __init__(self, address: str, moment: Moment) -> None:
        self.address, self.moment = address, moment
        self.left = moment.nth
        self.busy = False
        self.hooked = moment.event != "step"

    def start(self) -> None:
        if self.moment.event in ("call", "count"):
            if self.moment.event == "count":
                self.left = 0
                atexit.register(self._write_count)
            sys.setprofile(self._profile)
        else:
            sys.addaudithook(self._audit)

    def _profile(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                self._stop()

    def _write_count(self) -> None:
        sys.setprofile(None)
        with open(os.path.join(os.environ["HOME"], CALLS), "w") as file:
            file.write(str(-self.left))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy:
            return
        self.busy = True
        try:
            if not self.hooked:
                self._hook_optimizers()
            if _matches(event, arguments, self.moment):
                self._count()
        finally:
            self.busy = False

    def _hook_optimizers(self) -> None:
        module = sys.modules.get("torch.optim.optimizer")
        register: Callable[..., Any] | None = getattr(module, "register_optimizer_step_post_hook", None)
        if register is not None:
            self.hooked = True
            register(lambda *_: self._count())

    def _count(self) -> None:
        if self.moment.rank is not None and _rank() != self.moment.rank:
            return
        self.left -= 1
        if self.left > 0:
            return
        if self.moment.error is not None:
            raise OSError(self.moment.error, os.strerror(self.moment.error))
        if self.left == 0:
            self._stop()

    def _stop(self) -> None:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect("\0" + self.address)
            line.sendall(f"{os.getpid()}\n".encode())
            line.recv(1)


def _matches(event: str, arguments: tuple[Any, ...], moment: Moment) -> bool:
    if moment.event in ("read", "write") and event == "open":
        path, _, flags = arguments
        writing = bool((flags or 0) & WRITING)
    elif moment.event == "rename" and event == "os.rename":
        path, writing = arguments[1], False
    else:
        return False
    return isinstance(path, (str, os.PathLike)) and moment.match in str(path) and writing == (moment.event == "write")


def _rank() -> int:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return -1
    return int(distributed.get_rank())
