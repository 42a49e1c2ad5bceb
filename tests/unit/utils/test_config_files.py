"""Configs found by name, in a clone and where the package is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointcept.utils import config_files
from pointcept.utils.config import Config
from pointcept.utils.config_files import config_names, find_config, installed_config, installed_configs
from pointcept.utils.errors import ConfigError
from tests.paths import CONFIGS

STUDENT = CONFIGS / "semantic_kitti" / "student.py"


def test_the_names_are_those_of_the_files() -> None:
    assert installed_configs() == CONFIGS
    files = {f"{path.parent.name}/{path.stem}" for path in CONFIGS.glob("*/*.py")}
    assert set(config_names()) == {name for name in files if not name.startswith("_base_")}


@pytest.mark.parametrize(
    "name", ["semantic_kitti/student", "semantic_kitti/student.py", "configs/semantic_kitti/student.py", str(STUDENT)]
)
def test_a_config_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == STUDENT
    assert Config.fromfile(name) == Config.fromfile(STUDENT)


@pytest.mark.parametrize(
    "name",
    ["", "student", "semantic_kitti", "semantic_kitti/student.pi", "../configs/semantic_kitti/student", "/a/b.py"],
)
def test_what_is_no_name_stays_a_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert installed_config(name) is None
    assert find_config(name) == Path(name)


def test_a_file_of_the_user_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "semantic_kitti" / "student.py"
    own.parent.mkdir()
    own.write_text("_base_ = ['semantic_kitti/small_student']\nsave_path = 'exp/own'\n")
    for name in ("semantic_kitti/student", "semantic_kitti/student.py"):
        assert Config.fromfile(name).save_path == "exp/own"
    assert Config.fromfile("semantic_kitti/student").model == Config.fromfile("semantic_kitti/small_student").model


def test_a_base_beside_the_file_goes_before_an_installed_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("_base_ = ['_base_/runtime.py']\nmodel = dict()\ndata = dict()\n")
    assert Config.fromfile(path).num_worker == 16
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "runtime.py").write_text("num_worker = 3\n")
    assert Config.fromfile(path).num_worker == 3


def test_a_base_above_the_file_is_never_replaced_by_an_installed_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("_base_ = ['../_base_/runtime.py']\nmodel = dict()\ndata = dict()\n")
    with pytest.raises(ConfigError, match=r"no config file .*\.\./_base_/runtime\.py, which is a _base_ of"):
        Config.fromfile(path)


def test_an_unknown_name_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("semantic_kitti/studnt", "semantic_kitti/studnt.py"):
        with pytest.raises(ConfigError, match="semantic_kitti/student") as caught:
            Config.fromfile(name)
        assert "\n" not in str(caught.value)


def test_where_configs_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "pointcept"
    (package / "configs" / "_base_").mkdir(parents=True)
    monkeypatch.setattr(config_files, "PACKAGE", package)
    try:
        installed_configs.cache_clear()
        assert installed_configs() == package / "configs"
        (package / "configs" / "_base_").rmdir()
        installed_configs.cache_clear()
        with pytest.raises(ConfigError, match="has no configs"):
            installed_configs()
    finally:
        installed_configs.cache_clear()
