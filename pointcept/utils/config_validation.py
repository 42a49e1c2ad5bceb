"""Checking a config against the constructors that it names, before anything is built."""

from __future__ import annotations

import collections.abc
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pointcept.utils.config_schema import REQUIRED, SCHEMA
from pointcept.utils.errors import ConfigError, by_nearness
from pointcept.utils.registry import Registry, registries

# What the engine adds when it builds these; a class may add its own in ``supplied_by_engine``.
SUPPLIED = {
    "optimizer": ("params",),
    "scheduler": ("optimizer", "total_steps"),
    "train": ("cfg",),
    "test": ("cfg",),
}

# The registry that the engine builds a top-level key from. Below, a class says in ``built_from`` what it builds each
# of its arguments from; where nothing says it, every registry is asked.
BUILT_FROM = {
    "model": "models",
    "optimizer": "optimizers",
    "scheduler": "schedulers",
    "data": "datasets",
    "hooks": "hooks",
    "train": "trainers",
    "test": "testers",
}


def validate_config(cfg: Mapping[str, Any]) -> None:
    """Check every ``dict(type=...)`` of the tree against the registered class or function.

    Import everything that registers something first. A type is looked up in the registry that its place
    is built from (``BUILT_FROM`` and ``built_from``), or in all of them where nothing says it; arguments
    have to exist and to fit simple annotations (numbers, strings, bools, sequences of them), and required
    arguments have to be there, except those that the engine supplies.

    Args:
        cfg: a resolved config.

    Raises:
        ConfigError: a required key that is missing, an unknown type, an unknown, missing or
            mistyped argument; the message names the file and the place, such as ``model.backbone``.
    """
    source = getattr(cfg, "_source", "")
    prefix = f"{source}: " if source else ""
    for key, field in SCHEMA.items():
        if field.default is REQUIRED and key not in cfg:
            raise ConfigError(f"{prefix}the config gives no {key!r}: {field.meaning}")
    for path, node, built_from in _typed_dicts(cfg, "", BUILT_FROM):
        _check_entry(node, path, prefix + path, built_from)


def _typed_dicts(
    node: Any, path: str, built_from: Mapping[str, str] | str | None
) -> Iterator[tuple[str, Mapping[str, Any], Registry | None]]:
    """Every dict with a string under ``type``, with its place and the registry it is built from, outermost first.

    Args:
        node: part of a config.
        path: its place.
        built_from: the registry of all that is in it, one for each of its keys, or None.
    """
    if isinstance(node, Mapping):
        if path and isinstance(node.get("type"), str):
            registry = registries().get(built_from) if isinstance(built_from, str) else None
            yield path, node, registry
            built_from = _arguments_built_from(node["type"], registry)
        for key, value in node.items():
            below = built_from.get(key) if isinstance(built_from, Mapping) else built_from
            yield from _typed_dicts(value, f"{path}.{key}" if path else str(key), below)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _typed_dicts(value, f"{path}.{i}", built_from)


def _arguments_built_from(name: str, registry: Registry | None) -> Mapping[str, str]:
    """``built_from`` of the entry called ``name``: argument -> name of a registry."""
    homes = [registry] if registry is not None else list(registries().values())
    entries = [home.get(name) for home in homes if name in home]
    return next((entry.built_from for entry in entries if hasattr(entry, "built_from")), {})


def _check_entry(node: Mapping[str, Any], path: str, where: str, built_from: Registry | None) -> None:
    name = node["type"]
    if built_from is not None:
        return _check_against(built_from, node, path, where)
    candidates = [registry for registry in registries().values() if name in registry]
    if not candidates:
        raise ConfigError(f"{where}: unknown type {name!r} in every registry: {_nearest(name)}")
    errors = []
    for registry in candidates:
        try:
            return _check_against(registry, node, path, where)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _nearest(name: str) -> str:
    """The nearest names of all registries, each with its registry."""
    homes = {entry: registry.name for registry in registries().values() for entry in registry.names()}
    return f"nearest are {', '.join(f'{entry!r} ({homes[entry]})' for entry in by_nearness(name, homes)[:3])}"


def _check_against(registry: Registry, node: Mapping[str, Any], path: str, where: str) -> None:
    try:
        entry = registry.get(node["type"])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    supplied = (*SUPPLIED.get(path, ()), *getattr(entry, "supplied_by_engine", ()))
    registry.check(node, where=where, supplied=supplied)
    for key in SUPPLIED.get(path, ()):
        if key in node:
            raise ConfigError(f"{where}: {key!r} is no matter of the config, the engine gives it: leave it out")
    hints = _annotations(entry)
    for key, value in node.items():
        if key in hints and key != "type" and not fits(value, hints[key]):
            hint = hints[key]
            words = hint.__name__ if isinstance(hint, type) else re.sub(r"\b(\w+\.)+(?=[A-Z])", "", str(hint))
            finite = "" if _is_finite(value) else ", finite"
            raise ConfigError(f"{where}.{key}: got {value!r} ({type(value).__name__}), allowed: {words}{finite}")


def _annotations(entry: Callable[..., Any]) -> dict[str, Any]:
    """Resolved annotations of the arguments; none where they name something not importable here."""
    function = entry.__init__ if inspect.isclass(entry) else entry
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a config value may be passed where ``hint`` is annotated.

    Only what a config can express is judged; every other annotation accepts everything. Lists
    and tuples stand for each other, an int for a float, a string for a path. NaN and infinity are no numbers.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        number = isinstance(value, (int,) if hint is int else (int, float)) and not isinstance(value, bool)
        return number and _is_finite(value)
    if hint in (bool, str, Path):
        return isinstance(value, (str, Path) if hint is Path else hint)
    kind = origin or hint
    if kind in (list, tuple, collections.abc.Sequence):
        return isinstance(value, (list, tuple)) and _items_fit(value, kind, args)
    if kind in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    return True


def _is_finite(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _items_fit(value: list[Any] | tuple[Any, ...], kind: Any, args: tuple[Any, ...]) -> bool:
    if not args:
        return True
    if kind is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return len(value) == len(args) and all(map(fits, value, args))
    return all(fits(item, args[0]) for item in value)
