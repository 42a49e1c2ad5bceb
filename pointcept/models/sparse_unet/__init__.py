"""A residual U-Net of submanifold sparse convolutions."""

from pointcept.models.sparse_unet.backbone import SpUNet

__all__ = ["SpUNet"]
