"""Transforms: callables on the sample dict, registered under the names that Pointcept's configs use."""

from .compose import Compose, build_transform
from .formatting import Collect, Copy, ToTensor, Update
from .geometry import (
    CenterShift,
    ElasticDistortion,
    PointClip,
    RandomFlip,
    RandomJitter,
    RandomRotate,
    RandomRotateTargetAngle,
    RandomScale,
    RandomShift,
)
from .instances import InstancePaste
from .mixing import LaserMix, MixTransform, PolarMix, Scanner, concat_scans
from .points import add_point_keys, child_generator, point_keys, select_points
from .sampling import GridSample, RandomDropout, ShufflePoint, SphereCrop

__all__ = [
    "CenterShift",
    "Collect",
    "Compose",
    "Copy",
    "ElasticDistortion",
    "GridSample",
    "InstancePaste",
    "LaserMix",
    "MixTransform",
    "PointClip",
    "PolarMix",
    "RandomDropout",
    "RandomFlip",
    "RandomJitter",
    "RandomRotate",
    "RandomRotateTargetAngle",
    "RandomScale",
    "RandomShift",
    "Scanner",
    "ShufflePoint",
    "SphereCrop",
    "ToTensor",
    "Update",
    "add_point_keys",
    "build_transform",
    "child_generator",
    "concat_scans",
    "point_keys",
    "select_points",
]
