"""Losses: importing this package registers them."""

from pointcept.models.losses.builder import DISTILL_LOSSES, LOSSES, Criteria, build_criteria
from pointcept.models.losses.cross_entropy import CrossEntropyLoss, SmoothCELoss
from pointcept.models.losses.dice import DiceLoss
from pointcept.models.losses.distill import (
    AffinityLoss,
    AttentionTransferLoss,
    DKDLoss,
    FeatureMatchingLoss,
    GradGuidedLoss,
    KLDLoss,
    RTDLiteLoss,
    SimilarityLoss,
    TopoLoss,
)
from pointcept.models.losses.focal import FocalLoss
from pointcept.models.losses.lovasz import LovaszLoss

__all__ = [
    "DISTILL_LOSSES",
    "LOSSES",
    "AffinityLoss",
    "AttentionTransferLoss",
    "Criteria",
    "CrossEntropyLoss",
    "DKDLoss",
    "DiceLoss",
    "FeatureMatchingLoss",
    "FocalLoss",
    "GradGuidedLoss",
    "KLDLoss",
    "LovaszLoss",
    "RTDLiteLoss",
    "SimilarityLoss",
    "SmoothCELoss",
    "TopoLoss",
    "build_criteria",
]
