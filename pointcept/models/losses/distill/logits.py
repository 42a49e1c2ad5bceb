"""What losses on the scores of both networks share: temperature, and which points count how much."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pointcept.models.losses.base import masked_mean
from pointcept.models.losses.distill.base import DistillationLoss, full_precision, labels_of, wide
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.utils.checks import check_number, refused


class LogitLoss(DistillationLoss):
    """T² · mean over points of a divergence of the class scores / T; subclasses write :meth:`divergence`.

    The factor T² keeps the size of the gradient when T changes (Hinton et al., arXiv 1503.02531, section 2). The class
    of a point is its label, or the teacher's most probable class where it has none.

    Args:
        loss_weight: factor of the term.
        temperature: T > 0.
        standardise: the scores of each point first get mean 0 and variance 1 over the classes, in both networks, so
            that the student need not match the size of the teacher's (Sun et al., CVPR 2024, arXiv 2403.01427).
        balanced: the mean over the classes of the batch of the means over their points, instead of the mean over
            points, of which some classes have a thousand times as many as others.
        sure: only points whose most probable class has at least this probability for the teacher, without T, count.
        right: points whose label is not the teacher's most probable class do not count; those without a label do.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self, loss_weight: Weight, temperature: float, standardise: bool, balanced: bool, sure: float, right: bool
    ) -> None:
        super().__init__(loss_weight)
        self.temperature = check_number("temperature", temperature, 0, open_low=True)
        self.sure = check_number("sure", sure, 0, 1, open_high=True)
        for name, value in (("standardise", standardise), ("balanced", balanced), ("right", right)):
            if not isinstance(value, bool):
                raise refused(name, value, "True or False")
        self.standardise, self.balanced, self.right = standardise, balanced, right

    def divergence(self, student: Tensor, teacher: Tensor, classes: Tensor) -> Tensor:
        """How far the student is from the teacher at each point, (N,).

        Args:
            student, teacher: scores (N, K), divided by T; the teacher's without gradient.
            classes: of the points, (N,) int64.
        """
        raise NotImplementedError

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        with full_precision(student.logits):
            ours, theirs = wide(student.logits), wide(teacher.logits.detach())
            labels, labelled = labels_of(batch, theirs)
            classes = torch.where(labelled, labels, theirs.argmax(1))
            weights = self._weights(theirs, classes)
            if self.standardise:
                ours, theirs = standardised(ours), standardised(theirs)
            values = self.divergence(ours / self.temperature, theirs / self.temperature, classes)
            return masked_mean(values, weights) * self.temperature**2

    def _weights(self, teacher: Tensor, classes: Tensor) -> Tensor:
        """How much each point counts, (N,); nothing waits for the device."""
        counts = torch.ones_like(classes, dtype=torch.bool)
        if self.sure > 0:
            counts &= teacher.softmax(1).amax(1) >= self.sure
        if self.right:  # without a label the class is the teacher's
            counts &= teacher.argmax(1) == classes
        if self.sure > 0 or self.right:
            self.report["kept"] = counts.float().mean()
        if not self.balanced:
            return counts.to(teacher.dtype)
        members = (classes[:, None] == torch.arange(teacher.shape[1], device=teacher.device)) & counts[:, None]
        return counts / members.sum(0).clamp(min=1).to(teacher.dtype)[classes]


def standardised(x: Tensor) -> Tensor:
    """x (N, K) with mean 0 and variance 1 in each row; 0 where all of a row are equal, with a finite gradient."""
    centred = x - x.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    return centred / torch.where(variance == 0, 1, variance).sqrt()
