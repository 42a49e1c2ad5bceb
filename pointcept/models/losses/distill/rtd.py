"""RTD-Lite: both feature clouds shall merge the same voxels at the same lengths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import StageLoss, full_precision, mean_over_clouds
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.topology import normalise, rtd_lite


@DISTILL_LOSSES.register_module()
class RTDLiteLoss(StageLoss):
    """RTD-Lite of teacher's and student's latent, divided by the number of edges (arXiv 2503.11910).

    :class:`TopoLoss` compares how long the edges of the two spanning trees are, whichever voxels they join; this knows
    that row i of both clouds is the same voxel. Each cloud is divided by its root mean square distance. All voxels of a
    scan; then the mean over the scans with at least two common voxels.

    Args:
        loss_weight: factor of the term.
        stage: encoder stage, counted from the finest; -1 is the deepest. Time grows with the square of the voxels.
    """

    def __init__(self, loss_weight: Weight = 1.0, stage: int = -1) -> None:
        super().__init__(loss_weight, stage)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs, counts = self.matched_features(student, teacher)
        for cloud, network in ((theirs, "teacher"), (ours, "student")):
            self.check_finite(cloud, network)
        with full_precision(ours):
            clouds = zip(theirs.split(counts), ours.split(counts), strict=True)
            values = [rtd_lite(normalise(t), normalise(s)) for t, s in clouds if len(t) > 1]
            return mean_over_clouds(values, student.stages[self.stage].feat)
