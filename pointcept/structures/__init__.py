"""A batch of voxelised scans and everything that depends on the voxels' positions alone."""

from pointcept.structures.voxel_grid import Duplicates, GridPyramid, Pooling, VoxelGrid

__all__ = ["Duplicates", "GridPyramid", "Pooling", "VoxelGrid"]
