"""Which scenes belong to which split.

The official lists are part of nuscenes-devkit and of nothing else, so they are read from an installed devkit. Its
file is parsed and not imported: importing the devkit needs OpenCV, matplotlib and NumPy 1, none of which is used
here, so that ``pip install --no-deps nuscenes-devkit==1.2.0`` beside NumPy 2 is enough. ``splits.json`` beside the
tables, the devkit's own file for other splits ({"train": ["scene-0001", ...], ...}), comes first if it exists. The
tables of ``v1.0-test`` hold the scenes of the test split and no others and need no list.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

from pointcept.utils.errors import DataError

VERSION_SPLITS = {
    "v1.0-trainval": ("train", "val"),
    "v1.0-test": ("test",),
    "v1.0-mini": ("mini_train", "mini_val"),
}
INSTALL = "pip install 'pointcept[nuscenes]', or beside NumPy 2: pip install --no-deps nuscenes-devkit==1.2.0"


def scenes_by_split(dataset_root: Path, version: str, scenes: set[str]) -> dict[str, set[str]]:
    """Return split -> names of its scenes for one version of the tables.

    Args:
        dataset_root: folder of the version folders.
        version: a key of ``VERSION_SPLITS``.
        scenes: the names of all scenes in the tables.

    Raises:
        DataError: if ``splits.json`` is no such file.
        ImportError: if there is neither ``splits.json`` nor an installed devkit.
    """
    splits = VERSION_SPLITS[version]
    path = dataset_root / version / "splits.json"
    if path.is_file():
        lists = _read_custom(path, splits)
    elif version == "v1.0-test":
        lists = {"test": scenes}
    else:
        lists = _read_devkit(version)
    return {split: lists[split] & scenes for split in splits}


def _read_custom(path: Path, splits: tuple[str, ...]) -> dict[str, set[str]]:
    """Read the devkit's file for custom splits."""
    try:
        lists = json.loads(path.read_text())
        return {split: set(lists[split]) for split in splits}
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} must map each of {', '.join(splits)} to a list of scene names: {error!r}") from error


def _read_devkit(version: str) -> dict[str, set[str]]:
    """Read the official lists from the source of the installed devkit."""
    spec = importlib.util.find_spec("nuscenes")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        source = Path(folder) / "utils" / "splits.py"
        if source.is_file():
            lists = _list_literals(source)
            try:
                lists["train"] = lists["train_detect"] | lists["train_track"]
                return {split: lists[split] for split in VERSION_SPLITS[version]}
            except KeyError as error:
                raise DataError(f"{source} has no list {error}; this was written for nuscenes-devkit 1.2.0") from error
    raise ImportError(
        f"the official scene lists of {version} come with nuscenes-devkit, which is not installed. {INSTALL}"
    )


def _list_literals(source: Path) -> dict[str, set[str]]:
    """Return the module-level ``name = [literals]`` assignments of a Python file."""
    lists: dict[str, set[str]] = {}
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List):
            lists[node.targets[0].id] = set(ast.literal_eval(node.value))
    return lists
