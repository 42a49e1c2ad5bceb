"""The registries of losses, and the sum of several segmentation losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pointcept.utils.errors import ConfigError, inside
from pointcept.utils.registry import Registry

# forward(pred (N, K) logits, target (N,)) -> scalar
LOSSES = Registry("losses")
# forward(student: Output, teacher: Output, batch: dict) -> scalar
DISTILL_LOSSES = Registry("distillation losses")


class Criteria(nn.Module):
    """The sum of several segmentation losses.

    Args:
        losses: ``{name: loss}``; each loss applies its own ``loss_weight``.
    """

    def __init__(self, losses: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)

    @property
    def ignore_index(self) -> int | None:
        """The target that no loss counts; None if the losses ignore different ones, or one ignores none."""
        ignored = {getattr(loss, "ignore_index", None) for loss in self.losses.values()}
        return ignored.pop() if len(ignored) == 1 else None

    def forward(self, pred: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum, and every weighted term by name.

        Args:
            pred: logits, (N, K) floating point.
            target: class of each point, (N,) integer, or the losses' ignore index.

        Returns:
            The sum as a scalar with a gradient, and the terms as detached scalars (their sum is
            the first value); nothing is copied to the host.
        """
        terms = {name: loss(pred, target) for name, loss in self.losses.items()}
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}


def build_criteria(cfg: Sequence[Mapping[str, Any]], num_classes: int | None = None) -> Criteria:
    """Build the losses of ``criteria=[dict(type="CrossEntropyLoss"), dict(type="LovaszLoss")]``.

    Args:
        cfg: one dict per loss. A type that comes twice is named ``Type_2``, and so on.
        num_classes: K of the network; a loss with a method ``check_classes`` is asked whether it suits that.

    Raises:
        ConfigError: no loss at all, a dict that the registry of losses refuses, or a loss for other classes.
    """
    if isinstance(cfg, Mapping) or not cfg:
        raise ConfigError(f"got {cfg!r}, allowed: a list of one or more dict(type=...)", "criteria")
    losses: dict[str, nn.Module] = {}
    for i, entry in enumerate(cfg):
        loss = LOSSES.build(entry, f"criteria.{i}")
        if num_classes is not None and hasattr(loss, "check_classes"):
            with inside(f"criteria.{i}"):
                loss.check_classes(num_classes)
        count = 1 + sum(e["type"] == entry["type"] for e in cfg[:i])
        losses[entry["type"] if count == 1 else f"{entry['type']}_{count}"] = loss
    return Criteria(losses)
