"""The registry of networks, and how a config becomes one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pointcept.utils.errors import ConfigError
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


def check_has_decoder(name: str, cls_mode: bool | None, enc_mode: bool | None) -> None:
    """Check that a config of Pointcept asks for a whole network.

    Args:
        name: the network, for messages.
        cls_mode: True asks for the encoder alone, for classification.
        enc_mode: another name of it, since Pointcept 1.6.1.

    Raises:
        ConfigError: the encoder alone is asked for, or the two contradict each other.
    """
    if cls_mode is not None and enc_mode is not None and cls_mode != enc_mode:
        raise ConfigError(f"{name}: cls_mode={cls_mode} and enc_mode={enc_mode} are two names of one option: keep one")
    if cls_mode or enc_mode:
        option = "cls_mode" if cls_mode else "enc_mode"
        raise ConfigError(f"{name}: {option}=True asks for an encoder without decoder, which does not exist here")


def deployable(model: nn.Module) -> nn.Module:
    """The part of a trained model whose weights a checkpoint publishes: of a distiller the student."""
    return getattr(model, "deployable", model)


def fingerprint(model: nn.Module) -> str | None:
    """Digest of the weights that a model learns from and that are no part of its ``state_dict()``; None without such.

    A model class gives it by a method ``fingerprint()``.
    """
    digest = getattr(model, "fingerprint", None)
    return None if digest is None else digest()


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


def set_progress(model: nn.Module, done: int, steps: int) -> None:
    """Tell a model how far its training is, if it wants to know: it then has a method ``set_progress(done, steps)``.

    Args:
        model: the network that is trained.
        done: optimizer steps that are done.
        steps: those of the whole training.
    """
    tell = getattr(model, "set_progress", None)
    if tell is not None:
        tell(done, steps)
