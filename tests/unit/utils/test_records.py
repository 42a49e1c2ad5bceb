"""The log of a run, its environment and its scalars."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pointcept.utils.env import git_state, write_environment
from pointcept.utils.events import ScalarWriter
from pointcept.utils.logging import LogFileHandler, TerminalHandler, close_logging, setup_logging


def test_log_goes_to_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        setup_logging(tmp_path / "run")
        logging.getLogger("pointcept.a").info("first")
        setup_logging(tmp_path / "run", resume=True)  # replaces the handlers: no line twice
        logging.getLogger("pointcept.a").info("second")
    finally:
        close_logging()
    out, text = capsys.readouterr().out, (tmp_path / "run" / "train.log").read_text()
    assert out.count("first") == out.count("second") == text.count("first") == text.count("second") == 1
    assert "INFO] second" in text
    assert not logging.getLogger("pointcept").handlers


def test_other_ranks_write_errors_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointcept.utils.comm.rank", lambda: 3)
    try:
        setup_logging(tmp_path)
        logging.getLogger("pointcept").info("quiet")
        logging.getLogger("pointcept").error("loud")
    finally:
        close_logging()
        logging.getLogger("pointcept").setLevel(logging.INFO)
    out = capsys.readouterr().out
    assert "quiet" not in out
    assert "[rank 3]" in out
    assert "loud" in out
    assert not list(tmp_path.iterdir())


def test_environment_is_recorded_without_the_machine_s_name(tmp_path: Path) -> None:
    facts = write_environment(tmp_path / "environment.json", seed=5)
    assert json.loads((tmp_path / "environment.json").read_text()) == facts
    assert facts["seed"] == 5
    assert facts["packages"]["torch"]
    assert set(facts["git"]) == {"commit", "dirty"}
    import socket

    assert socket.gethostname() not in {str(value) for value in facts.values()}


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "dirty": None}

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "pointcept").mkdir()
    (tmp_path / "pointcept" / "__init__.py").write_text("")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "pointcept" / "__init__.py").write_text("x = 1")
    assert git_state(tmp_path)["dirty"] is True


def test_scalars(tmp_path: Path) -> None:
    writer = ScalarWriter(tmp_path / "events")
    writer.close()
    assert not (tmp_path / "events").exists()
    writer.add("train/loss", 1.5, 3)
    writer.close()
    (file,) = (tmp_path / "events").iterdir()
    assert b"train/loss" in file.read_bytes()


class Full(io.StringIO):
    """Takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("pointcept", logging.INFO, __file__, 0, text, None, None)


def test_a_full_disk_costs_lines_of_the_log_and_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.log"
    handler = LogFileHandler(path, append=False)
    opened = handler._open
    handler.emit(record("first \udcff \u00f6"))
    with monkeypatch.context() as patch:
        patch.setattr(handler, "_open", Full)
        handler.stream.close()
        handler.stream = Full()  # type: ignore[assignment]
        for number in range(3):
            handler.emit(record(f"lost {number}"))
        patch.setattr(handler, "_open", lambda: (_ for _ in ()).throw(system_error(errno.EROFS)))
        handler.emit(record("lost 3"))  # cannot be opened either
    assert capsys.readouterr().err == (
        f"{path}: No space left on device: free some space; log lines are lost, the run goes on\n"
    )
    handler._open = opened  # type: ignore[method-assign]
    handler.emit(record("there again"))
    handler.emit(record("last"))
    assert path.read_text().splitlines() == [
        "first \\udcff \u00f6",
        "there again",
        "4 lines before the last one are missing: they could not be written",
        "last",
    ]
    handler.stream.close()
    handler.stream = Full()  # type: ignore[assignment]
    handler.close()
    assert capsys.readouterr().err == ""


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_terminal_that_takes_nothing_is_told_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "w") as stream:
        handler = TerminalHandler(stream)
        for number in range(3):
            handler.emit(record(f"line {number}"))
    assert capsys.readouterr().err == (
        "standard output: No space left on device: free some space; the log is no longer shown\n"
    )
    monkeypatch.setattr(logging, "raiseExceptions", True)
    TerminalHandler(io.StringIO()).emit(logging.LogRecord("a", 20, __file__, 0, "%d %d", (1,), None))
    assert "Logging error" in capsys.readouterr().err  # a mistake of ours shows where it is


def test_scalars_that_cannot_be_written_end_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboardX.event_file_writer import EventsWriter

    (tmp_path / "file").touch()
    writer = ScalarWriter(tmp_path / "file" / "run")
    for step in range(20):
        writer.add("a", 1.0, step)  # tensorboardX's own writer would wait forever here
    writer.close()
    assert caplog.text.count("TensorBoard:") == 1
    assert "scalars are lost, the run goes on" in caplog.text

    def full(self: Any) -> None:
        raise system_error(errno.ENOSPC)

    writer = ScalarWriter(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(EventsWriter, "flush", full)
        for step in range(20):
            writer.add("a", 1.0, step)
        writer.close()
    assert caplog.text.count("TensorBoard:") == 2
    writer.add("a", 1.0, 20)
    writer.close()
    assert all(p.name.startswith("events.out.tfevents") for p in (tmp_path / "run").iterdir())
