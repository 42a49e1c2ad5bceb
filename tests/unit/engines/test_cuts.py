"""Whatever moment a run is killed or asked to stop, the resumed run ends like the one that was not cut."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from cuts import ends, in_a_fork, train
from fakes import make_config

from pointcept.engines import evaluate, run_folder
from pointcept.engines.interrupt import HANDLED, Interrupted
from pointcept.engines.test import SemSegTester
from pointcept.utils import checkpoint
from pointcept.utils.config import Config
from pointcept.utils.errors import CheckpointError

HOOKS = [
    {"type": "CheckpointLoader"}, {"type": "IterationTimer"}, {"type": "InformationWriter"},
    {"type": "SemSegEvaluator"}, {"type": "CheckpointSaver", "save_iter": 3}, {"type": "PreciseEvaluator"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "pretty_text", lambda self: "")  # yapf takes longer than the training


def config(folder: Path, **changes: Any) -> Any:
    """Three epochs of four steps; the second one's weights are the best."""
    return make_config(folder, hooks=HOOKS, log_freq=3, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The end of the run that is not cut."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        patch.setattr(Config, "pretty_text", lambda self: "")
        train(config(folder))
    return ends(folder)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, what: Any, name: str, do: Callable[[], None], before: bool = True) -> None:
    """Have ``do`` happen at the ``number``-th call of a function, in this process until its end."""
    real, calls = getattr(what, name), []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if before and len(calls) == number:
            do()
        result = real(*args, **kwargs)
        if not before and len(calls) == number:
            do()
        return result

    setattr(what, name, call)


# Where a process is killed: the third epoch's best and last file, half-written files, evaluations, steps, the last test.
MOMENTS = {
    "first step": (1, fakes.FakeModel, "forward", True),
    "step 6, half done": (6, torch.Tensor, "backward", True),
    "in the first evaluation": (1, evaluate, "judged_points", True),
    "in the last evaluation": (20, evaluate, "judged_points", True),
    "before the 1st rename": (1, checkpoint.os, "replace", True),
    "after the 3rd rename": (3, checkpoint.os, "replace", False),
    "before the 5th rename": (5, checkpoint.os, "replace", True),
    "after the 6th rename": (6, checkpoint.os, "replace", False),
    "before the 9th rename": (9, checkpoint.os, "replace", True),
    "after the 11th rename": (11, checkpoint.os, "replace", False),
    "while a checkpoint is forced to the disk": (5, checkpoint.os, "fsync", True),
    "in the precise evaluation": (4, SemSegTester, "_log_scan", True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_ends_like_the_whole_one(tmp_path: Path, whole: Any, moment: str) -> None:
    number, what, name, before = MOMENTS[moment]

    def cut() -> None:
        at_call(number, what, name, kill, before)
        train(config(tmp_path, resume=True))  # the same command at every start

    assert in_a_fork(cut) == -signal.SIGKILL
    train(config(tmp_path, resume=True))
    found = ends(tmp_path)
    for key in whole:
        assert found[key] == whole[key], key
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_is_killed_again_and_again(tmp_path: Path, whole: Any) -> None:
    """Each start comes a little further; the numbers of calls are of this start."""
    for number in (9, 14, 5, 7, 11):

        def cut(number: int = number) -> None:
            at_call(number, checkpoint.os, "replace", kill)
            at_call(40, fakes.FakeModel, "forward", kill)
            train(config(tmp_path, resume=True))

        in_a_fork(cut)
    train(config(tmp_path, resume=True))
    found = ends(tmp_path)
    for key in whole:
        assert found[key] == whole[key], key


@pytest.mark.parametrize("number", HANDLED)
def test_every_signal_saves_and_goes_on(tmp_path: Path, whole: Any, number: int) -> None:
    place = HANDLED.index(number)
    moments = [
        (7, fakes.FakeModel, "forward"), (3, evaluate, "judged_points"), (2, checkpoint.os, "replace"),
        (3, SemSegTester, "_log_scan"), (1, fakes.FakeModel, "__init__"), (12, fakes.FakeDataset, "__getitem__"),
        (9, evaluate, "judged_points"),
    ]  # fmt: skip
    calls, what, name = moments[place]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(what, name, getattr(what, name))  # put back at the end
        at_call(calls, what, name, lambda: signal.raise_signal(number))
        with pytest.raises(Interrupted) as request:
            train(config(tmp_path, resume=True))
    assert request.value.number == number
    assert not (tmp_path / "lock").exists()
    train(config(tmp_path, resume=True))
    found = ends(tmp_path)
    found["log"] = [line for line in found["log"] if "a second signal ends at once" not in line]
    for key in whole:
        assert found[key] == whole[key], key


def test_a_full_disk_at_the_best_checkpoint_costs_nothing(tmp_path: Path, whole: Any) -> None:
    real = checkpoint.torch.save

    def full(content: Any, file: Any) -> None:
        if Path(file.name).name.startswith(".model_best"):
            raise OSError(28, "No space left on device")
        real(content, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", full)
        with pytest.raises(CheckpointError, match=r"cannot write .*model_best\.pth: .*No space left"):
            train(config(tmp_path, resume=True))
    assert not (tmp_path / "model" / "model_best.pth").exists()
    train(config(tmp_path, resume=True))
    assert ends(tmp_path)["states"] == whole["states"]


def test_a_damaged_scan_to_evaluate_costs_no_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "judged_points", lambda batch: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config(tmp_path))
    content = checkpoint.read_checkpoint(tmp_path / "model" / "model_last.pth")
    assert (content["iteration"], content["epoch"]) == (4, 0)


def test_the_states_before_the_last_are_kept(tmp_path: Path) -> None:
    hooks = [{"type": "CheckpointSaver", "save_iter": 1, "keep_last": 4}]
    train(make_config(tmp_path, hooks=hooks, evaluate=False))
    files = run_folder.kept(tmp_path / "model")
    names = ["model_last.pth", "model_previous.pth", "model_previous_2.pth", "model_previous_3.pth"]
    assert [path.name for path in files] == names
    assert [checkpoint.read_checkpoint(path)["iteration"] for path in files] == [12, 12, 11, 10]
    assert len({path.stat().st_ino for path in files}) == 4


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", link)
    train(make_config(tmp_path, hooks=[{"type": "CheckpointSaver"}]))
    iterations = [checkpoint.read_checkpoint(path)["iteration"] for path in run_folder.kept(tmp_path / "model")]
    assert iterations == [12, 8]


def test_a_state_is_saved_every_few_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a minute and an epoch 20; 7 minutes are looked at as often as needed, not at every step."""
    minutes = [0.0]
    monkeypatch.setattr("pointcept.engines.hooks.checkpoint.time.monotonic", lambda: 60 * minutes[0])
    saved: list[int] = []
    real = fakes.FakeModel.forward

    def forward(self: Any, batch: Any) -> Any:
        minutes[0] += self.training
        return real(self, batch)

    monkeypatch.setattr(fakes.FakeModel, "forward", forward)
    monkeypatch.setattr(
        "pointcept.engines.checkpoint.save", lambda trainer, path, done=False: saved.append(trainer.iteration)
    )
    hooks = [{"type": "CheckpointSaver", "save_minutes": 7}]
    train(
        make_config(
            tmp_path, hooks=hooks, train={"type": "DefaultTrainer", "max_iter": 40}, eval_epoch=2, evaluate=False
        )
    )
    assert saved == [7, 14, 20, 27, 34, 40]
