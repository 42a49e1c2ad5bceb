"""Point Transformer V3 (Wu et al., CVPR 2024, arXiv 2312.10035)."""

from pointcept.models.point_transformer_v3.backbone import PointTransformerV3

__all__ = ["PointTransformerV3"]
