"""A study of small networks on small scans: teachers, students, an interrupt, and what comes out."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.engines.launch import exit_code
from pointcept.engines.study import jobs, work
from pointcept.engines.study.plan import Planner, Run, load_study
from pointcept.engines.train import DefaultTrainer
from pointcept.models import build_inference_model
from pointcept.utils.checkpoint import load_weights, read_checkpoint
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError
from pointcept.utils.lock import FolderLock
from pointcept.utils.logging import close_logging
from tests.integration.scans import write_scan
from tests.paths import CONFIGS

KITTI = CONFIGS / "semantic_kitti"
POINTS = 400


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file, and two scans of each of three scenes: points up to 30 m away."""
    rng = np.random.default_rng(0)
    for scene in ("00", "01", "02"):
        for frame in range(2):
            write_scan(tmp_path, scene, frame, rng.uniform((-20, -20, -2, 0), (20, 20, 2, 1), (POINTS, 4)))
    path = tmp_path / "study.py"
    path.write_text(f"""
save_path = "{tmp_path / "out"}"
folds = [[0, 1], [2]]
seeds = [0]
baseline = ["seg"]
options = {{"train.max_iter": 4, "data_root": "{tmp_path}", "num_worker": 0, "log_freq": 1}}
rows = dict(
    seg=dict(config="{KITTI}/small_student.py"),
    kld=dict(config="{KITTI}/small_distill_kld.py", teacher="teacher"),
    teacher=dict(config="{KITTI}/small_teacher.py"),
)
""")
    return path


class Here:
    """A run in this process in the place of one of its own."""

    def __init__(self, run: Run) -> None:
        self.code = exit_code(lambda: work.work(run))
        close_logging()

    def poll(self) -> int:
        return self.code

    def terminate(self) -> None:
        raise AssertionError("it has ended")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs happen in this process; the names of those that were begun."""
    started: list[str] = []
    monkeypatch.setattr(Config, "pretty_text", lambda self: "")  # yapf takes longer than the training

    def start(run: Run, slot: int, count: int) -> Here:
        started.append(run.name)
        return Here(run)

    monkeypatch.setattr(jobs, "start_process", start)
    return started


def test_a_study_from_the_teacher_to_the_tables(
    call_tool: Callable[..., Any], study: Path, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, folder = DefaultTrainer.run_step, study.parent / "out"

    def stop_once(self: DefaultTrainer, batches: Any) -> Any:
        if self.iteration == 2 and "kld/fold1" in self.cfg.save_path and not self.cfg.resume:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batches)

    monkeypatch.setattr(DefaultTrainer, "run_step", stop_once)
    first = call_tool("study", "--config", str(study), "--rows", "kld")
    # An interrupt that nobody has asked for is a failure; the training has been saved all the same.
    assert first.code == 1, first.err
    assert begun == [f"{row}.fold{k}.seed0" for row in ("teacher", "kld") for k in (0, 1)]
    again = call_tool("study", "--config", str(study), "--rows", "teacher", "kld", "--baseline", "teacher")
    assert (again.code, begun[4:]) == (0, ["kld.fold1.seed0"])
    log = (folder / "results" / "kld.fold1.seed0.log").read_text()
    assert re.findall(r"Train \[1/1\]\[(\d)/4\]", log) == ["1", "2", "3", "4"]
    assert not list(folder.rglob("model_last.pth"))

    report = json.loads((folder / "study.json").read_text())
    assert (report["missing"], report["rows"]["kld"]["runs"]) == ([], 2)
    assert sum(report["scans"].values()) == 6
    counted = np.array(report["rows"]["kld"]["confusion"]).sum(1)
    labelled = 6 * POINTS * 8 // 10  # two of ten raw labels are ignored
    assert counted.sum() == labelled == sum(part["points"] for part in report["rows"]["kld"]["by_range"])
    points = np.concatenate([np.fromfile(path, np.float32).reshape(-1, 4) for path in study.parent.rglob("*.bin")])
    near = (np.hypot(points[:, 0], points[:, 1]) < 10).mean()
    assert report["rows"]["kld"]["by_range"][0]["points"] / labelled == pytest.approx(near, abs=0.03)
    assert report["differences"]["teacher"]["kld"]["by_fold"]["n"] == 2
    assert again.out.endswith((folder / "study.md").read_text())


def test_a_teacher_is_what_its_students_read(study: Path, begun: list[str]) -> None:
    run = Planner(load_study(study)).run("kld", 1, 0)
    assert run.teacher is not None
    assert Here(run.teacher).code == 0
    state = read_checkpoint(run.teacher.weights)["state_dict"]
    assert {value.dtype for value in state.values() if value.dim() > 1} == {torch.float16}
    assert {value.dtype for value in state.values() if value.dim() == 1} == {torch.float32}
    load_weights(build_inference_model(run.config.model.teacher), run.teacher.weights)
    large = {"a": torch.full((2, 2), 1e6), "b": torch.ones(2, 2), "n": torch.tensor(3)}
    kept = work.compact(large)
    assert [value.dtype for value in kept.values()] == [torch.float32, torch.float16, torch.int64]


def test_a_scene_in_the_training_data_is_refused(study: Path) -> None:
    text = study.read_text().replace(
        f'config="{KITTI}/small_student.py"',
        f'config="{KITTI}/small_student.py", options={{"data.train.sequences": [0, 1, 2]}}, '
        'train_scenes="data.test.sequences"',
    )
    study.write_text(text)
    run = Planner(load_study(study)).run("seg", 1, 0)
    with pytest.raises(ConfigError, match="2 scans of scene 2, which is to be predicted, are in the training data"):
        work.work(run)
    close_logging()
    assert not run.result.exists()


def test_what_another_recipe_has_begun_is_not_gone_on_with(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Planner(load_study(study)).run("seg", 1, 0)
    checkpoint = run.folder / "model" / "model_last.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"of another recipe")
    (run.folder / work.MARK).write_text("another")
    assert Here(run).code == 0
    assert run.result.exists()


def test_two_processes_do_not_train_the_same(study: Path) -> None:
    run = Planner(load_study(study)).run("seg", 1, 0)
    other = FolderLock(run.folder)
    other.acquire()
    with pytest.raises(ConfigError, match=r"is in use by process \d+"):
        work.work(run)
    other.release()


def test_runs_are_processes(call_tool: Callable[..., Any], study: Path) -> None:
    """One that works and one that fails, beside each other."""
    bad = f'bad=dict(config="{KITTI}/small_student.py", options={{"data.train.data_root": "/nowhere"}})'
    study.write_text(study.read_text().replace("rows = dict(", f"rows = dict({bad}, "))
    done = call_tool("study", "--config", str(study), "--rows", "seg", "bad", "--folds", "1", "--jobs", "2")
    assert done.code == 1, done.err
    assert "FAILED bad.fold1.seed0" in done.out
    assert re.search(r"    error: .*/nowhere", done.out)
    assert "done  seg.fold1.seed0: mIoU quick" in done.out
    assert "| `seg` | 1 | 0 |" in done.out
    assert "1 runs have no result: bad.fold1.seed0." in done.out
