"""The scripts with Pointcept's options: they turn them into calls of the tools, and do nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import REPO

ALONE = ["--num-gpus", "1", "--num-machines", "1", "--machine-rank", "0", "--dist-url", "auto", "--options"]
RUN = ["save_path=exp/nuscenes/run1"]
MORE = ["weight=my weights.pth", "data_root=/my data", "epoch=2"]


def run_script(name: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    unset = {"SLURM_NODEID", "MACHINE_RANK", "DIST_URL"}
    clean = {key: value for key, value in os.environ.items() if key not in unset}
    command = ["sh", str(REPO / "scripts" / f"{name}.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**clean, **environment}, check=False)


@pytest.fixture
def spy(tmp_path: Path) -> str:
    """An interpreter that shows where it was started and with which arguments, one a line."""
    path = tmp_path / "my python"
    path.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        (
            "train",
            ["-g", "1", "-d", "nuscenes", "-c", "semseg-pt-v3m1-0-base", "-n", "run1"],
            ["configs/nuscenes/semseg-pt-v3m1-0-base.py", *ALONE, *RUN, "resume=false"],
        ),
        (
            "train",
            ["-d", "waymo", "-c", "a.py", "-w", "my weights.pth", "-r", "false", *MORE[1:]],
            ["configs/waymo/a.py", *ALONE, "save_path=exp/waymo/debug", "resume=false", *MORE],
        ),
        (
            "train",
            ["-g", "1", "-d", "nuscenes", "-c", "begins", "-n", "run1", "-w", "begins.pth", "-r", "true"],
            ["configs/nuscenes/begins.py", *ALONE, *RUN, "resume=true", "weight=begins.pth"],
        ),
        (
            "test",
            ["-g", "1", "-d", "nuscenes", "-n", "run1"],
            ["exp/nuscenes/run1/config.py", *ALONE, *RUN, "weight=exp/nuscenes/run1/model/model_best.pth"],
        ),
        (
            "test",
            ["-d", "nuscenes", "-n", "run1", "-c", "b", "-w", "best.pth", "test.quick=True"],
            ["configs/nuscenes/b.py", *ALONE, *RUN, "weight=exp/nuscenes/run1/model/best.pth", "test.quick=True"],
        ),
    ],
)
def test_options_become_a_call(
    script: str, arguments: list[str], expected: list[str], spy: str, tmp_path: Path
) -> None:
    done = run_script(script, "-p", spy, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(REPO), f"tools/{script}.py", "--config", *expected]


@pytest.mark.parametrize("script", ["train", "test"])
def test_several_machines(script: str, spy: str, tmp_path: Path) -> None:
    options = ["-p", spy, "-d", "waymo", "-c", "a", "-g", "8", "-m", "2"]
    where = {"SLURM_NODEID": "1", "DIST_URL": "tcp://host:1234"}
    done = run_script(script, *options, cwd=tmp_path, **where)
    machine = ["--num-gpus", "8", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://host:1234"]
    assert done.stdout.splitlines()[4:12] == machine


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train", ["-h"]),
        ("train", ["-d", "waymo"]),
        ("train", ["-c", "student"]),
        ("train", ["-d", "waymo", "-c", "student", "-r", "yes"]),
        ("train", ["-d"]),
        ("train", ["--config", "a"]),
        ("test", ["-h"]),
        ("test", ["-n", "run1"]),
        ("test", ["-d", "waymo", "-r", "true"]),
    ],
)
def test_wrong_options_show_the_usage(script: str, arguments: list[str], spy: str, tmp_path: Path) -> None:
    done = run_script(script, "-p", spy, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert f"usage: sh scripts/{script}.sh -d DATASET" in done.stderr
    assert done.stdout == ""


def test_the_exit_code_is_that_of_the_tool(tmp_path: Path) -> None:
    done = run_script("train", "-p", sys.executable, "-d", "waymo", "-c", "nothing", cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 2
    assert "no config file configs/waymo/nothing.py" in done.stderr
