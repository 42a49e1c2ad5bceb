"""Data sets without their scans: what a config says of them can be checked before any data is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pointcept.utils.errors import ConfigError

from .builder import DATASETS, build_dataset

_LEFT_OUT = ContextVar("_LEFT_OUT", default=False)


def scans_left_out() -> bool:
    """Whether a data set that is built now has to leave its scans alone and have none."""
    return _LEFT_OUT.get()


@contextmanager
def _without_scans() -> Iterator[None]:
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def check_dataset(cfg: Mapping[str, Any], where: str) -> Any | None:
    """Build the data set that ``cfg`` describes without its scans, so that wrong arguments are found.

    Args:
        cfg: a section of a config.
        where: its place, ``data.train``.

    Returns:
        The data set, without scans: its classes and arguments are as they will be. None for a class that says
        nothing without its scans, since it is no ``BaseDataset``, or since its constructor needs them.

    Raises:
        ConfigError: an argument is wrong.
    """
    DATASETS.check(cfg, where)
    if not _leaves_scans_out(cfg):
        return None
    try:
        with _without_scans():
            return build_dataset(cfg, where)
    except ConfigError as error:
        if error.__cause__ is None:
            raise
        return None  # what a constructor makes of no scans says nothing; with them it will be asked again
    except LookupError:
        return None


def _leaves_scans_out(cfg: Mapping[str, Any]) -> bool:
    """Whether the constructors of a data set, and of those that it joins, ask :func:`scans_left_out`."""
    parts = cfg.get("datasets", ())
    joined = all(isinstance(part, Mapping) and _leaves_scans_out(part) for part in parts)
    kind = cfg.get("type")
    return joined and isinstance(kind, str) and kind in DATASETS and hasattr(DATASETS.get(kind), "asks_for_scans")
