"""The registry of hooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pointcept.engines.hooks.base import HookBase
from pointcept.utils.registry import Registry

HOOKS = Registry("hooks")


def build_hooks(cfgs: Iterable[Mapping[str, Any]]) -> list[HookBase]:
    """Build the hooks of a run.

    Args:
        cfgs: ``[dict(type="CheckpointSaver", save_freq=None), ...]`` in any order.

    Raises:
        ConfigError: an unknown type or argument.
    """
    return [HOOKS.build(cfg, f"hooks.{i}") for i, cfg in enumerate(cfgs)]
