"""Waymo range images to points: five lasers, two returns, one pose per pixel for the top laser.

A pixel (row, column) of a laser's range image looks along the inclination of its row and an azimuth that falls from
+pi at the left edge to -pi at the right one, relative to the heading of the laser in the vehicle. The top laser
turns while the vehicle moves: its pixels carry their own vehicle pose in the world, from which the points are taken
back into the vehicle frame of the frame's single pose. All of this in float64; the points are returned as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pointcept.datasets.preprocessing.waymo.protos import dataset_pb2, decode_matrix
from pointcept.utils.errors import DataError

RETURNS = (1, 2)
LASERS = {1: "TOP", 2: "FRONT", 3: "SIDE_LEFT", 4: "SIDE_RIGHT", 5: "REAR"}
TOP = 1


@dataclass(frozen=True)
class FramePoints:
    """The N points of a frame: the first returns of the lasers 1 to 5, then the second returns of the lasers 1 to 5.

    Attributes:
        coord: (N, 3) float32, metres in the vehicle frame.
        polar: (N, 3) float32, range in metres, intensity, elongation.
        semantic: (N,) uint8, 0 undefined, 1-22 the official classes; None if the frame has no labels.
        masks: ``TOP_1`` ... ``REAR_2`` -> (H, W) bool, which pixels gave the points, in the order of the points and
            row by row.
    """

    coord: np.ndarray
    polar: np.ndarray
    semantic: np.ndarray | None
    masks: dict[str, np.ndarray]


def rotation_from_roll_pitch_yaw(angles: np.ndarray) -> np.ndarray:
    """Return the (N, 3, 3) rotations Rz(yaw) Ry(pitch) Rx(roll) of (N, 3) roll, pitch, yaw in radians."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles).T, np.cos(angles).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def beam_inclinations(calibration: Any, height: int) -> np.ndarray:
    """Return the (height,) inclinations in radians of the rows of a range image, from the highest beam down.

    Raises:
        DataError: if the calibration lists another number of beams than the image has rows.
    """
    listed = np.array(calibration.beam_inclinations, dtype=np.float64)
    if listed.size == 0:
        low, high = calibration.beam_inclination_min, calibration.beam_inclination_max
        listed = low + (np.arange(height) + 0.5) / height * (high - low)
    if listed.size != height:
        raise DataError(f"the range image has {height} rows but the calibration lists {listed.size} beams")
    return listed[::-1]


def pixels_to_vehicle(
    distance: np.ndarray,
    valid: np.ndarray,
    calibration: Any,
    pixel_pose: np.ndarray | None,
    frame_pose: np.ndarray,
) -> np.ndarray:
    """Turn the valid pixels of one range image into points.

    Args:
        distance: (H, W) metres.
        valid: (H, W) bool, n of them true.
        calibration: the official ``LaserCalibration`` of the laser.
        pixel_pose: (H, W, 6) roll, pitch, yaw, x, y, z of the vehicle in the world per pixel, or None.
        frame_pose: (4, 4) pose of the vehicle in the world for the whole frame.

    Returns:
        (n, 3) float64, metres in the vehicle frame, row by row.
    """
    height, width = distance.shape
    extrinsic = matrix4(calibration.extrinsic.transform, "the extrinsic of a laser")
    row, column = np.nonzero(valid)
    inclination = beam_inclinations(calibration, height)[row]
    heading = np.arctan2(extrinsic[1, 0], extrinsic[0, 0])
    azimuth = (2.0 * (width - column - 0.5) / width - 1.0) * np.pi - heading
    level = np.cos(inclination)
    direction = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(inclination)], axis=-1)
    points = (direction * distance[row, column, None].astype(np.float64)) @ extrinsic[:3, :3].T + extrinsic[:3, 3]
    if pixel_pose is None:
        return points
    pose = pixel_pose[row, column].astype(np.float64)
    world = np.einsum("nij,nj->ni", rotation_from_roll_pitch_yaw(pose[:, :3]), points) + pose[:, 3:]
    vehicle_from_world = np.linalg.inv(frame_pose)
    return world @ vehicle_from_world[:3, :3].T + vehicle_from_world[:3, 3]


def matrix4(values: Any, what: str) -> np.ndarray:
    """Return the 16 ``values`` as a (4, 4) float64 matrix; raises ``DataError`` for another number of them."""
    array = np.array(values, dtype=np.float64)
    if array.size != 16:
        raise DataError(f"{what} has {array.size} values, expected 16")
    return array.reshape(4, 4)


def has_labels(frame: Any) -> bool:
    """Say whether the top laser of an official ``Frame`` carries segmentation labels."""
    return any(laser.name == TOP and laser.ri_return1.segmentation_label_compressed for laser in frame.lasers)


def frame_to_points(frame: Any) -> FramePoints:
    """Return all points of an official ``Frame`` with their labels, if it has labels.

    Raises:
        DataError: if a laser, a return, a calibration or the pixel poses are missing or do not fit together.
    """
    lasers = {laser.name: laser for laser in frame.lasers}
    calibrations = {calibration.name: calibration for calibration in frame.context.laser_calibrations}
    for held, where in ((lasers, "data"), (calibrations, "a calibration")):
        missing = [name for number, name in LASERS.items() if number not in held]
        if missing:
            raise DataError(f"the frame has no {where} for the laser(s) {', '.join(missing)}")
    labelled = has_labels(frame)
    frame_pose = matrix4(frame.pose.transform, "the pose of the frame")
    # The poses of the pixels are stored once, with the first return, and hold for both.
    pixel_pose = _pixel_pose(lasers[TOP].ri_return1)

    coord, polar, semantic, masks = [], [], [], {}
    for number in RETURNS:
        for laser, name in LASERS.items():
            image = getattr(lasers[laser], f"ri_return{number}")
            what = f"range image of {name}, return {number}"
            values = _range_image(image, what)
            valid = values[..., 0] > 0
            pose = pixel_pose if laser == TOP else None
            if pose is not None and pose.shape[:2] != valid.shape:
                raise DataError(f"{what} has the size {valid.shape} but its pixel poses {pose.shape[:2]}")
            coord.append(pixels_to_vehicle(values[..., 0], valid, calibrations[laser], pose, frame_pose))
            polar.append(values[valid][:, :3])
            semantic.append(_semantic(image, valid, what))
            masks[f"{name}_{number}"] = valid
    return FramePoints(
        coord=np.concatenate(coord).astype(np.float32),
        polar=np.concatenate(polar),
        semantic=np.concatenate(semantic) if labelled else None,
        masks=masks,
    )


def _range_image(image: Any, what: str) -> np.ndarray:
    """Return the (H, W, C >= 3) float32 range image."""
    if not image.range_image_compressed:
        raise DataError(f"{what} is empty")
    values = decode_matrix(image.range_image_compressed, dataset_pb2().MatrixFloat(), what)
    if values.ndim != 3 or values.shape[2] < 3:
        raise DataError(f"{what} has the shape {values.shape}, expected (H, W, 4)")
    return values


def _pixel_pose(image: Any) -> np.ndarray:
    """Return the (H, W, 6) float32 pixel poses of the top laser."""
    what = "pixel poses of TOP"
    if not image.range_image_pose_compressed:
        raise DataError(f"{what} are empty")
    pose = decode_matrix(image.range_image_pose_compressed, dataset_pb2().MatrixFloat(), what)
    if pose.ndim != 3 or pose.shape[2] != 6:
        raise DataError(f"{what} have the shape {pose.shape}, expected (H, W, 6)")
    return pose


def _semantic(image: Any, valid: np.ndarray, what: str) -> np.ndarray:
    """Return the (n,) uint8 classes of the n valid pixels; 0 for a laser or return without labels."""
    if not image.segmentation_label_compressed:
        return np.zeros(np.count_nonzero(valid), dtype=np.uint8)
    labels = decode_matrix(image.segmentation_label_compressed, dataset_pb2().MatrixInt32(), f"labels of the {what}")
    if labels.shape != (*valid.shape, 2):
        raise DataError(f"labels of the {what} have the shape {labels.shape}, expected {(*valid.shape, 2)}")
    classes = labels[..., 1][valid]
    if classes.size and (classes.min() < 0 or classes.max() > 22):
        raise DataError(f"labels of the {what} span {classes.min()} to {classes.max()}, expected 0 to 22")
    return classes.astype(np.uint8)
