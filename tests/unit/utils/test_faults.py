"""Faults of the machine in one line, and programs whose streams are closed, full or without a reader."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointcept.utils.errors import ConfigError, MachineError
from pointcept.utils.faults import guarded, machine_errors, machine_fault

REPO = Path(__file__).parents[3]


def system(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names[:1], *((None, names[1]) if len(names) > 1 else ()))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (system(errno.ENOSPC, "/a/b"), "/a/b: No space left on device: free some space"),
        (system(errno.EROFS, "/a"), "/a: Read-only file system"),
        (system(errno.EACCES, "/a"), "/a: Permission denied"),
        (system(errno.EISDIR, "/a.tmp", "/a"), "/a.tmp -> /a: Is a directory"),
        (system(errno.ENAMETOOLONG, "/a"), "/a: File name too long"),
        (system(errno.ELOOP, "/a"), "/a: Too many levels of symbolic links"),
        (system(errno.ESTALE, "/a"), "/a: Stale file handle"),
        (system(errno.EINVAL, "/a"), "/a: Invalid argument"),
        (system(errno.EMFILE), "Too many open files: raise ulimit -n, or lower num_worker"),
        (system(errno.EIO), "Input/output error"),
        (MemoryError(), "out of memory: free memory, or lower batch_size and num_worker"),
        (MemoryError("Unable to allocate 3 GiB"), "out of memory: Unable to allocate 3 GiB: free memory"),
        (RuntimeError("CPUAllocator: can't allocate memory: you tried 9 bytes"), "out of memory: free memory"),
        (RuntimeError("received 0 items of ancdata"), "too many open files: raise ulimit -n"),
        (RuntimeError("can't start new thread"), "no more threads: raise ulimit -u"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "/dev/shm"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long: TMPDIR="),
        # mistakes of ours keep their traceback
        (OSError("7 requested and 0 written"), None),
        (system(errno.EBADF), None),
        (system(errno.EINVAL), None),
        (RuntimeError("shape mismatch"), None),
        (ImportError("no module named x"), None),
        (ZeroDivisionError(), None),
    ],
)
def test_a_fault_of_the_machine_is_one_line(error: Exception, words: str | None) -> None:
    if words is None:
        assert machine_fault(error) is None
        with pytest.raises(type(error)), machine_errors():
            raise error
        return
    line = machine_fault(error)
    assert line is not None
    assert words in line
    assert "\n" not in line
    with pytest.raises(MachineError) as caught, machine_errors():
        raise error
    assert (str(caught.value), caught.value.__cause__) == (line, error)


def test_memory_of_a_gpu_is_memory() -> None:
    class OutOfMemoryError(RuntimeError):
        """Torch's, by name."""

    assert machine_fault(OutOfMemoryError("CUDA out of memory. Tried to\nmore")) == (
        "out of GPU memory: CUDA out of memory. Tried to"
    )


def test_a_guarded_program_ends_with_a_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: BaseException) -> int:
        def main() -> int:
            raise error

        return guarded(main)

    assert guarded(lambda: 3) == 3
    assert [raising(SystemExit(code)) for code in (None, 0, 2, "words")] == [0, 0, 2, 1]
    assert raising(KeyboardInterrupt()) == 130
    assert raising(system(errno.ENOSPC, "/a")) == 2
    assert capsys.readouterr().err == "interrupted\nerror: /a: No space left on device: free some space\n"
    with pytest.raises(ConfigError):  # those of the package are the business of exit_code
        raising(ConfigError("x"))
    monkeypatch.setenv("POINTCEPT_TRACEBACK", "1")
    assert raising(MemoryError()) == 2
    assert "Traceback" in capsys.readouterr().err


def program(body: str, redirect: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a guarded program whose output goes where ``redirect`` says."""
    code = "import logging, os, sys\nfrom pointcept.utils.faults import guarded\ndef main():\n"
    code += "".join(f"    {line}\n" for line in body.splitlines()) + "sys.exit(guarded(main))"
    command = ["bash", "-c", f'set -o pipefail; "$@" {redirect}', "-", sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": str(REPO), **env}
    return subprocess.run(command, capture_output=True, env=env, timeout=60, check=False)


MUCH = "for i in range(30000): sys.stdout.write(f'line {i}\\n')\nreturn 5"


@pytest.mark.parametrize(
    ("body", "redirect", "code", "error"),
    [
        (MUCH, "| head -1", 5, b"nobody reads the output any more; the work goes on\n"),
        (MUCH, "2>&1 | head -1", 5, b""),
        (MUCH, ">&-", 5, b""),
        (MUCH, ">&- 2>&- <&-", 5, b""),
        ("sys.stdout.write('one')\nreturn 0", ">/dev/full", 2, b"error: standard output: No space left on device"),
        ("sys.stderr.write('one')\nreturn 0", "2>/dev/full", 0, b""),
        ("return len(sys.stdin.read())", "<&-", 0, b""),
        # the next file that is opened is none of the standard ones, and other programs cannot write into it
        ("return min(3, os.open('/', 0))", ">&- 2>&- <&-", 3, b""),
    ],
)
def test_streams_may_be_closed_full_or_unread(body: str, redirect: str, code: int, error: bytes) -> None:
    done = program(body, redirect)
    assert done.returncode == code
    assert done.stderr[: len(error) or None] == error


def test_what_an_encoding_cannot_say_is_escaped() -> None:
    done = program("sys.stdout.write('K\\u00f6ln \\udcff')\nreturn 0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"K\\xf6ln \\udcff", b"")


def test_a_working_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); from pointcept.utils.faults import guarded; sys.exit(guarded(exit))"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the working folder has been deleted" in done.stderr
    assert done.stderr.count("\n") == 1
