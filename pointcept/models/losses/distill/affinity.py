"""Affinities within supervoxels: what is alike nearby for the teacher shall be alike for the student."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import OwnGenerator, StageLoss, full_precision, labels_of, mean_over_clouds
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.utils.checks import check_integer, refused

_BITS = 16  # of a coordinate, as in matching


@DISTILL_LOSSES.register_module()
class AffinityLoss(OwnGenerator, StageLoss):
    """Mean square difference of the cosines between all pairs of voxels of a supervoxel, mean over supervoxels.

    After the inter-voxel affinity of PVKD (Hou et al., CVPR 2022, arXiv 2206.02099), simplified: supervoxels are cubes
    and not parts of a cylinder, and hold the voxels of one stage; the affinity between points, with stage 0, is that
    between the finest voxels. :class:`SimilarityLoss` compares random voxels from all over the scan instead, of which
    few pairs lie near each other. The global random state is not used.

    Args:
        loss_weight: factor of the term.
        supervoxels: how many are drawn of each scan, out of those with at least two voxels.
        edge: of a supervoxel, in voxels of the stage.
        max_voxels: most voxels of a supervoxel, random ones; memory and time grow with its square.
        difficult: draw supervoxels of rare classes and far from the sensor more often, with a chance in proportion to
            the mean over their points of 1 / the frequency of the class in the batch, times that of the horizontal
            distance (of ``coord``, where the batch has it). The class of a point is its label, or the teacher's.
            False: all alike.
        stage: encoder stage of the features, counted from the finest; -1 is the deepest.
        seed: of the draws.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        loss_weight: Weight = 1.0,
        supervoxels: int = 16,
        edge: int = 8,
        max_voxels: int = 64,
        difficult: bool = True,
        stage: int = -1,
        seed: int = 0,
    ) -> None:
        super().__init__(loss_weight, stage)
        self.supervoxels, self.edge = check_integer("supervoxels", supervoxels, 1), check_integer("edge", edge, 2)
        self.max_voxels = check_integer("max_voxels", max_voxels, 2)
        if not isinstance(difficult, bool):
            raise refused("difficult", difficult, "True or False")
        self.difficult = difficult
        self.seed(seed)

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        ours, theirs, counts = self.matched_features(student, teacher)
        grid = student.stages[self.stage].grid
        common = self.match(grid, teacher)
        with full_precision(ours):
            # the mean of the voxels that lie in a common one lies in it, too
            voxels = common.student(grid.grid_coord.double()) // (common.stride // grid.stride * self.edge)
            scans = torch.repeat_interleave(torch.tensor(counts)).to(voxels.device, non_blocking=True)
            keys, cell, sizes = _keys(scans, voxels.long()).unique(return_inverse=True, return_counts=True)
            chances = sizes.new_ones(len(keys), dtype=torch.float64)
            if self.difficult:
                chances = _difficulty(keys, teacher.logits.detach(), batch, common.stride * self.edge)
            rows, real = self._draw(keys >> 3 * _BITS, cell, sizes, chances)
            if not len(rows):
                return mean_over_clouds([], student.stages[self.stage].feat)
            difference = (_cosines(ours[rows]) - _cosines(theirs[rows])).square()
            pairs = (real[:, :, None] & real[:, None, :]).to(difference)
            return ((difference * pairs).sum((1, 2)) / pairs.sum((1, 2))).mean()

    def _draw(self, scans: Tensor, cell: Tensor, sizes: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (S, n) of the voxels of the drawn supervoxels, filled up with row 0, and which of them are real.

        Args:
            scans, sizes, chances: of the supervoxels, (G,), ascending by scan.
            cell: supervoxel of each row, (M,).
        """
        where = cell.device
        # the smallest of exponential variables with these rates: a draw without replacement
        times = -torch.log1p(-torch.rand(len(scans), generator=self.generator, dtype=torch.float64)).to(where) / chances
        order, rank = _ranked(scans, torch.where(sizes > 1, times, torch.inf))
        drawn = order[(rank < self.supervoxels) & (sizes[order] > 1)]
        slot = torch.full_like(sizes, -1)
        slot[drawn] = torch.arange(len(drawn), device=where)
        order, rank = _ranked(cell, torch.rand(len(cell), generator=self.generator).to(where))
        kept = (rank < self.max_voxels) & (slot[cell[order]] >= 0)
        order, rank = order[kept], rank[kept]
        rows = cell.new_zeros(len(drawn), self.max_voxels)
        rows[slot[cell[order]], rank] = order
        return rows, torch.arange(self.max_voxels, device=where) < sizes[drawn][:, None]


def _keys(scans: Tensor, cells: Tensor) -> Tensor:
    """One int64 for each scan (N,) and cell (N, 3), ascending by scan."""
    x, y, z = cells.unbind(1)
    return (((scans << _BITS | x) << _BITS) | y) << _BITS | z


def _ranked(group: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Rows sorted by group, within it by value; and the place of each in its group."""
    order = value.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]
    ascending = group[order]
    return order, torch.arange(len(order), device=order.device) - torch.searchsorted(ascending, ascending)


def _difficulty(keys: Tensor, logits: Tensor, batch: Mapping[str, Tensor], edge: int) -> Tensor:
    """How hard each supervoxel is, (G,) float64, above 0: rare classes, far away.

    Args:
        keys: of the supervoxels, ascending.
        logits: of the teacher, (N, K).
        batch: ``grid_coord`` and ``offset``; ``segment`` and ``coord`` where it has them.
        edge: of a supervoxel, in voxels of the batch.
    """
    labels, labelled = labels_of(batch, logits)
    classes = torch.where(labelled, labels, logits.argmax(1))
    members = (classes[:, None] == torch.arange(logits.shape[1], device=logits.device)).sum(0)
    hard = len(classes) / members.double()[classes]
    points = torch.arange(len(classes), device=logits.device)
    scans = torch.searchsorted(batch["offset"].long(), points, right=True)
    own = _keys(scans, batch["grid_coord"].long() // edge)
    cell = torch.searchsorted(keys, own).clamp(max=len(keys) - 1)
    order = torch.where(keys[cell] == own, cell, len(keys)).argsort(stable=True)  # others last: of one network alone
    lengths = torch.zeros(len(keys) + 1, dtype=torch.int64, device=keys.device)
    lengths.index_add_(0, torch.where(keys[cell] == own, cell, len(keys)), torch.ones_like(cell))

    def mean(values: Tensor) -> Tensor:
        # index_add of numbers would differ in the last bits from run to run
        found = torch.segment_reduce(values[order], "mean", lengths=lengths, unsafe=True)[:-1]
        return torch.where(lengths[:-1] > 0, found, 1.0).clamp_min(1e-6)

    distance = mean(batch["coord"][:, :2].double().norm(dim=1)) if "coord" in batch else 1.0
    return mean(hard) * distance


def _cosines(x: Tensor) -> Tensor:
    """Of all pairs of rows, x (S, n, C) -> (S, n, n)."""
    x = F.normalize(x, dim=2)
    return x @ x.transpose(1, 2)
