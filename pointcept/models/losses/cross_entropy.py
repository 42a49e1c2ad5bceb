"""Cross entropy, with PyTorch's label smoothing or with that of Pointcept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.base import SegmentationLoss, masked_mean
from pointcept.models.losses.builder import LOSSES
from pointcept.utils.checks import check_number, check_numbers, refused
from pointcept.utils.errors import ConfigError


@LOSSES.register_module()
class CrossEntropyLoss(SegmentationLoss):
    """Mean of -log softmax(pred)[target], as ``torch.nn.CrossEntropyLoss`` has it.

    Args:
        weight: factor of each class, K numbers of at least 0, not all 0; the mean is then weighted by it.
        label_smoothing: probability mass spread evenly over all K classes, in [0, 1].
        loss_weight: factor of the loss.
        ignore_index: target of the points that do not count.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        loss_weight: float = 1.0,
        ignore_index: int = -1,
    ) -> None:
        super().__init__(loss_weight, ignore_index)
        self.label_smoothing = check_number("label_smoothing", label_smoothing, 0, 1)
        weights = None if weight is None else check_numbers("weight", weight, low=0)
        if weights is not None and not any(weights):
            raise refused("weight", weight, "weights of classes, not all 0")
        # Not persistent: checkpoints of Pointcept have no such entry.
        self.register_buffer("weight", None if weights is None else torch.tensor(weights), persistent=False)

    def check_classes(self, num_classes: int) -> None:
        if self.weight is not None and len(self.weight) != num_classes:
            raise ConfigError(
                f"got {len(self.weight)} class weights, allowed: one for each of the {num_classes} classes", "weight"
            )

    def compute(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        self.check_classes(pred.shape[1])
        weight = None if self.weight is None else self.weight.to(pred)
        # A sum divided by hand: torch's own mean is NaN when every point is ignored.
        total = F.cross_entropy(
            pred,
            torch.where(valid, target, -100),
            weight=weight,
            ignore_index=-100,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        count = valid.sum() if weight is None else torch.where(valid, weight[target], 0).sum()
        return total / torch.where(count > 0, count, 1)


@LOSSES.register_module()
class SmoothCELoss(SegmentationLoss):
    """Cross entropy with 1 - s on the target and s / (K - 1) on every other class.

    The smoothing of Szegedy et al. (CVPR 2016, section 7), except that the target gets no share
    of the smoothed mass.

    Args:
        smoothing_ratio: s, in [0, 1].
        loss_weight: factor of the loss.
        ignore_index: target of the points that do not count.
    """

    def __init__(self, smoothing_ratio: float = 0.1, loss_weight: float = 1.0, ignore_index: int = -1) -> None:
        super().__init__(loss_weight, ignore_index)
        self.smoothing_ratio = check_number("smoothing_ratio", smoothing_ratio, 0, 1)

    def compute(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        log_prob = F.log_softmax(pred, dim=1)
        at_target = log_prob.gather(1, target[:, None])[:, 0]
        others = (log_prob.sum(1) - at_target) / max(pred.shape[1] - 1, 1)
        loss = -(1 - self.smoothing_ratio) * at_target - self.smoothing_ratio * others
        return masked_mean(loss, valid.to(loss))
