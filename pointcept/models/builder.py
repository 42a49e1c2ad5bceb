"""The registry of networks, and how a config becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from pointcept.utils.registry import Registry

MODELS = Registry("models")


def build_model(cfg: Mapping[str, Any]) -> nn.Module:
    """Build the network that is trained.

    Args:
        cfg: the ``model`` section of a config.

    Raises:
        ConfigError: an unknown type or argument, or arguments that contradict each other.
    """
    return MODELS.build(cfg)


def build_inference_model(cfg: Mapping[str, Any]) -> nn.Module:
    """Build the network that is deployed: of a distillation the student, without its teacher.

    A model class says so by a static method ``inference_config(cfg) -> cfg``.
    """
    entry = MODELS.get(cfg["type"]) if "type" in cfg else None
    narrow = getattr(entry, "inference_config", None)
    return MODELS.build(narrow(cfg) if narrow else cfg)


def deployable(model: nn.Module) -> nn.Module:
    """The part of a trained model whose weights a checkpoint publishes: of a distiller the student."""
    return getattr(model, "deployable", model)
