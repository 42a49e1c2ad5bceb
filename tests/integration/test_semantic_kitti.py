"""The main job on real scans, through the command line: train, distil, test; kill, interrupt, resume."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pointcept.datasets.semantic_kitti import CLASSES
from pointcept.engines.defaults import load_config
from pointcept.models import build_model
from pointcept.utils.checkpoint import load_weights, read_checkpoint
from tests.paths import CONFIGS

SMALL = {kind: str(CONFIGS / "semantic_kitti" / f"small_{kind}.py") for kind in ("teacher", "student", "distill_kld")}
STEPS = 6
REPORT_KEYS = {
    "kind", "num_scans", "num_points", "num_classes", "num_classes_present", "majority_baseline", "classes", "weight",
    "model", "parameters", "seconds",
}  # fmt: skip
MEANS = ("miou_present", "miou_all", "macc_present", "macc_all", "all_acc")
TRAINING_ONLY = (
    '[{"type": "CheckpointLoader"}, {"type": "InformationWriter"}, {"type": "CheckpointSaver", "save_iter": 1}]'
)


def options(root: Path, run: Path, *more: str) -> list[str]:
    """A few steps."""
    return [
        "--options", f"data_root={root}", f"save_path={run}", "data.train.sequences=[0]", f"train.max_iter={STEPS}",
        "log_freq=1", "seed=3", *more,
    ]  # fmt: skip


def steps(log: str) -> dict[int, str]:
    """The losses of each step as they stand in a log."""
    return {int(n): losses for n, losses in re.findall(r"Train \[1/1\]\[(\d+)/\d+\].* (loss .*)", log)}


def report(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def teacher(run_tool: Callable[..., Any], mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small teacher's training."""
    run = tmp_path_factory.mktemp("teacher")
    done = run_tool("train", "--config", SMALL["teacher"], *options(mini_root, run))
    assert (done.code, done.err) == (0, ""), done.err
    assert done.out == (run / "train.log").read_text()
    return run


@pytest.fixture(scope="module")
def student(run_tool: Callable[..., Any], teacher: Path, mini_root: Path, tmp_path_factory: Any) -> Path:
    """The folder of a distillation from that teacher."""
    run = tmp_path_factory.mktemp("student")
    weight = f"model.teacher_weight={teacher / 'model' / 'model_best.pth'}"
    done = run_tool("train", "--config", SMALL["distill_kld"], *options(mini_root, run, weight))
    assert (done.code, done.err) == (0, ""), done.err
    return run


def test_the_teacher_learns_and_leaves_its_record(teacher: Path) -> None:
    assert {p.name for p in teacher.iterdir() if not p.name.startswith("events")} == {
        "config.py", "environment.json", "train.log", "model", "result",
    }  # fmt: skip
    files = {p.name for p in (teacher / "model").iterdir()}
    assert files == {"model_last.pth", "model_previous.pth", "model_best.pth"}
    assert load_config(teacher / "config.py").seed == report(teacher / "environment.json")["seed"] == 3
    log = (teacher / "train.log").read_text()
    found = steps(log)
    assert sorted(found) == list(range(1, STEPS + 1))
    first, last = (float(found[n].split()[1]) for n in (1, STEPS))
    assert last < 0.8 * first
    assert re.fullmatch(r"loss \d\.\d{4} \(CrossEntropyLoss \d\.\d{4}, LovaszLoss \d\.\d{4}\)", found[2])
    assert re.search(rf"\[{STEPS - 1}/{STEPS}\] \d+\.\d+ s \(data .*\) ETA 0:00:\d\d lr .*e-\d\d/.*e-\d\d loss", log)
    assert "ops:" not in log, "which implementation a CPU uses is no news"


def test_quick_and_precise_are_never_mixed_up(teacher: Path) -> None:
    log = (teacher / "train.log").read_text()
    assert log.count("quick evaluation of 1 scans") == log.count("precise evaluation of 1 scans") == 1
    events = b"".join(p.read_bytes() for p in teacher.glob("events.*"))
    for name in ("val_quick/miou_present", "test_precise/miou_present", "train/LovaszLoss", "lr/block"):
        assert name.encode() in events
    assert [p.name for p in (teacher / "result").iterdir()] == ["miou_precise.json"]
    assert "quick" not in (teacher / "result" / "miou_precise.json").read_text()


def test_the_report_holds_what_is_documented(teacher: Path) -> None:
    found = report(teacher / "result" / "miou_precise.json")
    assert found.keys() == REPORT_KEYS | {f"{mean}_precise" for mean in MEANS}
    assert (found["kind"], found["num_scans"], found["num_classes"]) == ("precise", 1, 19)
    assert [entry["name"] for entry in found["classes"]] == list(CLASSES)
    assert {"iou_precise", "acc_precise", "precision_precise", "points"} <= found["classes"][0].keys()
    assert found["num_points"] == sum(entry["points"] for entry in found["classes"]) > 10_000
    assert 0 <= found["miou_all_precise"] <= found["miou_present_precise"] <= 1
    assert found["weight"] == str(teacher / "model" / "model_best.pth")


def test_the_distillation_names_every_term(student: Path) -> None:
    found = steps((student / "train.log").read_text())
    assert sorted(found) == list(range(1, STEPS + 1))
    values = {name: float(value) for name, value in re.findall(r"(\w+) (\d+\.\d+)", found[STEPS])}
    assert {"loss", "CrossEntropyLoss", "LovaszLoss", "KLDLoss", "raw"} <= values.keys()
    assert values["KLDLoss"] == pytest.approx(0.3 * values["raw"], abs=1e-4)
    terms = sum(values[name] for name in ("CrossEntropyLoss", "LovaszLoss", "KLDLoss"))
    assert values["loss"] == pytest.approx(terms, abs=3e-4)


def test_the_distilled_student_is_a_plain_student(
    student: Path, run_tool: Callable[..., Any], mini_root: Path, tmp_path: Path
) -> None:
    weight = student / "model" / "model_best.pth"
    load_weights(build_model(load_config(SMALL["student"]).model), weight)
    assert "model_state" not in read_checkpoint(weight) or "teacher" not in str(read_checkpoint(weight)["model_state"])
    done = run_tool(
        "test", "--config", SMALL["student"], "--model-file", str(weight),
        "--options", f"data_root={mini_root}", f"save_path={tmp_path}", "seed=3",
    )  # fmt: skip
    assert (done.code, done.err) == (0, ""), done.err
    here, there = (report(run / "result" / "miou_precise.json") for run in (tmp_path, student))
    assert here["classes"] == there["classes"]
    assert all(name in done.out for name in CLASSES)
    assert not (tmp_path / "config.py").exists()  # that would be the record of a training


def test_the_tester_can_be_quick(student: Path, call_tool: Callable[..., Any], mini_root: Path, tmp_path: Path) -> None:
    done = call_tool(
        "test", "--config", SMALL["student"], "--options", f"weight={student / 'model' / 'model_last.pth'}",
        f"data_root={mini_root}", f"save_path={tmp_path}", "test.quick=True", "num_worker=0",
    )  # fmt: skip
    assert done.code == 0
    found = report(tmp_path / "result" / "miou_quick.json")
    assert found.keys() == REPORT_KEYS | {f"{mean}_quick" for mean in MEANS}
    # The same number as at the end of the training, under the same name.
    assert f"mIoU quick {100 * found['miou_present_quick']:.2f} %" in (student / "train.log").read_text()
    assert "precise" not in (tmp_path / "result" / "miou_quick.json").read_text()


def stop_after(process: subprocess.Popen[str], step: int, stop: Callable[[], None]) -> tuple[int, str, str]:
    """Call ``stop`` as soon as ``step`` is in the log; return exit code and what the process has written."""
    read = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            read.append(line)
            if f"[{step}/{STEPS}]" in line:
                stop()
                break
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, "".join(read) + out, err


def test_kill_and_resume(
    teacher: Path, start_tool: Callable[..., Any], run_tool: Callable[..., Any], mini_root: Path, tmp_path: Path
) -> None:
    arguments = [
        "--config",
        SMALL["teacher"],
        *options(mini_root, tmp_path, f"hooks={TRAINING_ONLY}", "evaluate=False"),
    ]
    process = start_tool("train", *arguments)
    code, _, _ = stop_after(process, 3, process.kill)
    assert code == -signal.SIGKILL
    saved = read_checkpoint(tmp_path / "model" / "model_last.pth")["iteration"]
    assert 2 <= saved < STEPS  # a checkpoint after each step; the third may have been cut off
    done = run_tool("train", *arguments, "resume=True")
    assert (done.code, done.err) == (0, ""), done.err
    assert f"{saved} of {STEPS} iterations done" in done.out
    # As if nothing had happened.
    whole = steps((teacher / "train.log").read_text())
    assert steps(done.out) == {n: losses for n, losses in whole.items() if n > saved}
    last = (read_checkpoint(run / "model" / "model_last.pth")["state_dict"] for run in (teacher, tmp_path))
    one, two = last
    assert all(one[key].equal(two[key]) for key in one)


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(
    teacher: Path, start_tool: Callable[..., Any], run_tool: Callable[..., Any], mini_root: Path, tmp_path: Path
) -> None:
    hooks = TRAINING_ONLY.replace(', "save_iter": 1', "")
    arguments = ["--config", SMALL["teacher"], *options(mini_root, tmp_path, f"hooks={hooks}", "evaluate=False")]
    process = start_tool("train", *arguments)
    # To the whole group, its data loading processes among them: so does a terminal.
    code, out, err = stop_after(process, 2, lambda: os.killpg(process.pid, signal.SIGINT))
    assert code == 130
    assert err == "interrupted\n"
    assert "go on with --options resume=True" in out
    saved = read_checkpoint(tmp_path / "model" / "model_last.pth")["iteration"]
    assert 2 <= saved < STEPS
    done = run_tool("train", *arguments, "resume=True")
    assert (done.code, done.err) == (0, ""), done.err
    whole = steps((teacher / "train.log").read_text())
    assert steps(done.out) == {n: losses for n, losses in whole.items() if n > saved}
    # One log for the whole run.
    assert steps((tmp_path / "train.log").read_text()) == whole
