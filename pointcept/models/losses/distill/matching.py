"""Which rows of a student's and of a teacher's features belong to the same voxel of the same scan.

Row i of two latents is the same voxel only where both networks computed on one grid. Otherwise rows are
matched by scan and voxel coordinate at the finest resolution that both grids have in common; features of
a finer grid are averaged over the voxels that lie in one common voxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pointcept.structures import VoxelGrid
from pointcept.utils.errors import DataError

# Grid coordinates fit into 16 bits (pointcept.ops.api.MAX_DEPTH), so one int64 holds scan and voxel.
_BITS = 16


@dataclass
class Side:
    """How the rows of one network become rows of common voxels.

    Attributes:
        rows: (P,) rows that lie in a common voxel, sorted by it; None if all rows are, in this order.
        lengths: (M,) rows of each common voxel; None if one each.
    """

    rows: Tensor | None = None
    lengths: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, C) of a network -> (M, C) of the common voxels, differentiable."""
        if self.rows is not None:
            x = x.index_select(0, self.rows)
        if self.lengths is None:
            return x
        # Not index_add: its atomic sums differ in the last bits from run to run on a GPU.
        wide = x if x.dtype == torch.float64 else x.float()
        return torch.segment_reduce(wide, "mean", lengths=self.lengths, unsafe=True)


@dataclass
class Correspondence:
    """The voxels that both networks have, ascending by scan.

    Attributes:
        student: rows of the student's features -> rows of the M common voxels.
        teacher: the same for the teacher.
        counts: common voxels of each scan, on the host; zeros are possible.
        share: M, divided by the number of voxels that either network has.
        stride: edge of a common voxel in voxels of the finest grid.
    """

    student: Side
    teacher: Side
    counts: list[int]
    share: float
    stride: int


def match_voxels(student: VoxelGrid, teacher: VoxelGrid, name: str = "distillation") -> Correspondence:
    """Match the voxels of two grids of the same batch of scans.

    Equal rows are recognised where both networks share the grid object; that costs nothing. Otherwise the
    host waits for the device twice.

    Args:
        student, teacher: grids of any two strides, rows in any order within ascending scans.
        name: who asks, for the message.

    Raises:
        DataError: not one common voxel, or another number of scans.
    """
    if student is teacher:
        return Correspondence(Side(), Side(), student.counts, 1.0, student.stride)
    if len(student.counts) != len(teacher.counts):
        raise DataError(
            f"{name}: the student's features belong to {len(student.counts)} scans, the teacher's to "
            f"{len(teacher.counts)}"
        )
    stride = math.lcm(student.stride, teacher.stride)
    keys = [_keys(grid, stride) for grid in (student, teacher)]
    voxels, group = torch.unique(torch.cat(keys), return_inverse=True)
    groups = group.split([len(student), len(teacher)])
    sizes = [torch.zeros_like(voxels).index_add_(0, g, torch.ones_like(g)) for g in groups]
    common = (sizes[0] > 0) & (sizes[1] > 0)
    scans = voxels[common] >> (3 * _BITS)
    counts = torch.bincount(scans, minlength=len(student.counts)).tolist()
    if sum(counts) == 0:
        raise DataError(
            f"{name}: student and teacher have no voxel in common at stride {stride}: the student has "
            f"{len(student)} voxels of stride {student.stride}, the teacher {len(teacher)} of stride {teacher.stride}"
        )
    sides = [_side(g, size, common) for g, size in zip(groups, sizes, strict=True)]
    return Correspondence(sides[0], sides[1], counts, sum(counts) / len(voxels), stride)


def _keys(grid: VoxelGrid, stride: int) -> Tensor:
    x, y, z = (grid.grid_coord // (stride // grid.stride)).unbind(1)
    return (((grid.batch << _BITS | x) << _BITS) | y) << _BITS | z


def _side(group: Tensor, size: Tensor, common: Tensor) -> Side:
    kept = common[group].nonzero().squeeze(1)
    return Side(kept[group[kept].argsort(stable=True)], size[common])
