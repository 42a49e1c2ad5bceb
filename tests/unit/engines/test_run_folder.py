"""The folder of a run: what is refused, what is put away, how far a resumed run goes back in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import make_config

from pointcept.engines import run_folder
from pointcept.engines.run_folder import claim, extent, kept, previous, release, resume_point, rewind
from pointcept.utils.errors import ConfigError


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "held"),
    [
        (["model/model_last.pth"], "model/model_last.pth"),
        (["model/epoch_3.pth", "model/model_best.pth"], "model/epoch_3.pth and 1 more"),
        (["train.log", "result/miou_precise.json"], "result/miou_precise.json"),
    ],
)
def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, names: list[str], held: str) -> None:
    cfg = make_config(touched(tmp_path, *names))
    words = rf"holds a run already \({held}\): give another save_path, or go on with it \(resume=True\)"
    with pytest.raises(ConfigError, match=words):
        claim(cfg)
    assert not (tmp_path / "lock").exists()
    cfg.resume = True
    if "model/model_last.pth" in names:
        claim(cfg)
        assert (tmp_path / "lock").exists()
        release(cfg)
    else:
        with pytest.raises(
            ConfigError, match=r"of a run, but no model_last\.pth to go on from: give another save_path"
        ):
            claim(cfg)
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("names", [[], ["test.log", "result/miou_precise.json"], ["notes.txt", "config.py"]])
def test_a_folder_without_a_run_is_taken(tmp_path: Path, names: list[str]) -> None:
    cfg = make_config(touched(tmp_path / "run", *names))
    claim(cfg)
    release(cfg)
    assert {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()} == set(names)


def test_what_a_run_goes_on_from(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, resume=True)
    assert resume_point(cfg) is None
    cfg.weight = str(tmp_path / "pretrained.pth")
    assert resume_point(cfg) == tmp_path / "pretrained.pth"  # missing or not: that is for its reader to say
    model = touched(tmp_path, "model/model_previous.pth", "model/model_previous_2.pth", "model/epoch_1.pth") / "model"
    assert resume_point(cfg) == model / "model_previous.pth"  # of a file system without hard links, killed in between
    touched(tmp_path, "model/model_last.pth")
    assert resume_point(cfg) == model / "model_last.pth"
    assert [p.name for p in kept(model)] == ["model_last.pth", "model_previous.pth", "model_previous_2.pth"]
    assert kept(model)[1:] == previous(model, 3)
    cfg.weight = str(model / ".." / "model" / "epoch_1.pth")  # back to a state of its own
    assert resume_point(cfg) == Path(cfg.weight)


def test_leftovers_of_processes_that_are_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours = [f"model/.model_last.pth.{gone.pid}.tmp", f".config.py.{gone.pid}.tmp", f"model/.model_best.pth.{1}.tmp"]
    others = [f"model/.model_last.pth.{os.getpid()}.tmp", "model/.notes.tmp", "model/model_last.pth.7.tmp", ".x.y.tmp"]
    cfg = make_config(touched(tmp_path, *ours, *others))
    os.utime(tmp_path / ours[2], (1e9, 1e9))  # process 1 began later than that
    claim(cfg)
    release(cfg)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(others)
    assert caplog.text.count("did not finish") == 3


def test_a_run_goes_back_to_its_checkpoint(tmp_path: Path) -> None:
    log, events = tmp_path / "train.log", tmp_path / "events.out.tfevents.1"
    log.write_text("kept\n")
    events.write_bytes(b"1234")
    then = extent(tmp_path)
    assert then == {"train.log": 5, "events.out.tfevents.1": 4}
    log.write_text("kept\nlost\n")
    events.write_bytes(b"1234567")
    touched(tmp_path, "events.out.tfevents.2", "notes.txt")
    cfg = make_config(touched(tmp_path, "model/model_last.pth"), resume=True)
    claim(cfg)
    with open(log, "a") as stream:  # as the log of this start does
        stream.write("this start\n")
        stream.flush()
        rewind(tmp_path, then)
        stream.write("goes on\n")
    release(cfg)
    assert log.read_text() == "kept\nthis start\ngoes on\n"
    assert (tmp_path / "train.lost.log").read_text() == "lost\n"
    assert events.read_bytes() == b"1234"
    assert {p.name for p in tmp_path.iterdir()} == {
        "train.log", "train.lost.log", "events.out.tfevents.1", "notes.txt", "model",
    }  # fmt: skip
    rewind(tmp_path, then)  # once
    assert log.read_text() == "kept\nthis start\ngoes on\n"


def test_a_start_that_came_to_no_checkpoint_is_put_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("first\n", "second\n"):
        (tmp_path / "train.log").write_text(text)
        touched(tmp_path, "events.out.tfevents.1")
        cfg: Any = make_config(tmp_path)
        claim(cfg)
        release(cfg)
        assert not (tmp_path / "train.log").read_text()
    assert (tmp_path / "train.lost.log").read_text() == "first\nsecond\n"
    assert not list(tmp_path.glob("events*"))


def test_every_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first one looks; the others hear of it."""
    monkeypatch.setattr(run_folder.comm, "is_main_process", lambda: False)
    monkeypatch.setattr(run_folder.comm, "broadcast_object", lambda value: value or "it is in use")
    with pytest.raises(ConfigError, match=r"^it is in use$"):
        claim(make_config(tmp_path))
    assert not list(tmp_path.iterdir())
