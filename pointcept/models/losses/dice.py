"""Dice loss: overlap of the predicted and the true points of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.models.losses.base import SegmentationLoss
from pointcept.models.losses.builder import LOSSES
from pointcept.utils.checks import check_number


@LOSSES.register_module()
class DiceLoss(SegmentationLoss):
    """Mean over classes of 1 - (2 sum p y + s) / (sum p^e + sum y^e + s), p = softmax(pred).

    Milletari et al., "V-Net" (3DV 2016), section 3, with the smoothing term s that is usual since.

    Args:
        smooth: s, keeps absent classes from dividing 0 by 0.
        exponent: e; 2 as in the paper.
        loss_weight: factor of the loss.
        ignore_index: target of the points that do not count.
    """

    def __init__(
        self, smooth: float = 1.0, exponent: float = 2.0, loss_weight: float = 1.0, ignore_index: int = -1
    ) -> None:
        super().__init__(loss_weight, ignore_index)
        self.smooth = check_number("smooth", smooth, 0, open_low=True)
        self.exponent = check_number("exponent", exponent, 1)

    def compute(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        mask = valid[:, None]
        prob = torch.where(mask, pred.softmax(1), 0)
        truth = (target[:, None] == torch.arange(pred.shape[1], device=pred.device)) & mask
        overlap = torch.where(truth, prob, 0).sum(0)
        # y is 0 or 1, so its power is itself.
        size = prob.pow(self.exponent).sum(0) + truth.sum(0)
        return (1 - (2 * overlap + self.smooth) / (size + self.smooth)).mean()
