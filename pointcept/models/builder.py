"""The registry of networks, and how a config becomes one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pointcept.utils.registry import Registry

logger = logging.getLogger(__name__)

MODELS = Registry("models")


def build_model(cfg: Mapping[str, Any]) -> nn.Module:
    """Build the network that is trained.

    Args:
        cfg: the ``model`` section of a config.

    Raises:
        ConfigError: an unknown type or argument, or arguments that contradict each other.
    """
    return MODELS.build(cfg, "model")


def build_inference_model(cfg: Mapping[str, Any]) -> nn.Module:
    """Build the network that is deployed: of a distillation the student, without its teacher.

    A model class says so by a static method ``inference_config(cfg) -> cfg``.
    """
    entry = MODELS.get(cfg["type"]) if "type" in cfg else None
    narrow = getattr(entry, "inference_config", None)
    if narrow is None:
        return MODELS.build(cfg, "model")
    part = narrow(cfg)
    return MODELS.build(part, next((f"model.{key}" for key, value in cfg.items() if value is part), "model"))


def deployable(model: nn.Module) -> nn.Module:
    """The part of a trained model whose weights a checkpoint publishes: of a distiller the student."""
    return getattr(model, "deployable", model)


def use_graphs(model: nn.Module, where: torch.device) -> bool:
    """Train a model as CUDA graphs from now on, if it allows that; the log says why not.

    Args:
        model: with a method ``use_graphs(where)`` that returns None or the reason why it cannot be done.
        where: the device of its weights.
    """
    enable = getattr(model, "use_graphs", None)
    reason = enable(where) if enable is not None else f"{type(model).__name__} has no use_graphs"
    logger.info("CUDA graphs: %s", "on" if reason is None else f"off: {reason}")
    return reason is None
