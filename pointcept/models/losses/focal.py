"""Focal loss: cross entropy with less weight on the points that are already right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.base import SegmentationLoss, masked_mean
from pointcept.models.losses.builder import LOSSES
from pointcept.utils.checks import check_number, check_numbers
from pointcept.utils.errors import ConfigError


@LOSSES.register_module()
class FocalLoss(SegmentationLoss):
    """-alpha_t (1 - p_t)^gamma log p_t of one sigmoid per class, mean over points and classes.

    Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), eq. 5; p_t is sigmoid(x) for
    the target class and 1 - sigmoid(x) for every other one.

    Args:
        gamma: how strongly easy points are discounted; 0 is plain binary cross entropy.
        alpha: weight of the target class in [0, 1], the others getting 1 - alpha; one number or
            one for each class.
        loss_weight: factor of the loss.
        ignore_index: target of the points that do not count.
    """

    alpha: Tensor

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | Sequence[float] = 0.5,
        loss_weight: float = 1.0,
        ignore_index: int = -1,
    ) -> None:
        super().__init__(loss_weight, ignore_index)
        one = isinstance(alpha, (int, float))
        alphas = (check_number("alpha", alpha, 0, 1),) if one else check_numbers("alpha", alpha, low=0, high=1)
        self.gamma = check_number("gamma", gamma, 0)
        self.register_buffer("alpha", torch.tensor(alphas, dtype=torch.float64), persistent=False)

    def check_classes(self, num_classes: int) -> None:
        if len(self.alpha) not in (1, num_classes):
            raise ConfigError(
                f"got {len(self.alpha)} values, allowed: one, or one for each of the {num_classes} classes", "alpha"
            )

    def compute(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        self.check_classes(pred.shape[1])
        alpha = self.alpha.to(pred)
        positive = target[:, None] == torch.arange(pred.shape[1], device=pred.device)
        signed = torch.where(positive, pred, -pred)
        # (1 - p_t)^gamma through the logarithm: the power's own gradient is infinite at 0.
        focus = torch.exp(self.gamma * F.logsigmoid(-signed))
        loss = -torch.where(positive, alpha, 1 - alpha) * focus * F.logsigmoid(signed)
        return masked_mean(loss, valid[:, None].to(loss).expand_as(loss))
