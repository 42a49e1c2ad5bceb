"""Where config files are: named by a path, or by the name of one that is installed with the package."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pointcept.utils.errors import ConfigError, by_nearness

PACKAGE = Path(__file__).resolve().parents[1]
SUFFIX = ".py"


@cache
def installed_configs() -> Path:
    """The folder of the configs that come with the package: in it, or beside it in a clone.

    Raises:
        ConfigError: there is neither.
    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    raise ConfigError(f"this copy of pointcept has no configs: neither {PACKAGE}/configs nor {PACKAGE.parent}/configs")


def config_names() -> list[str]:
    """The names of the installed configs, ``semantic_kitti/student``, in alphabetical order; bases are left out."""
    folder = installed_configs()
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(f"*/*{SUFFIX}")]
    return sorted(name for name in names if not name.startswith("_base_/"))


def installed_config(name: str | Path) -> Path | None:
    """The installed file of a name such as ``semantic_kitti/student``, ``configs/semantic_kitti/student.py`` or
    ``_base_/runtime.py``; None where there is none.
    """
    text = Path(name).as_posix()
    parts = text.removesuffix(SUFFIX).removeprefix("./").removeprefix("configs/").split("/")
    if Path(name).is_absolute() or ".." in parts or not all(parts):
        return None
    path = installed_configs().joinpath(*parts[:-1], parts[-1] + SUFFIX)
    return path if os.path.isfile(path) else None


def find_config(name: str | Path) -> Path:
    """The file that ``--config`` means: one at that path, with or without ``.py``, or else an installed one.

    Returns:
        A path; that of a file which does not exist if there is none, for the message of whoever reads it.
    """
    path = Path(name)
    if os.path.lexists(path):
        return path
    with_suffix = path.with_name(path.name + SUFFIX) if path.name and path.suffix != SUFFIX else path
    if os.path.lexists(with_suffix):
        return with_suffix
    return installed_config(path) or path


def near_names(path: str | Path, most: int = 3) -> str:
    """The installed names nearest to one that was not found, for a message."""
    wanted = Path(path).as_posix().removesuffix(SUFFIX)
    return ", ".join(by_nearness(wanted, config_names())[:most])
