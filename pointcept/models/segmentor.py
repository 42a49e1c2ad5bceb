"""Segmentation networks: a backbone, a head and the criteria that it is trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pointcept.models.builder import MODELS
from pointcept.models.losses import build_criteria
from pointcept.models.output import Latent, Output
from pointcept.structures import GridPyramid
from pointcept.utils.errors import ConfigError


class Segmentor(nn.Module):
    """What the segmentors have in common: batch -> grids -> encoder -> decoder -> logits -> losses."""

    num_classes: int

    def __init__(self, backbone: Mapping[str, Any], criteria: Sequence[Mapping[str, Any]] | None) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.criteria = build_criteria(criteria) if criteria else None

    def head(self, feat: Tensor) -> Tensor:
        """Features of the decoder (N, C) -> logits (N, K)."""
        raise NotImplementedError

    def build_pyramid(self, batch: Mapping[str, Tensor]) -> GridPyramid:
        """The voxel grids of a batch.

        Raises:
            ConfigError: ``feat`` has other channels than the backbone expects.
        """
        channels = batch["feat"].shape[1]
        if channels != self.backbone.in_channels:
            raise ConfigError(
                f"the backbone has in_channels={self.backbone.in_channels}, but Collect(feat_keys=...) "
                f"gives feat of {channels} channels"
            )
        return self.backbone.build_pyramid(batch["grid_coord"], batch["offset"])

    def network(
        self, batch: Mapping[str, Tensor], pyramid: GridPyramid | None = None, watch: int | None = None
    ) -> Output:
        """Run the network.

        Args:
            batch: ``feat`` (N, C), ``grid_coord`` (N, 3), ``offset`` (B,); ``segment`` (N,) for the criteria.
            pyramid: the batch's grids, if another network has built them.
            watch: an encoder stage, counted from the finest; its features become a leaf that asks for a
                gradient, so that a frozen network has a graph from there on and none before.
        """
        if pyramid is None or not self.backbone.serves(pyramid):
            pyramid = self.build_pyramid(batch)
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
        output = self.network(batch)
        result: dict[str, Any] = {} if self.training else {"seg_logits": output.logits}
        if output.seg_loss is not None and output.seg_terms is not None:
            result["loss"] = output.seg_loss
            result["losses"] = {name: term.detach() for name, term in output.seg_terms.items()}
        elif self.training:
            raise ConfigError(
                "training needs labels and criteria: give the model criteria=[...] and Collect the key 'segment'"
            )
        return result


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
        super().__init__(backbone, criteria)
        if self.backbone.out_channels != backbone_out_channels:
            raise ConfigError(
                f"backbone_out_channels={backbone_out_channels}, but {backbone['type']} returns "
                f"{self.backbone.out_channels} channels"
            )
        self.num_classes = num_classes
        self.seg_head = nn.Linear(backbone_out_channels, num_classes)
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
        self.num_classes = getattr(self.backbone, "num_classes", 0)
        if not self.num_classes:
            raise ConfigError(
                f"DefaultSegmentor needs a backbone with num_classes; {backbone['type']} returns features: "
                "use DefaultSegmentorV2"
            )

    def head(self, feat: Tensor) -> Tensor:
        return feat
