"""What every segmentation network returns to losses: logits and the features of its encoder stages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pointcept.structures import VoxelGrid


@dataclass
class Latent:
    """Features of one encoder stage.

    Attributes:
        feat: (M, C) features.
        grid: the M voxels they belong to: ``grid.grid_coord`` (M, 3), ``grid.batch`` (M,), ``grid.stride``.
    """

    feat: Tensor
    grid: VoxelGrid


@dataclass
class Output:
    """The output of a segmentation network for one batch.

    Attributes:
        logits: (N, K) class scores of the input voxels, in the order of the input.
        stages: features of the encoder stages, finest first.
        seg_loss: weighted sum of the segmentation criteria, where labels were given.
        seg_terms: the criteria by name.
    """

    logits: Tensor
    stages: list[Latent]
    seg_loss: Tensor | None = None
    seg_terms: dict[str, Tensor] | None = None

    @property
    def latent(self) -> Latent:
        """Features of the deepest encoder stage."""
        return self.stages[-1]
