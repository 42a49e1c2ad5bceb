"""Registries: the tables that turn ``dict(type="PT-v3m1", ...)`` of a config into an object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pointcept.utils.errors import CheckpointError, ConfigError, DataError, did_you_mean, inside

T = TypeVar("T", bound=Callable[..., Any])

_ALL: dict[str, Registry] = {}


class Registry:
    """A named table of classes (or factory functions) that configs refer to by ``type``.

    Args:
        name: what the table holds, in the plural ("models"); it appears in every message.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._entries: dict[str, Callable[..., Any]] = {}
        _ALL[name] = self

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __repr__(self) -> str:
        return f"Registry({self.name!r}, {sorted(self._entries)})"

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._entries)

    def register_module(self, name: str | None = None) -> Callable[[T], T]:
        """Return a decorator that registers a class under ``name`` (its own name by default).

        Raises:
            ValueError: the name is taken by another class.
        """

        def decorate(entry: T) -> T:
            key = name or entry.__name__
            if self._entries.get(key, entry) is not entry:
                raise ValueError(f"{key!r} is registered twice in the registry of {self.name}")
            self._entries[key] = entry
            return entry

        return decorate

    def get(self, name: str) -> Callable[..., Any]:
        """Look a name up.

        Raises:
            ConfigError: nothing of this name is registered; the message names the nearest one.
        """
        if not isinstance(name, str) or name not in self._entries:
            hint = did_you_mean(name, self.names())
            raise ConfigError(f"unknown type {name!r} in the registry of {self.name}: {hint}")
        return self._entries[name]

    def check(self, cfg: Mapping[str, Any], where: str, supplied: tuple[str, ...] = ()) -> None:
        """Check that ``cfg`` names a registered type and only arguments that it takes.

        Args:
            cfg: ``{"type": ..., **arguments}``.
            where: where ``cfg`` stands, for messages: ``model.backbone`` or a file name.
            supplied: arguments that the caller adds itself when it builds.

        Raises:
            ConfigError: no ``type``, an unknown type, an unknown argument or a missing one.
        """
        if not isinstance(cfg, Mapping) or "type" not in cfg:
            raise ConfigError(f"expected a dict with the key 'type' (registry of {self.name}), got {cfg!r}", where)
        try:
            entry = self.get(cfg["type"])
        except ConfigError as error:
            raise ConfigError(str(error), where) from None
        parameters = inspect.signature(entry).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for key in cfg:
            if key != "type" and key not in parameters:
                valid = [p for p in parameters if p not in supplied]
                raise ConfigError(f"{cfg['type']} takes no {key!r}: {did_you_mean(key, valid)}", where)
        missing = [
            key
            for key, p in parameters.items()
            if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and key not in cfg and key not in supplied
        ]
        if missing:
            raise ConfigError(f"{cfg['type']} needs {', '.join(missing)}, which the config does not give", where)

    def build(self, cfg: Mapping[str, Any], where: str = "", /, **supplied: Any) -> Any:
        """Build the object that ``cfg`` describes.

        Args:
            cfg: ``{"type": ..., **arguments}``; it is not changed.
            where: where ``cfg`` stands in what the caller builds from, ``backbone`` or ``model``, for messages.
            **supplied: arguments that the caller adds, ``cfg=`` among them; those of the config win where
                both give one.

        Raises:
            ConfigError: see :meth:`check`; or the constructor refuses a value, also by a ``ValueError`` or a
                ``TypeError`` of its own, which is then the cause.
        """
        self.check(cfg, where=where or f"registry of {self.name}", supplied=tuple(supplied))
        arguments = {**supplied, **{k: v for k, v in cfg.items() if k != "type"}}
        try:
            with inside(where):
                return self.get(cfg["type"])(**arguments)
        except (ConfigError, DataError, CheckpointError):
            raise
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            message = f"{cfg['type']} cannot be built: {type(error).__name__}: {error}"
            raise ConfigError(message, where or f"registry of {self.name}") from error


def default_of(entry: Callable[..., Any], argument: str) -> Any:
    """The default of a constructor's argument; None where it has no default or no such argument."""
    parameter = inspect.signature(entry).parameters.get(argument)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def registries() -> dict[str, Registry]:
    """Every registry that has been created, by name."""
    return dict(_ALL)
