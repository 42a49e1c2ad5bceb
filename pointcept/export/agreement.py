"""How far the labels of an exported program are those of the plain network."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        voxels: of the scan, or its points.
        equal: those with the same label.
        ties: those with another label, but a near tie.
        difference: largest one of scores, as a share of the largest score; None where only labels are known.
    """

    voxels: int
    equal: int
    ties: int
    difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether all labels but near ties are the same."""
        return self.equal + self.ties == self.voxels

    def __str__(self) -> str:
        scores = "" if self.difference is None else f", scores differ by {self.difference:.1e} of the largest"
        return (
            f"{self.equal} of {self.voxels} labels equal, {self.ties} others near ties (within {TIE:g} of the largest "
            f"score){scores}"
        )


def compare(scores: np.ndarray, plain: np.ndarray) -> Agreement:
    """Compare the scores (N, K) of a program with those of the plain network."""
    found = compare_labels(scores.argmax(1), plain)
    largest = float(np.abs(plain).max()) or 1.0
    return replace(found, difference=float(np.abs(scores - plain).max()) / largest)


def compare_labels(labels: np.ndarray, plain: np.ndarray) -> Agreement:
    """Compare labels (N,) with the scores (N, K) of the plain network; the difference of scores is unknown."""
    largest = float(np.abs(plain).max()) or 1.0
    same = labels == plain.argmax(1)
    close = plain.max(1) - plain[np.arange(len(plain)), labels] <= TIE * largest
    return Agreement(len(plain), int(same.sum()), int((~same & close).sum()))


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
