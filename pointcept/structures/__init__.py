"""A batch of voxelised scans and everything that depends on the voxels' positions alone."""

from pointcept.structures.fixed_pyramid import Capacities, FixedPyramid, FixedView, has_room, room_for, room_for_coarse
from pointcept.structures.octree_plan import Sizes, Survey, level_shifts, read_report, survey
from pointcept.structures.voxel_grid import Duplicates, GridPyramid, Pooling, VoxelGrid

__all__ = [
    "Capacities",
    "Duplicates",
    "FixedPyramid",
    "FixedView",
    "GridPyramid",
    "Pooling",
    "Sizes",
    "Survey",
    "VoxelGrid",
    "has_room",
    "level_shifts",
    "read_report",
    "room_for",
    "room_for_coarse",
    "survey",
]
