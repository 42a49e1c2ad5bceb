"""The registry of hooks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.utils.errors import ConfigError
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


def check_hooks(cfg: Any, hooks: Sequence[HookBase]) -> None:
    """Check that hooks have those that they need, and that there is one that reads weights where ``cfg`` names some.

    Raises:
        ConfigError: one is missing.
    """
    phases = {hook.phase for hook in hooks}
    if (cfg.weight or cfg.resume) and Phase.LOAD not in phases:
        raise ConfigError("weight or resume is set, but hooks has no CheckpointLoader that would read it", "hooks")
    for number, hook in enumerate(hooks):
        for phase in hook.needs:
            if phase not in phases:
                name = type(hook).__name__
                raise ConfigError(
                    f"{name} needs a hook of the phase {phase.name}: {hook.needs[phase]}", f"hooks.{number}"
                )
