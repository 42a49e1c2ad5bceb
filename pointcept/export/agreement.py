"""How far the labels of an exported program are those of the plain network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pointcept.utils import device

TIE = 1e-4
"""Two classes are a near tie where the plain network's scores differ by less than this share of its largest score."""


@dataclass(frozen=True)
class Agreement:
    """One scan.

    Attributes:
        voxels: of the scan.
        equal: those with the same label.
        ties: those with another label, but a near tie.
        difference: largest one of scores, as a share of the largest score.
    """

    voxels: int
    equal: int
    ties: int
    difference: float

    @property
    def holds(self) -> bool:
        """Whether all labels but near ties are the same."""
        return self.equal + self.ties == self.voxels

    def __str__(self) -> str:
        return (
            f"{self.equal} of {self.voxels} labels equal, {self.ties} others near ties (within {TIE:g} of the largest "
            f"score), scores differ by {self.difference:.1e} of the largest"
        )


def compare(scores: np.ndarray, plain: np.ndarray) -> Agreement:
    """Compare the scores (N, K) of a program with those of the plain network."""
    largest = float(np.abs(plain).max()) or 1.0
    labels, rows = scores.argmax(1), np.arange(len(plain))
    same = labels == plain.argmax(1)
    close = (plain.max(1) - plain[rows, labels]) <= TIE * largest
    return Agreement(
        len(plain), int(same.sum()), int((~same & close).sum()), float(np.abs(scores - plain).max()) / largest
    )


def plain_scores(model: nn.Module, grid: np.ndarray, feat: np.ndarray) -> np.ndarray:
    """What the network itself says about the voxels of a scan, float32 (N, K).

    Args:
        model: in evaluation, on the device.
        grid: (N, 3) voxel coordinates.
        feat: (N, C).
    """
    where = device.get_device()
    batch = {
        "grid_coord": torch.from_numpy(grid).to(where),
        "feat": torch.from_numpy(feat).to(where),
        "offset": torch.tensor([len(grid)], device=where),
    }
    with torch.no_grad():
        return model(batch)["seg_logits"].float().cpu().numpy()
