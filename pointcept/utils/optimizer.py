"""Optimizers, with parameter groups chosen by a word in the parameter's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pointcept.utils.errors import ConfigError
from pointcept.utils.registry import Registry

OPTIMIZERS = Registry("optimizers")
OPTIMIZERS.register_module("SGD")(torch.optim.SGD)
OPTIMIZERS.register_module("Adam")(torch.optim.Adam)
OPTIMIZERS.register_module("AdamW")(torch.optim.AdamW)

# Fused, an optimizer steps in a few launches, and a gradient scaler need not ask the device whether to skip the step.
_FUSED = ("Adam", "AdamW")

GROUP_KEYS = ("keyword", "lr", "weight_decay", "momentum", "betas")


def parameter_groups(model: nn.Module, param_dicts: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Split the trainable parameters of ``model`` into groups.

    Args:
        model: parameters that require no gradient are left out.
        param_dicts: one dict per extra group: ``keyword`` (a parameter belongs to the first group
            whose keyword its name contains) and the options that the group sets for itself
            (``lr``, ``weight_decay``, ``momentum``, ``betas``).

    Returns:
        Group 0 with all other parameters (left out when empty), then one group per entry, each
        with a ``name`` for the log.

    Raises:
        ConfigError: a keyword that matches no parameter, an unknown key, nothing to train.
    """
    entries = list(param_dicts or [])
    for number, entry in enumerate(entries):
        if "keyword" not in entry or set(entry) - set(GROUP_KEYS):
            raise ConfigError(f"param_dicts[{number}]={dict(entry)}: needs 'keyword', may have {GROUP_KEYS[1:]}")
    rest: list[nn.Parameter] = []
    chosen: list[list[nn.Parameter]] = [[] for _ in entries]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            home = next((i for i, entry in enumerate(entries) if entry["keyword"] in name), None)
            (rest if home is None else chosen[home]).append(parameter)
    for entry, parameters in zip(entries, chosen, strict=True):
        if not parameters:
            names = [name for name, p in model.named_parameters() if p.requires_grad]
            raise ConfigError(
                f"param_dicts: keyword {entry['keyword']!r} matches no trainable parameter that an earlier keyword "
                f"has left over; parameters are named like {', '.join(names[:3])}"
            )
    groups: list[dict[str, Any]] = [{"params": rest, "name": "base"}] if rest else []
    for entry, parameters in zip(entries, chosen, strict=True):
        options = {key: value for key, value in entry.items() if key != "keyword"}
        groups.append({"params": parameters, "name": str(entry["keyword"]), **options})
    if not groups:
        raise ConfigError("the model has no trainable parameter")
    return groups


def build_optimizer(
    cfg: Mapping[str, Any], model: nn.Module, param_dicts: Sequence[Mapping[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """Build the optimizer of a run.

    Args:
        cfg: ``dict(type="AdamW", lr=0.002, weight_decay=0.005)``: torch's own arguments; of Adam and AdamW the fused
            implementation is taken on a GPU unless another is asked for.
        model: the network to train.
        param_dicts: see :func:`parameter_groups`.

    Raises:
        ConfigError: an unknown type or argument, or a bad ``param_dicts``.
    """
    groups = parameter_groups(model, param_dicts)
    chosen = {} if {"fused", "foreach", "capturable", "differentiable"} & set(cfg) else {"fused": True}
    on_gpu = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    return OPTIMIZERS.build({**cfg, **chosen} if on_gpu and cfg.get("type") in _FUSED else cfg, params=groups)
