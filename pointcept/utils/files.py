"""Files that are either the old ones or the new ones, never half of each, and folders that can hold them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.faults import machine_fault

MOST_JSON = 2**28  # bytes
LONGEST_NAME = 200  # bytes of a file's name that its temporary one repeats; file systems end at 255


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write ``text`` (UTF-8) so that a reader, or a crash, sees the old file or the whole new one.

    Args:
        path: the file; its folder is created.
        text: the contents; what is no character, as in a path that is not UTF-8, is escaped.

    Returns:
        ``path``.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    return write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomic(path: str | Path, data: bytes) -> Path:
    """Write ``data`` as :func:`write_text_atomic` writes text."""
    path = Path(path)
    # Beside the target: a rename is atomic only within one file system.
    beginning = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
    temporary = path.with_name(f".{beginning}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "its folder is a file", str(path)) from error
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file so that a reader, or a crash, sees what ``path`` held before or the whole copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_regular(path: str | Path, most: int) -> bytes:
    """Read a file that is one: a pipe or a device might never end, or never begin.

    Args:
        path: the file.
        most: bytes.

    Raises:
        OSError: it cannot be read, is a folder, a pipe, a device or a socket, or is longer; the error names ``path``.
    """
    facts = os.stat(path)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is a pipe, a device or a socket, expected a file", str(path))
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EINVAL, f"has {facts.st_size} bytes, expected at most {most}", str(path))
    return data


def read_json(path: str | Path, keys: Sequence[str] = (), **how: Any) -> Any:
    """What a JSON file holds.

    Args:
        path: the file.
        keys: of the object that it has to be, none for anything.
        **how: of ``json.loads``.

    Raises:
        DataError: it is no JSON file, or lacks a key.
        OSError: see :func:`read_regular`.
    """
    try:
        content = json.loads(read_regular(path, MOST_JSON), **how)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON file: {error}") from error
    if keys and not (isinstance(content, dict) and all(key in content for key in keys)):
        raise DataError(f"{path} is damaged or something else: it needs the keys {', '.join(keys)}")
    return content


def writable_folder(path: str | Path, name: str) -> Path:
    """Make a folder where there is none, and try whether a file can be written in it.

    Args:
        path: the folder.
        name: what the user calls it, for the message.

    Returns:
        The folder.

    Raises:
        ConfigError: it is a file, or nothing can be written there.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A read-only file system says so here, a full one only when data arrive.
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(4096))
            probe.flush()
    except (FileExistsError, NotADirectoryError):
        what = "a symbolic link that leads nowhere" if folder.is_symlink() and not folder.exists() else "a file"
        raise ConfigError(f"{name}: {path} is {what}, expected a folder") from None
    except (OSError, ValueError) as error:  # ValueError: characters that no path has
        reason = machine_fault(OSError(error.errno, error.strerror)) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{name}: cannot write in {path}: {reason or error}") from error
    return folder


def writable_file(path: str | Path, name: str) -> Path:
    """Try whether a file can be written under this name, see :func:`writable_folder`.

    Raises:
        ConfigError: it is a folder, or nothing can be written where it would be.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{name}: {path} is a folder, expected a file")
    writable_folder(file.parent, name)
    return file
