"""Every command of the documentation runs, page by page, in a small world: ``make docs``.

Names in capitals (``DATA``) and folders of users (``/data/...``) are replaced by what the world has; ``world.SHORTER``
says which numbers are made smaller. Programs that are not ours run where they only move files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.documentation import world
from tests.documentation.commands import Command, of_page, pages
from tests.paths import REPO

pytestmark = pytest.mark.docs

LEFT_OUT = {
    "[": "part of a job script",
    "docker": "needs a daemon",
    "git": "needs a remote",
    "make": "sets up an environment; CI runs it",
    "pip": "needs the network",
    "scontrol": "needs SLURM",
    "source": "needs the environment that pip would make",
}
"""Programs whose commands are not run here, and why."""
STANDS_FOR = {
    "/data/semantic_kitti": "data/semantic_kitti",
    "/data/nuscenes": "data/nuscenes",
    "NUSCENES": "raw/nuscenes",
    "WAYMO": "raw/waymo",
    "DATA": "data/semantic_kitti",
    "SCAN": "data/semantic_kitti/dataset/sequences/08/velodyne/000000.bin",
    "CONFIG": "configs/semantic_kitti/student.py",
    "TEACHER": "exp/semantic_kitti/teacher/model/model_best.pth",
    "RUN": "student",
    "SEED": "0",
}
NAME = re.compile("|".join(rf"(?<![\w/]){re.escape(name)}(?![\w])" for name in STANDS_FOR))
WEIGHTS = re.compile(r"[\w./]+\.pth")


@dataclass
class Place:
    """A world in which commands run.

    Attributes:
        root: its folder.
        environment: of the commands.
    """

    root: Path
    environment: dict[str, str]

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a command line in bash."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a teacher and of a student."""
    place = make(tmp_path_factory.mktemp("trained"))
    weights = tmp_path_factory.mktemp("weights")
    for name in ("teacher", "student"):
        done = place.run(f"python tools/train.py --config configs/semantic_kitti/{name}.py")
        assert done.returncode == 0, done.stderr
        shutil.copy(place.root / f"exp/semantic_kitti/{name}/model/model_best.pth", weights / f"{name}.pth")
    return weights


def make(root: Path) -> Place:
    return Place(root, world.build(root))


def prepared(text: str) -> str:
    """A command with the names of the world in it, made shorter."""
    for pattern, shorter in world.SHORTER:
        text = pattern.sub(shorter, text)
    return NAME.sub(lambda match: STANDS_FOR[match[0]], text)


def supply(place: Place, text: str, trained: Path) -> None:
    """Put weights where a command reads some that no command before it has written."""
    for name in WEIGHTS.findall(text):
        path = place.root / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(trained / ("teacher.pth" if "teacher" in name else "student.pth"), path)


@pytest.mark.parametrize("page", [page for page in pages() if list(of_page(page))], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page: Path, trained: Path, tmp_path: Path) -> None:
    place = make(tmp_path)
    failed = []
    for command in of_page(page):
        if command.words[0] in LEFT_OUT or command.words[0].startswith("--"):
            continue
        text = prepared(command.text)
        supply(place, text, trained)
        done = place.run(text)
        if done.returncode != 0:
            failed.append(report(command, text, done))
    assert not failed, "\n\n".join(failed)


def report(command: Command, text: str, done: subprocess.CompletedProcess[str]) -> str:
    return f"{command}\nran as: {text}\nexit code {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"


def test_the_world_is_the_repository(tmp_path: Path) -> None:
    make(tmp_path)
    own = {path.relative_to(REPO / "configs") for path in (REPO / "configs").rglob("*.py")}
    assert {path.relative_to(tmp_path / "configs") for path in (tmp_path / "configs").rglob("*.py")} == own
