"""Attention transfer: where features are large in the teacher, they shall be large in the student."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import StageLoss, full_precision, mean_over_clouds, wide
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.utils.checks import check_number


@DISTILL_LOSSES.register_module()
class AttentionTransferLoss(StageLoss):
    """Mean square difference of normalised activation maps (Zagoruyko and Komodakis, arXiv 1612.03928, equation 2).

    Q_i = Σ_k |F_ik|^p per voxel, divided by the length of Q over the scan; the mean over the voxels of a scan of
    (Q_student − Q_teacher)², then the mean over scans.

    Args:
        loss_weight: β / 2; the paper's β is 1000 for a mean over the elements of the map (its section 4.1).
        p: exponent, at least 1; the paper's best is 2.
        stage: encoder stage of the features, counted from the finest; -1 is the deepest.

    Raises:
        ConfigError: p below 1.
    """

    def __init__(self, loss_weight: Weight = 500.0, p: float = 2.0, stage: int = -1) -> None:
        super().__init__(loss_weight, stage)
        self.p = check_number("p", p, 1)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs = student.stages[self.stage], teacher.stages[self.stage]
        common = self.match(ours.grid, teacher)
        with full_precision(ours.feat):
            maps = zip(
                common.student(self._energy(ours.feat)).split(common.counts),
                common.teacher(self._energy(theirs.feat.detach())).split(common.counts),
                strict=True,
            )
            values = [F.mse_loss(F.normalize(s, dim=0), F.normalize(t, dim=0)) for s, t in maps if len(s)]
            return mean_over_clouds(values, ours.feat)

    def _energy(self, feat: Tensor) -> Tensor:
        return wide(feat).abs().pow(self.p).sum(dim=1, keepdim=True)
