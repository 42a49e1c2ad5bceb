"""The three official layouts on disk, by name."""

from __future__ import annotations

from .base import Job, Layout
from .nuscenes import NuScenesLayout
from .semantic_kitti import SemanticKITTILayout
from .waymo import WaymoLayout

LAYOUTS: dict[str, Layout] = {
    "semantic_kitti": SemanticKITTILayout(),
    "nuscenes": NuScenesLayout(),
    "waymo": WaymoLayout(),
}

__all__ = ["LAYOUTS", "Job", "Layout"]
