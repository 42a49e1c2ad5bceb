"""Feature matching: a learned projection of the student's features shall equal the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import StageLoss, full_precision
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output


@DISTILL_LOSSES.register_module()
class FeatureMatchingLoss(StageLoss):
    """½ · mean of (r(F_student) − F_teacher)², r linear and learned: FitNets (arXiv 1412.6550, equation 3).

    There the sum over all entries of one hint layer; here the mean over voxels and channels, so that the
    weight does not depend on the size of a scan. r belongs to the distiller's parameters and to the training
    state of a checkpoint, and not to the student.

    Args:
        loss_weight: factor of the term; FitNets trains with it alone, so the paper has no value.
        stage: encoder stage of the features, counted from the finest; -1 is the deepest.
    """

    def __init__(self, loss_weight: Weight = 1.0, stage: int = -1) -> None:
        super().__init__(loss_weight, stage)
        self.regressor: nn.Module = nn.Identity()

    def connect(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().connect(student_channels, teacher_channels)
        self.regressor = nn.Linear(student_channels[self.stage], teacher_channels[self.stage])

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs, _ = self.matched_features(student, teacher)
        with full_precision(ours):
            return 0.5 * F.mse_loss(self.regressor(ours), theirs)
