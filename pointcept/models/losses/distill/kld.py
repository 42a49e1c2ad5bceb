"""Kullback-Leibler divergence of the student's class distribution from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import DistillationLoss
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.utils.checks import check_number


@DISTILL_LOSSES.register_module()
class KLDLoss(DistillationLoss):
    """T² · mean over points of KL(softmax(teacher / T) ‖ softmax(student / T)).

    L_KLD of arXiv 2505.08101 (there T = 1 and γ = 0.3); the factor T² keeps the size of the gradient
    when T changes (Hinton et al., arXiv 1503.02531, section 2).

    Args:
        loss_weight: γ.
        temperature: T > 0.

    Raises:
        ConfigError: a temperature that is not positive.
    """

    def __init__(self, loss_weight: Weight = 0.3, temperature: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.temperature = check_number("temperature", temperature, 0, open_low=True)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        log_p_student = F.log_softmax(student.logits.float() / self.temperature, dim=1)
        log_p_teacher = F.log_softmax(teacher.logits.detach().float() / self.temperature, dim=1)
        divergence = F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)
        return divergence * self.temperature**2
