"""Networks, losses and the distiller."""

from pointcept.models.builder import (
    MODELS,
    build_inference_model,
    build_model,
    deployable,
    fingerprint,
    set_progress,
    use_graphs,
)
from pointcept.models.distiller import Distiller
from pointcept.models.point_transformer_v3 import PointTransformerV3
from pointcept.models.segmentor import DefaultSegmentor, DefaultSegmentorV2
from pointcept.models.sparse_unet import SpUNet

__all__ = [
    "MODELS",
    "DefaultSegmentor",
    "DefaultSegmentorV2",
    "Distiller",
    "PointTransformerV3",
    "SpUNet",
    "build_inference_model",
    "build_model",
    "deployable",
    "fingerprint",
    "set_progress",
    "use_graphs",
]
