"""The log of a run, its environment and its scalars."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path

import pytest

from pointcept.utils.env import git_state, write_environment
from pointcept.utils.events import ScalarWriter
from pointcept.utils.logging import close_logging, setup_logging


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
