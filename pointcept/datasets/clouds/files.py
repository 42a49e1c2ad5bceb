"""Which files are clouds, and reading one of any format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.faults import machine_fault

from . import las, mcap_bag, numpy_files, pcd, ply, raw, text
from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions

FORMATS: tuple[CloudFormat, ...] = tuple(module.FORMAT for module in (raw, pcd, ply, numpy_files, las, text, mcap_bag))
"""All formats."""

SUFFIXES: dict[str, CloudFormat] = {suffix: entry for entry in FORMATS for suffix in entry.suffixes}
"""Suffix -> format."""


def suffix_of(path: Path) -> str | None:
    """The suffix by which a file is known as a cloud, the longest one; None if it is none."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=None)


def format_of(path: Path) -> CloudFormat:
    """The format of a file, by its name.

    Raises:
        DataError: no format has such names.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise DataError(f"{path} is no cloud by its name; what is read ends in {', '.join(SUFFIXES)}")
    return SUFFIXES[suffix]


def read_cloud(file: CloudFile | Path, options: CloudOptions | None = None) -> Cloud:
    """Read one cloud.

    Args:
        file: an entry of :func:`find_clouds`, or a path.
        options: what the user says about it.

    Raises:
        ConfigError: a package for this format is missing; the message names the extra.
        DataError: the file is missing, malformed, or holds no points; the message begins with its name.
    """
    file = file if isinstance(file, CloudFile) else CloudFile(file)
    entry = format_of(file.path)
    try:
        cloud = entry.read(file, options or CloudOptions())
        if len(cloud) == 0:
            raise DataError("holds no points")
    except DataError as error:
        message = str(error)
        raise DataError(message if message.startswith(str(file.path)) else f"{file}: {message}") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from None
    except MemoryError as error:
        raise DataError(f"{file}: {machine_fault(error)}") from None
    return cloud


def find_clouds(path: Path, options: CloudOptions | None = None, skip: Iterable[Path] = ()) -> list[CloudFile]:
    """The clouds at ``path``: those of that file, or of all files below that folder, sorted; hidden files are left out.

    Args:
        path: a file or a folder.
        options: ``topic`` chooses the clouds of bags.
        skip: files to leave out.

    Raises:
        ConfigError: a package for bags is missing.
        DataError: there is nothing at ``path``, no cloud below it, or it is a file that is none or damaged.
    """
    options = options or CloudOptions()
    if path.is_file():
        return _parts(path, options)
    if not path.is_dir():
        raise DataError(f"there is no scan file or folder {path}")
    left_out = set(skip)
    found = [
        file
        for file in sorted(path.rglob("*"))
        if suffix_of(file) is not None
        and file not in left_out
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    clouds = [cloud for file in found for cloud in _listed(file, options)]
    if not clouds:
        raise DataError(f"{path} holds no scans; what is read ends in {', '.join(SUFFIXES)}")
    return clouds


def _listed(path: Path, options: CloudOptions) -> list[CloudFile]:
    """The clouds of a file; of a damaged one the file itself, so that reading it says what is wrong."""
    try:
        return _parts(path, options)
    except DataError:
        return [CloudFile(path)]


def _parts(path: Path, options: CloudOptions) -> list[CloudFile]:
    entry = format_of(path)
    if entry.parts is None:
        return [CloudFile(path)]
    try:
        return [CloudFile(path, part) for part in entry.parts(path, options)]
    except (DataError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
