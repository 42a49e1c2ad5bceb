"""Modules of users that register what is theirs, data sets, losses, networks and so on: the config key ``imports``.

They are imported before a config is checked, and again in every process of a run; loading processes find their classes
by the same search path.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from pointcept.utils.errors import ConfigError

KEY = "imports"


def import_modules(names: Any, source: str = "") -> None:
    """Import modules by name; those that are imported already stay as they are.

    Args:
        names: dotted names, ``["my_project.data"]``. They are looked for where Python looks (installed packages,
            ``PYTHONPATH``), and last in the working folder.
        source: the config, for messages.

    Raises:
        ConfigError: no list of names, a module that is not there, or an error while it is imported.
    """
    where = f"{source}: {KEY}" if source else KEY
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(map(_is_name, names)):
        raise ConfigError(f'{where}: got {names!r}, allowed: a list of module names, such as ["my_project.data"]')
    if names and not {os.getcwd(), ""}.intersection(sys.path):
        sys.path.append(os.getcwd())  # processes that are started later get this path, too
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise _failed(where, name, error) from error
            raise ConfigError(
                f"{where}: there is no module {error.name!r}: start in the folder that holds it, name that folder in "
                "PYTHONPATH, or install it"
            ) from error
        except Exception as error:
            raise _failed(where, name, error) from error


def where_from(names: Sequence[str]) -> str:
    """Imported modules and the files that they are, for the log."""
    return ", ".join(f"{name} ({getattr(sys.modules[name], '__file__', None) or 'no file'})" for name in names)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))


def _failed(where: str, name: str, error: Exception) -> ConfigError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if len(frames) > 1 else ""
    return ConfigError(f"{where}: {name} cannot be imported: {place}{type(error).__name__}: {error}")
