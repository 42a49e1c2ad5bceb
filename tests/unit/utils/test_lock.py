"""The lock of a folder: who has it, who is gone, and what another machine cannot know."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pointcept.utils import lock
from pointcept.utils.errors import ConfigError
from pointcept.utils.lock import FolderLock
from tests.paths import REPO

HOLD = "import sys, time; from pointcept.utils import lock; lock.hold(sys.argv[1]); print('held', flush=True); "


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the folder."""
    command = [sys.executable, "-c", HOLD + "time.sleep(100)", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(REPO)})
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_process_at_a_time(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    for patient in (False, True):
        words = rf"save_path={tmp_path} is in use by process {other.pid} on .* since 20.*: wait until it has ended, or"
        with pytest.raises(ConfigError, match=words):
            lock.hold(tmp_path, patient)
    assert not lock.is_held(tmp_path)
    assert (tmp_path / "lock").exists()
    other.send_signal(signal.SIGSTOP)  # stopped is not gone
    with pytest.raises(ConfigError, match="is in use by process"):
        lock.hold(tmp_path)
    other.kill()
    other.wait()
    lock.hold(tmp_path)  # killed, it could not give it back
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.hold(tmp_path / "." / "x" / "..")  # the same folder
    lock.let_go(tmp_path)
    assert not (tmp_path / "lock").exists()
    lock.let_go(tmp_path)


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HOLD, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(REPO)})
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_forked_process_holds_nothing(tmp_path: Path) -> None:
    lock.hold(tmp_path)
    pid = os.fork()
    if pid == 0:
        held = lock.is_held(tmp_path)
        lock.let_go(tmp_path)
        time.sleep(0.1)
        os._exit(int(held))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "lock").exists()
    lock.let_go(tmp_path)


def written(folder: Path, **changes: Any) -> Path:
    """A lock that another process seems to have left."""
    path = folder / "lock"
    path.write_text(json.dumps({**lock._myself(), **changes}))
    return path


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"started": 1}])
def test_a_process_that_is_gone_or_whose_number_another_one_has(tmp_path: Path, changes: dict[str, Any]) -> None:
    written(tmp_path, **changes)
    taken = FolderLock(tmp_path)
    taken.acquire()
    taken.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_half_written_lock_is_nobody_s(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    taken = FolderLock(tmp_path)
    taken.acquire()
    taken.release()


def test_a_file_system_without_locks_goes_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*args: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    taken = FolderLock(tmp_path)
    taken.acquire()
    with pytest.raises(ConfigError, match=f"is in use by process {os.getpid()} on"):
        FolderLock(tmp_path).acquire()
    taken.release()
    FolderLock(tmp_path).acquire()


FAR = {"boot": "another", "host": "far", "pid": 7}


def test_another_machine_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, **FAR)
    words = rf"in use by process 7 on far since .*; last sign of life \d s ago; if it no longer runs, delete {path}"
    with pytest.raises(ConfigError, match=words):
        FolderLock(tmp_path).acquire()

    def beat(seconds: float) -> None:
        os.utime(path, (1e9, 1e9))

    monkeypatch.setattr(lock.time, "sleep", beat)
    with pytest.raises(ConfigError, match="it has just shown a sign of life"):
        FolderLock(tmp_path).acquire(patient=True)
    assert json.loads(path.read_text())["host"] == "far"
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_another_machine_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = written(tmp_path, **FAR)
    monkeypatch.setattr(lock, "SILENCE", 0.3)
    taken = FolderLock(tmp_path)
    taken.acquire(patient=True)
    taken.release()
    assert "names process 7 on far: waiting up to 0 s for a sign of life" in caplog.text
    assert f"process 7 on far has gone without giving back {tmp_path}: taken over" in caplog.text
    written(tmp_path, **FAR)
    long_ago = time.time() - 100
    os.utime(path, (long_ago, long_ago))
    caplog.clear()
    taken = FolderLock(tmp_path)
    taken.acquire()  # whoever it is has been silent for long
    taken.release()
    assert "waiting" not in caplog.text


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    taken = FolderLock(tmp_path)
    taken.acquire()
    os.utime(taken.path, (1e9, 1e9))
    end = time.monotonic() + 10
    while taken.path.stat().st_mtime == 1e9 and time.monotonic() < end:
        time.sleep(0.01)
    assert taken.path.stat().st_mtime > 1e9
    taken.release()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(ConfigError, match=rf"save_path={tmp_path}: cannot write there: .*Is a directory"):
        FolderLock(tmp_path).acquire()


def test_who_was_running_when() -> None:
    assert lock.was_running(os.getpid(), time.time())
    assert not lock.was_running(os.getpid(), time.time() - 10**6)
    assert not lock.was_running(2**22 + 1, time.time())
