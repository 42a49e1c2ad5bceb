"""Decoupled knowledge distillation: how sure the teacher is of a class, and how it ranks the others, weighed apart."""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.logits import LogitLoss
from pointcept.models.losses.distill.schedule import Weight
from pointcept.utils.checks import check_number


@DISTILL_LOSSES.register_module()
class DKDLoss(LogitLoss):
    """T² · mean over points of α TCKD + β NCKD (Zhao et al., CVPR 2022, arXiv 2203.08679, equation 7).

    With p the probabilities and c the class of a point, TCKD is the KL divergence between the two networks of
    (p_c, 1 - p_c), and NCKD that of the distributions over the other classes, p_k / (1 - p_c). The KL divergence over
    all classes is TCKD + (1 - p_c of the teacher) NCKD, where what a sure teacher knows of the other classes hardly
    counts. Where a point has no label, c is the teacher's most probable class.

    Args:
        loss_weight: factor of the term.
        alpha: α, at least 0; 1 in the paper.
        beta: β, at least 0; the authors take 0.5 on ImageNet and up to 8 on CIFAR-100.
        temperature, standardise, balanced, sure, right: see :class:`LogitLoss`; T is 1 and 4 there.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        loss_weight: Weight = 1.0,
        alpha: float = 1.0,
        beta: float = 2.0,
        temperature: float = 1.0,
        standardise: bool = False,
        balanced: bool = False,
        sure: float = 0.0,
        right: bool = False,
    ) -> None:
        super().__init__(loss_weight, temperature, standardise, balanced, sure, right)
        self.alpha, self.beta = check_number("alpha", alpha, 0), check_number("beta", beta, 0)

    def divergence(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        at_class = classes[:, None] == torch.arange(student.shape[1], device=student.device)
        (binary_s, others_s), (binary_t, others_t) = _parts(student, at_class), _parts(teacher, at_class)
        target = (binary_t.exp() * (binary_t - binary_s)).sum(1)
        # at the class both are 0
        others = (others_t.exp() * (others_t - others_s)).sum(1)
        return self.alpha * target + self.beta * others


def _parts(scores: Tensor, at_class: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (p_c, 1 - p_c), (N, 2), and of the distribution over the other classes, (N, K), 0 at c."""
    log_p = scores.log_softmax(1)
    without = log_p.masked_fill(at_class, -torch.inf)
    rest = without.logsumexp(1, keepdim=True)
    own = torch.where(at_class, log_p, 0).sum(1, keepdim=True)
    return torch.cat([own, rest], 1), (without - rest).masked_fill(at_class, 0)
