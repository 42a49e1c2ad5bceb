"""Waymo tfrecords: one file per scene, range images of five lasers with two returns, labels of the top laser.

Every frame is a labelled one (0.5 s apart, as the labelled frames of the real data set are); the frames of the test
split have no labels and stand in ``3d_semseg_test_set_frames.txt``, as the official list does.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError
from pointcept.utils.files import write_text_atomic

from ...preprocessing.waymo.protos import dataset_pb2, encode_matrix
from ...preprocessing.waymo.tfrecord import write_records
from ..labels import waymo_ids
from ..scan import Scan, Simulator
from ..sensors import Sensor, waymo_lasers
from .base import SPLITS, Job

FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
TEST_LIST = "3d_semseg_test_set_frames.txt"
STEP = 0.5
_START = 1_550_000_000_000_000
_TOP = 1


def encode_floats(array: np.ndarray) -> bytes:
    """Compress an array into the zlib stream of a ``MatrixFloat``.

    The same message as ``encode_matrix`` gives, but its packed values are copied and not turned into Python floats:
    a frame has five million of them.
    """
    data = np.ascontiguousarray(array, "<f4").tobytes()
    shape = dataset_pb2().MatrixFloat()
    shape.shape.dims.extend(array.shape)
    length, prefix = len(data), bytearray(b"\x0a")
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return zlib.compress(bytes(prefix) + data + shape.SerializeToString(), 1)


@lru_cache(maxsize=8)
def _no_projection(height: int, width: int) -> bytes:
    """Camera projections of a range image that no camera sees."""
    return encode_matrix(np.zeros((height, width, 6), np.int32))


def range_images(scan: Scan, sensor: Sensor, order: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Range image float32 (H,W,4) and labels int32 (H,W,2) of the first (``order`` 0) or second returns."""
    height, width = len(sensor.elevations), sensor.columns
    image = np.full((height, width, 4), -1, np.float32)
    labels = np.zeros((height, width, 2), np.int32)
    rows = np.flatnonzero(scan.order == order)
    beam, column = np.divmod(scan.ray[rows], len(sensor.azimuths))
    column = sensor.image_column[column]
    image[beam, column, 0] = scan.distance[rows]
    image[beam, column, 1] = np.round(scan.intensity[rows], 3)
    image[beam, column, 2] = np.round(rng.exponential(0.03, len(rows)), 3)
    labels[beam, column, 0] = scan.instance[rows]
    labels[beam, column, 1] = waymo_ids()[scan.kind[rows]]
    return image, labels


def pixel_poses(sensor: Sensor, pose: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Pose of the vehicle when each pixel of the top laser was measured: float32 (H,W,6), roll pitch yaw x y z."""
    values = np.empty((len(sensor.azimuths), 6), np.float64)
    values[:, 0] = np.arctan2(pose[2, 1], pose[2, 2])
    values[:, 1] = -np.arcsin(np.clip(pose[2, 0], -1, 1))
    values[:, 2] = np.arctan2(pose[1, 0], pose[0, 0])
    values[:, 3:] = pose[:3, 3] + sensor.firing_time[: len(sensor.azimuths), None] * velocity
    image = np.empty((len(sensor.elevations), sensor.columns, 6), np.float32)
    image[:, sensor.image_column] = values
    return image


def context_name(job: Job) -> str:
    """Name of the segment: nineteen digits and four times, as the official ones."""
    number = 10**18 + SPLITS.index(job.split) * 10**15 + job.index * 10**9 + job.seed % 10**9
    return f"{number}_000_000_020_000"


class WaymoLayout:
    """``{training,validation,testing}/segment-*_with_camera_labels.tfrecord``.

    Args:
        scale: factor on the columns of the range images, 1 for the official sizes.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def check(self, scenes: dict[str, int], frames: int) -> None:
        """Refuse what cannot be numbered (raises ``ConfigError``); say early that the message classes are missing."""
        dataset_pb2()
        if max(scenes.values()) > 100_000:
            raise ConfigError("at most 100000 scenes in a split")

    def bytes_per_scene(self, frames: int) -> int:
        """About how many bytes a scene takes."""
        return frames * 4_500_000

    def write_scene(self, job: Job) -> dict[str, Any]:
        """Write the segment; return its name and the timestamps of its frames."""
        sensors = waymo_lasers(self.scale)
        simulator = Simulator(job.scene(job.frames * STEP))
        name = context_name(job)
        path = job.out / FOLDERS[job.split] / f"segment-{name}_with_camera_labels.tfrecord"
        path.parent.mkdir(parents=True, exist_ok=True)
        stamps = [
            _START + (SPLITS.index(job.split) * 10**6 + job.index) * 10**9 + int(k * STEP * 1e6)
            for k in range(job.frames)
        ]
        frames = (self._frame(job, simulator, sensors, k, stamps[k], name) for k in range(job.frames))
        try:
            write_records(path, frames)
        except OSError:
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
            raise
        return {"context": name, "stamps": stamps}

    @staticmethod
    def _frame(
        job: Job, simulator: Simulator, sensors: tuple[Sensor, ...], number: int, stamp: int, name: str
    ) -> bytes:
        """One serialized ``Frame``."""
        time = number * STEP
        frame = dataset_pb2().Frame(timestamp_micros=stamp)
        frame.context.name = name
        frame.context.stats.location = "synthetic"
        pose = simulator.scene.ego_pose(time)
        frame.pose.transform.extend(pose.ravel().tolist())
        for i, sensor in enumerate(sensors, start=_TOP):
            rng = job.noise(number, i)
            scan = simulator.scan(sensor, time, rng)
            _add_calibration(frame.context, i, sensor)
            laser = frame.lasers.add(name=i)
            for order, target in enumerate((laser.ri_return1, laser.ri_return2)):
                image, labels = range_images(scan, sensor, order, rng)
                target.range_image_compressed = encode_floats(image)
                target.camera_projection_compressed = _no_projection(*image.shape[:2])
                if i == _TOP and job.split != "test":
                    target.segmentation_label_compressed = encode_matrix(labels)
            if i == _TOP:
                poses = pixel_poses(sensor, pose, simulator.velocity(time))
                laser.ri_return1.range_image_pose_compressed = encode_floats(poses)
        return frame.SerializeToString(deterministic=True)

    def finish(self, out: Path, jobs: list[Job], parts: list[dict[str, Any]]) -> None:
        """Write the list of test frames."""
        lines = [
            f"{part['context']},{stamp}\n"
            for job, part in zip(jobs, parts, strict=True)
            if job.split == "test"
            for stamp in part["stamps"]
        ]
        if lines:
            write_text_atomic(out / TEST_LIST, "".join(lines))


def _add_calibration(context: Any, name: int, sensor: Sensor) -> None:
    """The ``LaserCalibration`` of a sensor: its beams (ascending) and its pose in the vehicle frame."""
    calibration = context.laser_calibrations.add(name=name)
    calibration.extrinsic.transform.extend(sensor.pose().ravel().tolist())
    rising = sensor.elevations[::-1]
    if name == _TOP:
        calibration.beam_inclinations.extend(rising.tolist())
        calibration.beam_inclination_min, calibration.beam_inclination_max = float(rising[0]), float(rising[-1])
    else:
        half = 0.5 * float(rising[1] - rising[0])
        calibration.beam_inclination_min, calibration.beam_inclination_max = (
            float(rising[0]) - half,
            float(rising[-1]) + half,
        )
