"""Networks, losses and the distiller."""

from pointcept.models.builder import (
    MODELS,
    build_inference_model,
    build_model,
    deployable,
    fingerprint,
    inference_config,
    reseed,
    set_progress,
    use_graphs,
)
from pointcept.models.distiller import Distiller
from pointcept.models.litept import LitePT
from pointcept.models.point_transformer_v3 import PointTransformerV3
from pointcept.models.segmentor import DefaultSegmentor, DefaultSegmentorV2
from pointcept.models.sparse_unet import SpUNet
from pointcept.models.synchronized import synchronize_norms

__all__ = [
    "MODELS",
    "DefaultSegmentor",
    "DefaultSegmentorV2",
    "Distiller",
    "LitePT",
    "PointTransformerV3",
    "SpUNet",
    "build_inference_model",
    "build_model",
    "deployable",
    "fingerprint",
    "inference_config",
    "reseed",
    "set_progress",
    "synchronize_norms",
    "use_graphs",
]
