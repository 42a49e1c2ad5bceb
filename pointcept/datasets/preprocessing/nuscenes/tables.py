"""The JSON tables of nuScenes, as far as lidar segmentation needs them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pointcept.utils.errors import DataError

Record = dict[str, Any]
T = TypeVar("T")
LIDAR = "LIDAR_TOP"
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")


def rigid_transform(record: Record, inverse: bool = False) -> np.ndarray:
    """Return the (4, 4) float64 transform of a record's ``translation`` [m] and ``rotation`` (quaternion w, x, y, z).

    Args:
        record: an ego pose (world from car) or a calibration (car from sensor).
        inverse: return the inverse transform.

    Raises:
        DataError: if the quaternion has no length.
    """
    quaternion = np.asarray(record["rotation"], dtype=np.float64)
    length = np.linalg.norm(quaternion)
    if not length > 0:
        raise DataError(f"the record {record.get('token')} has the rotation {record['rotation']}")
    w, v = quaternion[0] / length, quaternion[1:] / length
    cross = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    rotation = np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross
    translation = np.asarray(record["translation"], dtype=np.float64)
    transform = np.eye(4)
    transform[:3, :3] = rotation.T if inverse else rotation
    transform[:3, 3] = -rotation.T @ translation if inverse else translation
    return transform


class NuScenesTables:
    """The tables of one version, indexed by token; records of sensors other than lidar and cameras are dropped."""

    def __init__(self, dataset_root: Path, version: str, labelled: bool) -> None:
        """Read the tables ``dataset_root/version/*.json``.

        Args:
            dataset_root: folder with ``samples``, ``sweeps``, ``lidarseg`` and the version folders.
            version: ``v1.0-trainval``, ``v1.0-test`` or ``v1.0-mini``.
            labelled: read the table ``lidarseg`` too.

        Raises:
            DataError: if a table is missing or is not a list of records with tokens.
        """
        self.root, self.version = dataset_root, version
        self.scene = self._read("scene")
        self.sample = self._read("sample")
        self.calibrated_sensor = self._read("calibrated_sensor")
        sensor = self._read("sensor")
        self.channel = {
            token: self.get("sensor", sensor, record["sensor_token"])["channel"]
            for token, record in self.calibrated_sensor.items()
        }
        # Sweeps of cameras and radars are nine tenths of these two tables: keep what is used.
        self.sample_data = {token: r for token, r in self._read("sample_data").items() if self._is_used(r)}
        poses = {record["ego_pose_token"] for record in self.sample_data.values()}
        self.ego_pose = {token: record for token, record in self._read("ego_pose").items() if token in poses}
        self.label_path = self._label_paths() if labelled else {}
        self.key_frames: dict[str, dict[str, Record]] = defaultdict(dict)
        for record in self.sample_data.values():
            if record["is_key_frame"]:
                self.key_frames[record["sample_token"]][self.channel_of(record)] = record

    def channel_of(self, record: Record) -> str:
        """Return the channel, such as ``LIDAR_TOP``, of a record of the table ``sample_data``."""
        return self.channel[record["calibrated_sensor_token"]]

    def calibration(self, record: Record) -> Record:
        """Return the ``calibrated_sensor`` record of a ``sample_data`` record."""
        return self.get("calibrated_sensor", self.calibrated_sensor, record["calibrated_sensor_token"])

    def pose(self, record: Record) -> Record:
        """Return the ``ego_pose`` record of a ``sample_data`` record."""
        return self.get("ego_pose", self.ego_pose, record["ego_pose_token"])

    def previous(self, record: Record) -> Record | None:
        """Return the ``sample_data`` record before this one of the same sensor, None at the start of the scene."""
        return self.get("sample_data", self.sample_data, record["prev"]) if record["prev"] else None

    def lidar_key_frame(self, sample_token: str) -> Record:
        """Return the lidar ``sample_data`` record of a sample; raises ``DataError`` if it has none."""
        try:
            return self.key_frames[sample_token][LIDAR]
        except KeyError:
            raise DataError(
                f"{self._path('sample_data')} has no {LIDAR} key frame of the sample {sample_token}"
            ) from None

    def get(self, name: str, table: dict[str, T], token: str) -> T:
        """Look a token up; raises ``DataError`` naming table and token if it is not there."""
        try:
            return table[token]
        except KeyError:
            raise DataError(f"{self._path(name)} has no record {token!r}, which another table refers to") from None

    def _path(self, name: str) -> Path:
        return self.root / self.version / f"{name}.json"

    def _read(self, name: str) -> dict[str, Record]:
        path = self._path(name)
        try:
            records = json.loads(path.read_bytes())
            return {record["token"]: record for record in records}
        except FileNotFoundError:
            raise DataError(
                f"the table {path} is missing; unpack the metadata of {self.version} into {self.root}"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is not a nuScenes table: {error!r}") from error

    def _is_used(self, record: Record) -> bool:
        channel = self.channel_of(record)
        return channel == LIDAR or (channel in CAMERAS and bool(record["is_key_frame"]))

    def _label_paths(self) -> dict[str, str]:
        """Map the token of a labelled lidar scan to the path of its label file below the root."""
        path = self._path("lidarseg")
        if not path.is_file():
            raise DataError(f"the table {path} is missing; unpack nuScenes-lidarseg of {self.version} into {self.root}")
        return {record["sample_data_token"]: record["filename"] for record in self._read("lidarseg").values()}
