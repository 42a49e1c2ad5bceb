"""Losses between a student and its teacher: importing this package registers them."""

from pointcept.models.losses.distill.affinity import AffinityLoss
from pointcept.models.losses.distill.attention import AttentionTransferLoss
from pointcept.models.losses.distill.dkd import DKDLoss
from pointcept.models.losses.distill.feature_matching import FeatureMatchingLoss
from pointcept.models.losses.distill.grad_guided import GradGuidedLoss
from pointcept.models.losses.distill.kld import KLDLoss
from pointcept.models.losses.distill.rtd import RTDLiteLoss
from pointcept.models.losses.distill.similarity import SimilarityLoss
from pointcept.models.losses.distill.topo import TopoLoss

__all__ = [
    "AffinityLoss",
    "AttentionTransferLoss",
    "DKDLoss",
    "FeatureMatchingLoss",
    "GradGuidedLoss",
    "KLDLoss",
    "RTDLiteLoss",
    "SimilarityLoss",
    "TopoLoss",
]
