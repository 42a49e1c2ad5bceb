"""Data sets, transforms and collation.

Importing this package registers every data set and transform.
"""

from . import transform
from .base import BaseDataset, Draw
from .builder import DATASETS, TRANSFORMS, build_dataset
from .collate import collate_fn, point_collate_fn
from .concat import ConcatDataset
from .nuscenes import NuScenesDataset
from .semantic_kitti import SemanticKITTIDataset
from .transform import Compose
from .waymo import WaymoDataset

__all__ = [
    "DATASETS",
    "TRANSFORMS",
    "BaseDataset",
    "Compose",
    "ConcatDataset",
    "Draw",
    "NuScenesDataset",
    "SemanticKITTIDataset",
    "WaymoDataset",
    "build_dataset",
    "collate_fn",
    "point_collate_fn",
    "transform",
]
