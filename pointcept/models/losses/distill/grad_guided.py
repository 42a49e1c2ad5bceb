"""Gradient-guided feature alignment: the points that matter for the segmentation loss shall match."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.base import masked_mean
from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import StageLoss, full_precision, labels_of, mean_over_clouds, wide
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.utils.checks import check_choice

NORMALISATIONS = ("minmax", "zscore", "none")


@DISTILL_LOSSES.register_module()
class GradGuidedLoss(StageLoss):
    """SmoothL1(M_student, M_teacher) of gradient-weighted feature maps: L_grad of arXiv 2505.08101.

    For each network and each scan, w_k = mean over the scan's voxels of |∂L_seg / ∂F_ik|, M_i = Σ_k w_k F_ik,
    and M is normalised over the scan. Only the student's F receives a gradient. Its w is a constant: a gradient
    through w would need second derivatives of attention and convolution, which fused kernels do not have.

    Statistics are those of one scan, so that the result does not depend on what else is in the batch. Scans
    count equally; one without a common voxel or without a label, of which L_seg says nothing, is left out. Where all
    M of a scan are equal, they become 0.

    Args:
        loss_weight: λ.
        stage: encoder stage of F, counted from the finest; -1 is the deepest, the paper's.
        normalisation: of M over the common voxels of a scan: ``"minmax"`` to [0, 1] (the paper's), ``"zscore"``
            to mean 0 and variance 1, or ``"none"``.

    Raises:
        ConfigError: another normalisation.
    """

    needs_gradients = True

    def __init__(self, loss_weight: Weight = 10.0, stage: int = -1, normalisation: str = "minmax") -> None:
        super().__init__(loss_weight, stage)
        self.normalisation = check_choice("normalisation", normalisation, NORMALISATIONS)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        feat = student.stages[self.stage].feat
        with full_precision(feat):
            common = self.match(student.stages[self.stage].grid, teacher)
            # Averaging F over a coarser voxel and then weighing it is the same as averaging M.
            ours = common.student(self._scores(student)).split(common.counts)
            theirs = common.teacher(self._scores(teacher).detach()).split(common.counts)
            values = [
                F.smooth_l1_loss(normalise_scores(s, self.normalisation), normalise_scores(t, self.normalisation))
                for s, t in zip(ours, theirs, strict=True)
                if len(s)
            ]
            if not values or "segment" not in batch:
                return mean_over_clouds(values, feat)
            labelled = labelled_scans(batch, student.logits)
            counts = torch.stack([labelled[i] for i, s in enumerate(ours) if len(s)])
            return masked_mean(torch.stack(values), counts.to(values[0]))

    def _scores(self, output: Output) -> Tensor:
        """M (N, 1) of all voxels of a network."""
        latent = output.stages[self.stage]
        clouds = zip(
            wide(latent.feat).split(latent.grid.counts),
            output.gradient(self.stage).split(latent.grid.counts),
            strict=True,
        )
        return torch.cat([feat @ gradient.abs().mean(0)[:, None] for feat, gradient in clouds])


def labelled_scans(batch: Mapping[str, Tensor], logits: Tensor) -> Tensor:
    """Which scans of a batch have a label, (B,) bool; nothing waits for the device."""
    found = F.pad(labels_of(batch, logits)[1].cumsum(0), (1, 0))
    return found.index_select(0, batch["offset"].long()).diff(prepend=found[:1]) > 0


def normalise_scores(x: Tensor, kind: str) -> Tensor:
    """Normalise the scores (M, 1) of one scan, M >= 1; equal ones become about 0 with a finite gradient."""
    if kind == "none":
        return x
    if kind == "minmax":
        centre, spread = x.amin(), x.amax() - x.amin()
    else:
        centre = x.mean()
        variance = (x - centre).square().mean()
        spread = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
    # Differences that rounding explains are not blown up to a whole unit.
    rounding = 16 * torch.finfo(x.dtype).eps * x.detach().abs().amax()
    return (x - centre) / torch.where(spread > rounding, spread, rounding.clamp_min(1.0))
