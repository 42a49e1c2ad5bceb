"""Kullback-Leibler divergence of the student's class distribution from the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.logits import LogitLoss
from pointcept.models.losses.distill.schedule import Weight


@DISTILL_LOSSES.register_module()
class KLDLoss(LogitLoss):
    """T² · mean over points of KL(softmax(teacher / T) ‖ softmax(student / T)).

    L_KLD of arXiv 2505.08101, there with T = 1, γ = 0.3 and none of the options.

    Args:
        loss_weight: γ.
        temperature, standardise, balanced, sure, right: see :class:`LogitLoss`.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        loss_weight: Weight = 0.3,
        temperature: float = 1.0,
        standardise: bool = False,
        balanced: bool = False,
        sure: float = 0.0,
        right: bool = False,
    ) -> None:
        super().__init__(loss_weight, temperature, standardise, balanced, sure, right)

    def divergence(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        log_p_student, log_p_teacher = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
        return F.kl_div(log_p_student, log_p_teacher, reduction="none", log_target=True).sum(1)
