"""What ``pip install .`` installs: every module, every config, the program, the shipped files."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.paths import CONFIGS, REPO

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


FOLDERS = ("pointcept", "configs", "libs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked wheel, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(REPO / name, source)
    for name in FOLDERS:
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file below a folder that Python has not made."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_everything_is_in_the_wheel(wheel: Path) -> None:
    installed = contents(wheel / "pointcept")
    configs = {f"configs/{name}": text for name, text in contents(CONFIGS).items()}
    assert len(configs) > 50
    assert installed == {**contents(REPO / "pointcept"), **configs}
    libraries = {path.name for path in (REPO / "libs").iterdir()}
    assert {"pointops"} <= libraries
    for name in libraries:
        assert contents(wheel / name) == contents(REPO / "libs" / name / name)
    facts = next(wheel.glob("*.dist-info")).name
    assert {path.name for path in wheel.iterdir()} == {"pointcept", facts, *libraries}


def test_the_program_is_an_entry_point(wheel: Path) -> None:
    (file,) = wheel.glob("*.dist-info/entry_points.txt")
    assert file.read_text().split("\n")[:2] == ["[console_scripts]", "pointcept = pointcept.cli.door:main"]


def test_an_installed_package_finds_its_configs(wheel: Path, tmp_path: Path) -> None:
    code = (
        "from pointcept.utils.config_files import *\n"
        "print(installed_configs()); print(find_config('semantic_kitti/student')); print(len(config_names()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(wheel)},
    )  # fmt: skip
    folder, student, number = done.stdout.split()
    assert folder == str(wheel / "pointcept" / "configs")
    assert student == f"{folder}/semantic_kitti/student.py"
    assert int(number) == len([path for path in CONFIGS.glob("*/*.py") if path.parent.name != "_base_"])


def test_an_image_gets_what_the_wheel_is_built_from() -> None:
    lines = (REPO / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == {*SOURCES, *FOLDERS}
