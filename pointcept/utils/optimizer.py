"""Optimizers, with parameter groups chosen by a word in the parameter's name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pointcept.utils.checks import check_number, check_numbers, refused
from pointcept.utils.errors import ConfigError, did_you_mean, inside
from pointcept.utils.registry import Registry

OPTIMIZERS = Registry("optimizers")
OPTIMIZERS.register_module("SGD")(torch.optim.SGD)
OPTIMIZERS.register_module("Adam")(torch.optim.Adam)
OPTIMIZERS.register_module("AdamW")(torch.optim.AdamW)

# Fused, an optimizer steps in a few launches, and a gradient scaler need not ask the device whether to skip the step.
_FUSED = ("Adam", "AdamW")

BASE = "base"
"""Name of the group of all parameters that no keyword chooses."""

GROUP_KEYS = ("keyword", "lr", "weight_decay", "momentum", "betas")


def check_values(options: Mapping[str, Any]) -> None:
    """Check the numbers among the arguments of an optimizer, more strictly than torch does.

    Raises:
        ConfigError: one of them is out of its range.
    """
    for name in ("lr", "weight_decay"):
        if name in options:
            check_number(name, options[name], 0)
    for name in ("momentum", "dampening"):
        if name in options:
            check_number(name, options[name], 0, 1, open_high=True)
    if "betas" in options:
        check_numbers("betas", options["betas"], 2, 0, 1, open_high=True)
    if "eps" in options:
        check_number("eps", options["eps"], 0, open_low=True)


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
        _check_group(entry, f"param_dicts.{number}")
    rest: list[nn.Parameter] = []
    chosen: list[list[nn.Parameter]] = [[] for _ in entries]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            home = next((i for i, entry in enumerate(entries) if entry["keyword"] in name), None)
            (rest if home is None else chosen[home]).append(parameter)
    for number, (entry, parameters) in enumerate(zip(entries, chosen, strict=True)):
        if not parameters:
            names = [name for name, p in model.named_parameters() if p.requires_grad]
            raise ConfigError(
                f"keyword {entry['keyword']!r} matches no trainable parameter that an earlier keyword "
                f"has left over; parameters are named like {', '.join(names[:3])}",
                f"param_dicts.{number}",
            )
    groups: list[dict[str, Any]] = [{"params": rest, "name": BASE}] if rest else []
    for entry, parameters in zip(entries, chosen, strict=True):
        options = {key: value for key, value in entry.items() if key != "keyword"}
        groups.append({"params": parameters, "name": str(entry["keyword"]), **options})
    if not groups:
        raise ConfigError("the model has no trainable parameter")
    return groups


def _check_group(entry: Any, place: str) -> None:
    """Check one entry of ``param_dicts``.

    Raises:
        ConfigError: no dict with a keyword, another key, or a value out of its range.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("keyword"), str) or not entry["keyword"]:
        raise refused(place, entry, "dict(keyword=..., lr=...), the keyword a part of parameters' names")
    for key in entry:
        if key not in GROUP_KEYS:
            raise ConfigError(f"takes no {key!r}: {did_you_mean(key, GROUP_KEYS)}", place)
    with inside(place):
        check_values(entry)


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
        ConfigError: an unknown type or argument, a value out of its range, or a bad ``param_dicts``.
    """
    groups = parameter_groups(model, param_dicts)
    chosen = {} if {"fused", "foreach", "capturable", "differentiable"} & set(cfg) else {"fused": True}
    on_gpu = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])
    return _build({**cfg, **chosen} if on_gpu and cfg.get("type") in _FUSED else cfg, groups)


def try_optimizer(
    cfg: Mapping[str, Any], model: nn.Module, param_dicts: Sequence[Mapping[str, Any]] | None = None
) -> torch.optim.Optimizer:
    """An optimizer with the groups that :func:`build_optimizer` makes, of one number each, to try a schedule on.

    Raises:
        ConfigError: see :func:`build_optimizer`.
    """
    groups = [{**group, "params": [nn.Parameter(torch.zeros(1))]} for group in parameter_groups(model, param_dicts)]
    return _build(cfg, groups)


def _build(cfg: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
    OPTIMIZERS.check(cfg, "optimizer", ("params",))
    with inside("optimizer"):
        check_values(cfg)
    known = inspect.signature(OPTIMIZERS.get(cfg["type"])).parameters
    for number, group in enumerate(group for group in groups if group["name"] != BASE):
        unknown = [key for key in group if key in GROUP_KEYS and key not in known]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ConfigError(f"{cfg['type']} has no {unknown[0]!r}", f"param_dicts.{number}")
    return OPTIMIZERS.build(cfg, "optimizer", params=groups)  # type: ignore[no-any-return]
