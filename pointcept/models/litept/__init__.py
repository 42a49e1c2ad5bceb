"""LitePT (arXiv 2512.13689): convolutions where the grid is fine, attention where it is coarse."""

from pointcept.models.litept.backbone import LitePT

__all__ = ["LitePT"]
