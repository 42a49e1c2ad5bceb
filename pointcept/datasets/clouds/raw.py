"""Headerless files of float32: KITTI's ``.bin`` (x, y, z, reflectance), nuScenes' ``.pcd.bin`` (and the ring)."""

from __future__ import annotations

import numpy as np

from pointcept.datasets.reading import read_binary

from .cloud import Cloud, CloudFile, CloudFormat, CloudOptions, column_names, of_columns

NUSCENES = ".pcd.bin"


def read(file: CloudFile, options: CloudOptions) -> Cloud:
    """Read a file of float32 numbers, ``options.columns`` for each point.

    Raises:
        DataError: the file is missing or empty, or its size is no multiple of one point.
    """
    nuscenes = file.path.name.lower().endswith(NUSCENES)
    columns = options.columns or (5 if nuscenes else 4)
    points = read_binary(file.path, np.float32, columns)
    names = column_names(columns)
    if nuscenes and columns == 5:
        names[4] = "ring"
    return of_columns(points, names)


FORMAT = CloudFormat("float32 numbers without a header", (NUSCENES, ".bin"), read)
