"""Running the command line tools: forked from a process that has imported everything, or started anew."""

from __future__ import annotations

import atexit
import io
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults import linux, trigger
from tests.paths import REPO

LIMIT = 90.0 * float(os.environ.get("POINTCEPT_FAULTS_PATIENCE", "1"))
"""Seconds after which a tool counts as hung."""
GRACE = 15.0
"""Seconds that processes have to end after the one that started them."""


@dataclass(frozen=True)
class Conditions:
    """Under what a tool runs.

    Args:
        env: variables that are set, or removed where they are None.
        cwd: working folder.
        limits: soft limits by their number in ``resource``.
        umask: of the process.
        default_signals: signals that Python ignores and that get their default action back.
        moment: where it stops for the case.
        fresh: start a new interpreter instead of forking this one, which takes two seconds more.
        shell: for a fresh one: a shell line in which ``"$@"`` is the command.
    """

    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    limits: Mapping[int, int] = field(default_factory=dict)
    umask: int | None = None
    default_signals: Sequence[int] = ()
    moment: trigger.Moment | None = None
    fresh: bool = False
    shell: str = ""


@dataclass(frozen=True)
class Ending:
    """How a tool has ended.

    Args:
        what: tool and arguments.
        code: exit code, negative for a signal; None if it did not end within the limit.
        out: standard output.
        err: standard error.
        left: command lines of processes that were still there ``GRACE`` seconds later.
        sent: signals that the case has sent to it.
        reached: whether its moment came.
        seconds: wall-clock time.
    """

    what: str
    code: int | None
    out: str
    err: str
    left: Sequence[str]
    sent: Sequence[int]
    reached: bool
    seconds: float

    @property
    def said(self) -> str:
        """All that the user saw."""
        return self.out + self.err


_running: set[int] = set()
"""Tools that have been started and not waited for."""

Then = Callable[["Running", int], None]


class Running:
    """A tool that has been started.

    Args:
        tool: name of a file in ``tools``, or a path.
        arguments: its command line.
        folder: for its output, home and temporary files.
        conditions: see there.
        then: what to do when ``conditions.moment`` comes; gets this object and the number of the process that waits.
    """

    def __init__(
        self, tool: str, arguments: Sequence[str], folder: Path, conditions: Conditions, then: Then | None = None
    ) -> None:
        self.what = " ".join([tool, *arguments])
        self.folder, self.conditions, self.then = folder, conditions, then
        self.sent: list[int] = []
        self.reached = False
        self.start = time.monotonic()
        self._line = socket.socket(socket.AF_UNIX)
        address = f"pointcept-fault-{os.getpid()}-{id(self)}"
        self._line.bind("\0" + address)
        self._line.listen()
        folder.mkdir(parents=True, exist_ok=True)
        script = REPO / "tools" / f"{tool}.py" if "/" not in tool else Path(tool)
        self.pid = self._spawn([str(script), *arguments], _environment(folder, conditions, address))

    def _spawn(self, argv: list[str], environment: dict[str, str]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            _running.add(pid)
            return pid
        code = 70
        try:
            os.setsid()
            _redirect(self.folder)
            _confine(self.conditions, self.folder)
            if self.conditions.fresh:
                command = [sys.executable, *argv]
                if self.conditions.shell:
                    command = ["bash", "-c", self.conditions.shell, "bash", *command]
                os.execvpe(command[0], command, environment)
            code = _run_here(argv, environment)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def send(self, number: int, pid: int | None = None) -> None:
        """Send a signal to the tool, or to another process of the run; a negative ``pid`` is a group."""
        self.sent.append(number)
        with suppress(ProcessLookupError):
            os.kill(self.pid if pid is None else pid, number)

    def family(self, word: str = "") -> list[int]:
        """Its descendants that run and whose command line contains ``word``."""
        return [pid for pid in linux.descendants(self.pid) if word in linux.command(pid)]

    def workers(self) -> list[int]:
        """Its loading processes: the children of the fork server."""
        servers = self.family("multiprocessing.forkserver")
        return [pid for pid in servers if any(pid in linux.descendants(server) for server in servers)]

    def text(self) -> str:
        """What it has said so far."""
        return "".join(_text(self.folder / name) for name in ("out", "err"))

    def says(self, word: str, seconds: float = LIMIT) -> bool:
        """Whether it says ``word`` within so many seconds."""
        return linux.wait_for(lambda: word in self.text() or not self._alive(), seconds) and word in self.text()

    def _alive(self) -> bool:
        return linux.command(self.pid) != ""

    def wait(self, limit: float = LIMIT) -> Ending:
        """Serve its moment, wait for its end, and for that of all its processes."""
        code = self._serve(limit)
        if code is None:
            # Its leader last, so that what it starts meanwhile is found below it.
            for pid in [*linux.descendants(self.pid), self.pid]:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        _running.discard(self.pid)
        left = self._sweep(GRACE if code is not None else 0.0)
        self._line.close()
        return Ending(
            what=self.what,
            code=code,
            out=_text(self.folder / "out"),
            err=_text(self.folder / "err"),
            left=left,
            sent=tuple(self.sent),
            reached=self.reached,
            seconds=time.monotonic() - self.start,
        )

    def _serve(self, limit: float) -> int | None:
        end = time.monotonic() + limit
        handle = os.pidfd_open(self.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            selector.register(self._line, selectors.EVENT_READ)
            try:
                while time.monotonic() < end:
                    ready = {key.fileobj for key, _ in selector.select(max(0.0, end - time.monotonic()))}
                    if self._line in ready:
                        self._answer()
                    if handle in ready:
                        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            finally:
                os.close(handle)
        return None

    def _answer(self) -> None:
        line, _ = self._line.accept()
        with line:
            pid = int(line.recv(32))
            self.reached = True
            if self.then is not None:
                self.then(self, pid)
            with suppress(BrokenPipeError):  # the process that waited may have been killed
                line.sendall(b".")

    def _sweep(self, grace: float) -> list[str]:
        """Wait until all processes of the run have ended; end those that stay, and return their command lines."""

        def left() -> set[int]:
            for pid in linux.zombies(os.getpid()):
                if pid not in _running:
                    os.waitpid(pid, 0)
            others = {pid for own in _running for pid in (own, *linux.descendants(own))}
            return set(linux.descendants(os.getpid())) - others

        if linux.wait_for(lambda: not left(), grace):
            return []
        names = [f"{pid} {linux.command(pid)}" for pid in sorted(left())]
        for pid in left():
            os.kill(pid, signal.SIGKILL)
        linux.wait_for(lambda: not left(), GRACE)
        return names


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _environment(folder: Path, conditions: Conditions, address: str) -> dict[str, str]:
    home, temporary = folder / "home", folder / "tmp"
    for place in (home, temporary):
        place.mkdir(exist_ok=True)
    values: dict[str, str | None] = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "POINTCEPT_DEVICE": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, (REPO / "tests/faults/site", REPO, REPO / "libs/pointops"))),
        **(trigger.environment(conditions.moment, address) if conditions.moment else {}),
        **conditions.env,
    }
    return {name: value for name, value in values.items() if value is not None}


def _redirect(folder: Path) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
    os.closerange(3, 256)


def _confine(conditions: Conditions, folder: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in conditions.default_signals:
        signal.signal(number, signal.SIG_DFL)
    linux.drop_capabilities()
    os.chdir(conditions.cwd or folder)
    if conditions.umask is not None:
        os.umask(conditions.umask)
    for number, value in conditions.limits.items():
        resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def _run_here(argv: list[str], environment: dict[str, str]) -> int:
    """Run a script in this process as Python does, up to what happens at the exit."""
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
    trigger.install()
    code = _code_of(lambda: runpy.run_path(argv[0], run_name="__main__"))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def _code_of(run: Callable[[], Any]) -> int:
    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
