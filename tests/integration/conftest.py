"""The command line tools, as subprocesses and in this process, and folders to run them on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pointcept.utils.logging import close_logging
from tests.integration.scans import write_scan
from tests.paths import REPO


@dataclass(frozen=True)
class Outcome:
    """What a tool has left: exit code and what it wrote."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "POINTCEPT_DEVICE": "cpu", "PYTHONPATH": str(REPO)}


@pytest.fixture(scope="session")
def start_tool() -> Callable[..., subprocess.Popen[str]]:
    """Start ``tools/<name>.py`` in a process group of its own, as a terminal does."""

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(REPO / "tools" / f"{name}.py"), *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )

    return start


@pytest.fixture(scope="session")
def run_tool(start_tool: Callable[..., subprocess.Popen[str]]) -> Callable[..., Outcome]:
    """Run ``tools/<name>.py`` to its end as a subprocess."""

    def run(name: str, *arguments: str) -> Outcome:
        process = start_tool(name, *arguments)
        try:
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
        return Outcome(process.returncode, out, err)

    return run


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Call the ``main`` of ``tools/<name>.py`` in this process, which is faster."""
    monkeypatch.setenv("POINTCEPT_DEVICE", "cpu")

    def call(name: str, *arguments: str) -> Outcome:
        path = REPO / "tools" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        capfd.readouterr()
        try:
            code = module.main()
        finally:
            close_logging()
        return Outcome(code, *capfd.readouterr())

    yield call
    close_logging()


@pytest.fixture(scope="session")
def mini_root(kitti_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the points within 10 m of three real scans of sequence 00 and one of 08."""
    root = tmp_path_factory.mktemp("mini")
    for sequence, frames in (("00", 3), ("08", 1)):
        source = kitti_root / "dataset" / "sequences" / sequence
        for path in sorted((source / "velodyne").iterdir())[:frames]:
            points = np.fromfile(path, np.float32).reshape(-1, 4)
            labels = np.fromfile(source / "labels" / f"{path.stem}.label", np.uint32)
            near = np.abs(points[:, :2]).max(1) < 10
            write_scan(root, sequence, int(path.stem), points[near], labels[near])
    return root
