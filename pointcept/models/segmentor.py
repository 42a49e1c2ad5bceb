"""Segmentation networks: a backbone, a head and the criteria that it is trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pointcept.models.builder import MODELS
from pointcept.models.fixed_batch import FixedBatch, Layouts
from pointcept.models.graphed import GraphedNetwork, why_not_graphed
from pointcept.models.losses import build_criteria
from pointcept.models.modules import Linear
from pointcept.models.output import Latent, Output
from pointcept.structures import GridPyramid
from pointcept.utils.checks import check_integer
from pointcept.utils.errors import ConfigError


class Segmentor(nn.Module):
    """What the segmentors have in common: batch -> grids -> encoder -> decoder -> logits -> losses.

    Args:
        backbone: config of the backbone.
        criteria: configs of the losses, or None.
        num_classes: K; None for that of the backbone.

    Raises:
        ConfigError: a part is wrong, or a loss is made for another number of classes.
    """

    built_from: ClassVar = {"backbone": "models", "criteria": "losses"}
    num_classes: int

    def __init__(
        self, backbone: Mapping[str, Any], criteria: Sequence[Mapping[str, Any]] | None, num_classes: int | None = None
    ) -> None:
        super().__init__()
        if num_classes is not None:
            check_integer("num_classes", num_classes, 1)
        self.backbone = MODELS.build(backbone, "backbone")
        if num_classes is None:
            num_classes = getattr(self.backbone, "num_classes", 0)
        self.num_classes = num_classes
        self.criteria = build_criteria(criteria, num_classes or None) if criteria else None
        self._graphed: GraphedNetwork | None = None

    def head(self, feat: Tensor) -> Tensor:
        """Features of the decoder (N, C) -> logits (N, K)."""
        raise NotImplementedError

    def build_pyramid(self, batch: Mapping[str, Tensor]) -> GridPyramid:
        """The voxel grids of a batch.

        Raises:
            ConfigError: a key is missing, or ``feat`` has other channels than the backbone expects.
        """
        batch = self._checked(batch)
        return self.backbone.build_pyramid(batch["grid_coord"], batch["offset"])

    def _checked(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        missing = [key for key in ("feat", "grid_coord", "offset") if key not in batch]
        if missing:
            raise ConfigError(
                f"the batch has no {', '.join(missing)}, only {', '.join(map(str, batch))}: the transforms of the data "
                "need GridSample(return_grid_coord=True) and Collect with the key grid_coord and feat_keys"
            )
        channels = batch["feat"].shape[1]
        if channels != self.backbone.in_channels:
            raise ConfigError(
                f"the backbone has in_channels={self.backbone.in_channels}, but Collect(feat_keys=...) "
                f"gives feat of {channels} channels"
            )
        return batch

    def use_graphs(self, where: torch.device, layouts: Layouts | None = None) -> str | None:
        """From now on run batches of :meth:`lay_out` as CUDA graphs.

        Args:
            where: the device of the network.
            layouts: those of another network that reads the same batches, if they suit this one.

        Returns:
            None, or the reason why it cannot be done.
        """
        reason = self.why_not_graphed(where)
        if reason is None:
            self._graphed = GraphedNetwork(self, layouts or self.layouts(where))
        return reason

    def why_not_graphed(self, where: torch.device) -> str | None:
        """The reason why :meth:`use_graphs` cannot be done, or None."""
        return why_not_graphed(self, where)

    def layouts(self, where: torch.device, ignore_index: int | None = None) -> Layouts:
        """Buffers for the batches that this network reads; ``ignore_index`` is that of its criteria, if it has any."""
        if self.criteria is not None:
            ignore_index = self.criteria.ignore_index
        backbone, ignored = self.backbone, -1 if ignore_index is None else ignore_index
        return Layouts(backbone.in_channels, backbone.orders, backbone.strides, ignored, where)

    def lay_out(self, batch: Mapping[str, Tensor]) -> GridPyramid | FixedBatch:
        """The voxel grids of a batch, in buffers of fixed shapes where the network runs as graphs."""
        if self._graphed is not None:
            found = self._graphed.layouts.lay_out(self._checked(batch))
            if min(found.sizes.rows) > 1:  # a single voxel has no variance, see BatchNorm
                return found
        return self.build_pyramid(batch)

    def network(
        self,
        batch: Mapping[str, Tensor],
        pyramid: GridPyramid | FixedBatch | None = None,
        watch: int | None = None,
        guided: Sequence[int] = (),
    ) -> Output:
        """Run the network.

        Args:
            batch: ``feat`` (N, C), ``grid_coord`` (N, 3), ``offset`` (B,); ``segment`` (N,) for the criteria.
            pyramid: the batch's grids, if another network has built them.
            watch: an encoder stage, counted from the finest; its features become a leaf that asks for a
                gradient, so that a frozen network has a graph from there on and none before.
            guided: stages whose gradients of the segmentation loss will be asked for; graphs compute them along.
        """
        if pyramid is None or not self.backbone.serves(pyramid):
            pyramid = self.lay_out(batch) if self.training else self.build_pyramid(batch)
        if isinstance(pyramid, FixedBatch):
            assert self._graphed is not None
            return self._graphed(pyramid, watch, guided)
        encoded = self.backbone.encode(batch["feat"], pyramid, watch)
        logits = self.head(self.backbone.decode(encoded, pyramid))
        grids = self.backbone.stage_grids(pyramid)
        stages = [Latent(f, g) for f, g in zip(encoded.features, grids, strict=True)]
        output = Output(logits, stages)
        if self.criteria is not None and "segment" in batch:
            output.seg_loss, output.seg_terms = self.criteria(logits, batch["segment"])
        return output

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """A batch -> ``loss`` and ``losses`` where there are labels, ``seg_logits`` (N, K) in evaluation.

        Raises:
            ConfigError: in training, a batch without labels or a model without criteria.
        """
        if self.training:
            loss, terms = self._training_loss(batch)
            result: dict[str, Any] = {}
        else:
            output = self.network(batch)
            loss, terms = output.seg_loss, output.seg_terms
            result = {"seg_logits": output.logits}
        if loss is not None and terms is not None:
            result["loss"] = loss
            result["losses"] = {name: term.detach() for name, term in terms.items()}
        elif self.training:
            raise ConfigError(
                "training needs labels and criteria: give the model criteria=[...] and Collect the key 'segment'"
            )
        return result

    def _training_loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor] | None]:
        """The criteria alone: graphs then keep no gradient of logits and features."""
        pyramid = self.lay_out(batch)
        if isinstance(pyramid, FixedBatch) and self.criteria is not None and "segment" in batch:
            assert self._graphed is not None
            return self._graphed.loss(pyramid)
        output = self.network(batch, pyramid)
        return output.seg_loss, output.seg_terms


@MODELS.register_module()
class DefaultSegmentorV2(Segmentor):
    """A backbone that returns features, and a linear head.

    Args:
        num_classes: K.
        backbone_out_channels: channels of the backbone's features.
        backbone: config of the backbone.
        criteria: configs of the losses; None for a network that only predicts.
        freeze_backbone: train the head alone.

    Raises:
        ConfigError: ``backbone_out_channels`` is not what the backbone returns.
    """

    def __init__(
        self,
        num_classes: int,
        backbone_out_channels: int,
        backbone: Mapping[str, Any],
        criteria: Sequence[Mapping[str, Any]] | None = None,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__(backbone, criteria, num_classes)
        if self.backbone.out_channels != backbone_out_channels:
            raise ConfigError(
                f"got {backbone_out_channels}, but {backbone['type']} returns {self.backbone.out_channels} channels",
                "backbone_out_channels",
            )
        self.seg_head = Linear(backbone_out_channels, num_classes)
        if freeze_backbone:
            self.backbone.requires_grad_(False)

    def head(self, feat: Tensor) -> Tensor:
        return self.seg_head(feat)


@MODELS.register_module()
class DefaultSegmentor(Segmentor):
    """A backbone that returns logits itself, such as ``SpUNet-v1m1`` with ``num_classes``.

    Args:
        backbone: config of the backbone.
        criteria: configs of the losses; None for a network that only predicts.
    """

    def __init__(self, backbone: Mapping[str, Any], criteria: Sequence[Mapping[str, Any]] | None = None) -> None:
        super().__init__(backbone, criteria)
        if not self.num_classes:
            raise ConfigError(
                f"DefaultSegmentor needs a backbone with num_classes; {backbone['type']} returns features: "
                "use DefaultSegmentorV2"
            )

    def head(self, feat: Tensor) -> Tensor:
        return feat
