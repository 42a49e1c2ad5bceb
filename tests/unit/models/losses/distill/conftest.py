"""Hand-made grids, latents and outputs: small clouds in float64 whose rows are in any order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pointcept.models.output import Latent, Output
from pointcept.structures import VoxelGrid


def make_grid(clouds: Sequence[Tensor], stride: int = 1) -> VoxelGrid:
    """The grid of clouds of voxel coordinates (N_b, 3)."""
    counts = [len(cloud) for cloud in clouds]
    batch = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return VoxelGrid(torch.cat(list(clouds)), batch, counts, {}, {}, stride)


def make_output(feat: Tensor, grid: VoxelGrid, seed: int = 0) -> Output:
    """An output whose latent is ``feat`` and whose segmentation loss depends on it nonlinearly."""
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(feat.shape[1], 5, generator=generator, dtype=torch.float64).to(feat.dtype)
    target = torch.randint(0, 5, (len(feat),), generator=generator)
    logits = feat @ head
    loss = torch.nn.functional.cross_entropy(logits, target) if len(feat) else logits.sum()
    return Output(logits, [Latent(feat, grid)], loss, {})


def random_clouds(sizes: Sequence[int], seed: int = 0, extent: int = 40) -> list[Tensor]:
    """Clouds of distinct voxels in random order."""
    generator = torch.Generator().manual_seed(seed)
    clouds = []
    for n in sizes:
        cells = torch.randperm(extent**3, generator=generator)[:n]
        clouds.append(torch.stack([cells // extent**2, cells // extent % extent, cells % extent], 1))
    return clouds


def random_features(rows: int, channels: int, seed: int = 0) -> Tensor:
    """Normal features (rows, channels) float64."""
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(rows, channels, generator=generator, dtype=torch.float64)


class Pair:
    """Student and teacher features on one grid, and their outputs."""

    def __init__(self, sizes: Sequence[int] = (14, 9), channels: tuple[int, int] = (4, 6)) -> None:
        self.grid = make_grid(random_clouds(sizes))
        self.student_feat = random_features(sum(sizes), channels[0], 1).requires_grad_()
        self.teacher_feat = random_features(sum(sizes), channels[1], 2).requires_grad_()
        self.teacher = make_output(self.teacher_feat, self.grid, 1)

    def student(self, feat: Tensor) -> Output:
        """The student's output with other features on the same grid."""
        return make_output(feat, self.grid)


@pytest.fixture
def pair() -> Pair:
    """Two scans of 14 and 9 voxels."""
    return Pair()


@pytest.fixture
def build():
    """The helpers of this file."""

    class Helpers:
        grid = staticmethod(make_grid)
        output = staticmethod(make_output)
        clouds = staticmethod(random_clouds)
        features = staticmethod(random_features)
        Pair = Pair

    return Helpers
