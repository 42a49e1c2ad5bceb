"""Similarity-preserving distillation: voxels alike for the teacher shall be alike for the student."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import OwnGenerator, StageLoss, full_precision, mean_over_clouds
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.topology import random_points
from pointcept.utils.checks import check_integer


@DISTILL_LOSSES.register_module()
class SimilarityLoss(OwnGenerator, StageLoss):
    """1/n² · ‖G_teacher − G_student‖², G the row-normalised F Fᵀ (Tung and Mori, arXiv 1907.09682, equations 1-4).

    The paper compares the images of a batch; here the n common voxels of a scan take their place, as in the
    affinity terms of distillation for point clouds. At most ``max_points`` random ones are used, the same for
    both networks; the mean over scans is returned. The global random state is not used.

    Args:
        loss_weight: γ; 3000 in the paper.
        max_points: most voxels of a scan; memory and time grow with its square.
        stage: encoder stage of the features, counted from the finest; -1 is the deepest.
        seed: of the random voxels.

    Raises:
        ConfigError: fewer than two voxels.
    """

    def __init__(self, loss_weight: Weight = 3000.0, max_points: int = 512, stage: int = -1, seed: int = 0) -> None:
        super().__init__(loss_weight, stage)
        self.max_points = check_integer("max_points", max_points, 2)
        self.seed(seed)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs, counts = self.matched_features(student, teacher)
        values = []
        with full_precision(ours):
            for s, t in zip(ours.split(counts), theirs.split(counts), strict=True):
                if len(s) > self.max_points:
                    rows = random_points(len(s), self.max_points, self.generator).to(s.device, non_blocking=True)
                    s, t = s[rows], t[rows]
                if len(s):
                    values.append((_similarities(s) - _similarities(t)).square().mean())
            return mean_over_clouds(values, student.stages[self.stage].feat)


def _similarities(x: Tensor) -> Tensor:
    return F.normalize(torch.mm(x, x.T), dim=1)
