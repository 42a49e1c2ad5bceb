"""Faults of the machine and of the user's files as one line, wherever they are raised."""

from __future__ import annotations

import atexit
import errno
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from pointcept.utils.errors import MachineError
from pointcept.utils.streams import complain, flush_output, open_streams

USER_ERROR = 2
"""Exit code: a config, data or a weight file is wrong, or the machine refuses; one line says what."""
INTERRUPTED = 130
"""Exit code after Ctrl-C; what is done is saved, the same command goes on."""

# Without a file's name these are raised by calls that should not have been made: mistakes of this package.
MISTAKES = {errno.EBADF, errno.EINVAL, errno.ENOTTY, errno.ESPIPE, errno.EFAULT, errno.ECHILD, errno.ESRCH}

ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EFBIG: "see ulimit -f and what the file system allows",
    errno.EMFILE: "raise ulimit -n, or lower num_worker",
    errno.ENFILE: "too many are open on this machine",
    errno.EAGAIN: "raise ulimit -u, or lower num_worker",
    errno.ENOMEM: "free memory, or lower batch_size and num_worker",
    errno.EPIPE: "a process that this one talks to has ended",
}

# How libraries say the same without an OSError, in lower case.
NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "failed to map segment",
    "returned null without setting an exception",  # an import that ran out of memory
)
NO_FILE = ("too many open files", "items of ancdata")
NO_THREAD = ("can't start new thread", "pthread_create failed")
NO_SHARED_MEMORY = (
    "unable to open shared memory",
    "unable to allocate shared memory",
    "unable to write to file </torch",
)


def machine_fault(error: BaseException) -> str | None:
    """Say in one line what is wrong with the machine or with a file; None if the error says nothing of the kind.

    Args:
        error: an ``OSError`` with its number, or an error of memory, threads or shared memory.
    """
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, OSError):
        return _system_fault(error, text)
    if isinstance(error, MemoryError):
        return f"out of memory{f': {text}' if text else ''}: {ADVICE[errno.ENOMEM]}"
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):  # of torch, which is not imported here
        return f"out of GPU memory: {text}"
    if isinstance(error, (RuntimeError, ImportError, SystemError)):
        lower = str(error).lower()
        for words, what in (
            (NO_MEMORY, f"out of memory: {ADVICE[errno.ENOMEM]}"),
            (NO_FILE, f"too many open files: {ADVICE[errno.EMFILE]}"),
            (NO_THREAD, f"no more threads: {ADVICE[errno.EAGAIN]}"),
            (NO_SHARED_MEMORY, "no shared memory left: raise the size of /dev/shm, or lower num_worker and batch_size"),
        ):
            if any(word in lower for word in words):
                return f"{what} ({text})"
    return None


def _system_fault(error: OSError, text: str) -> str | None:
    if "AF_UNIX path too long" in text:
        return (
            f"{text}: TMPDIR={os.environ.get('TMPDIR', '')} has too long a name for sockets, which end below 108 bytes"
        )
    if error.errno is None or (error.filename is None and error.errno in MISTAKES):
        return None
    reason = error.strerror or os.strerror(error.errno)
    advice = ADVICE.get(error.errno)
    if error.errno == errno.ENOENT and not _in_a_folder():
        advice = "the working folder has been deleted: change into another"
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return f"{' -> '.join(names)}{': ' if names else ''}{reason}{f': {advice}' if advice else ''}"


def _in_a_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


@contextmanager
def machine_errors() -> Iterator[None]:
    """Turn errors of which :func:`machine_fault` knows the reason into a ``MachineError``.

    Raises:
        MachineError: such an error was raised inside.
    """
    try:
        yield
    except Exception as error:
        reason = machine_fault(error)
        if reason is None:
            raise
        raise MachineError(reason) from error


def show_traceback(asked: bool = False) -> None:
    """Print the traceback of the error that is handled, if ``asked`` or if ``POINTCEPT_TRACEBACK=1``."""
    if asked or os.environ.get("POINTCEPT_TRACEBACK", "") not in ("", "0"):
        complain(traceback.format_exc().rstrip())


_at_once = False


def end_at_once() -> None:
    """Have this process end by :func:`exit_at_once` where it is :func:`guarded`."""
    global _at_once
    _at_once = True


def exit_at_once(code: int) -> NoReturn:
    """End a process of several: what it holds is given back, but Python does not take itself apart.

    Threads of the process group may still hold tensors, also after an error, when nobody can wait for them: one that
    frees a tensor while Python is taken apart ends the process with SIGABRT, whatever its exit code was to be.
    """
    atexit._run_exitfuncs()
    flush_output()
    os._exit(code)


def guarded(main: Callable[[], int]) -> int:
    """Run a program from its first import to its last line of output.

    Args:
        main: imports what it needs, reads the command line, works, and returns an exit code.

    Returns:
        Its exit code; 130 after Ctrl-C; 2 for a fault of the machine, or where output could not be written.
    """
    open_streams()
    try:
        with machine_errors():
            os.getcwd()  # libraries end the process without a word where the working folder has been deleted
            code = main()
    except SystemExit as end:  # of the parser of arguments
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        complain("interrupted")
        code = INTERRUPTED
    except MachineError as error:
        show_traceback()
        complain(f"error: {error}")
        code = USER_ERROR
    lost = flush_output()
    if lost is not None:
        complain(f"error: standard output: {machine_fault(lost) or lost}")
        code = code or USER_ERROR
    if _at_once:
        exit_at_once(code)
    return code
