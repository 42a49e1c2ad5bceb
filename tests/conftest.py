"""Fixtures shared by all tests: where the real data and the expected outputs lie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]

# A job in the background of a script ignores these, and what it ignores a run ignores, too: signals would do nothing.
for ignored, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, usual)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real scans and golden files: ``POINTCEPT_SHARED`` or ``../shared``."""
    path = Path(os.environ.get("POINTCEPT_SHARED", REPO.parent / "shared"))
    if not (path / "golden").is_dir():
        pytest.skip(f"no real data or golden files at {path} (set POINTCEPT_SHARED to their folder)")
    return path


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Expected outputs of the reference implementations."""
    return shared_dir / "golden"


@pytest.fixture(scope="session")
def kitti_root(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SemanticKITTI data root with the real scans of sequences 00 (train) and 08 (val)."""
    root = tmp_path_factory.mktemp("semantic_kitti")
    script = shared_dir / "data" / "unpack_semantic_kitti_mini.py"
    subprocess.run([sys.executable, str(script), str(root), "--sequences", "00", "08"], check=True, capture_output=True)
    return root


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that there is: a test that asks for it runs once on each."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
