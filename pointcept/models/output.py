"""What every segmentation network returns to losses: logits and the features of its encoder stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pointcept.structures import VoxelGrid
from pointcept.utils.errors import ConfigError

# The loss is a mean over many points, so its gradient at one of them is smaller than float16 can hold. It is
# computed of this multiple of the loss; gradient scalers settle on larger ones, so that nothing overflows.
GRADIENT_SCALE = 4096.0


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
        shared: what one loss has computed of this output and others (or its own later phases) may use.
        gradients: stage -> (M, C) gradients of ``seg_loss`` that have been computed.
    """

    logits: Tensor
    stages: list[Latent]
    seg_loss: Tensor | None = None
    seg_terms: dict[str, Tensor] | None = None
    shared: dict[Any, Any] = field(default_factory=dict)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    @property
    def latent(self) -> Latent:
        """Features of the deepest encoder stage."""
        return self.stages[-1]

    def compute_gradients(self, stages: Sequence[int], retain_graph: bool = True) -> None:
        """Compute ∂ seg_loss / ∂ features of these stages in one pass through the graph above them.

        Args:
            stages: indices into ``stages``; negative ones count from the deepest.
            retain_graph: False frees the graph of the segmentation loss.

        Raises:
            ConfigError: there is no segmentation loss.
        """
        wanted = sorted({stage % len(self.stages) for stage in stages} - self.gradients.keys())
        if not wanted:
            return
        if self.seg_loss is None:
            raise ConfigError(
                "gradient guidance needs the segmentation loss of both networks: give them criteria=[...] and "
                "Collect the key 'segment' in the training transforms"
            )
        features = [self.stages[s].feat for s in wanted]
        if self.seg_loss.requires_grad:
            found = torch.autograd.grad(self.seg_loss * GRADIENT_SCALE, features, retain_graph=retain_graph)
        else:  # criteria may give a constant where no point is labelled
            found = tuple(map(torch.zeros_like, features))
        for stage, gradient in zip(wanted, found, strict=True):
            wide = gradient if gradient.dtype == torch.float64 else gradient.float()
            self.gradients[stage] = wide / GRADIENT_SCALE

    def gradient(self, stage: int) -> Tensor:
        """∂ seg_loss / ∂ features of a stage, (M, C) in at least float32, without a graph.

        Raises:
            ConfigError: there is no segmentation loss.
        """
        self.compute_gradients([stage])
        return self.gradients[stage % len(self.stages)]

    def detached(self) -> Output:
        """The same values without any graph; gradients that were computed stay."""
        stages = [Latent(latent.feat.detach(), latent.grid) for latent in self.stages]
        loss = None if self.seg_loss is None else self.seg_loss.detach()
        return Output(self.logits.detach(), stages, loss, self.seg_terms, self.shared, self.gradients)
