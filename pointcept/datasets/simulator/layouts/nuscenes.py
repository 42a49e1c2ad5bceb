"""nuScenes: JSON tables, key frames, sweeps and lidarseg labels, below ``raw/``.

The tables are those that nuscenes-devkit opens. There are no boxes (``sample_annotation`` is empty) and no images: the
cameras have records and calibrations, which the info files want, but their files are not written.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError
from pointcept.utils.files import write_text_atomic

from ...submission import write_array
from ..labels import nuscenes_ids
from ..scan import Scan, Simulator
from ..sensors import Sensor, hdl32e
from ..surfaces import Kind
from .base import Job

SWEEPS = 10
"""Sweeps from one key frame to the next: 20 Hz and 2 Hz."""

VERSIONS = {"train": "v1.0-trainval", "val": "v1.0-trainval", "test": "v1.0-test"}
_START = 1_500_000_000_000_000
# The first scenes of the official splits, so that nuscenes-devkit finds synthetic scenes under its own lists.
_OFFICIAL = {
    "train": [1, 2, *range(41, 77), *range(161, 169), *range(170, 177), *range(190, 197)],
    "val": [3, *range(12, 19), 35, 36, 38, 39, *range(92, 111)],
    "test": [*range(77, 92), *range(111, 120), 140, *range(142, 149)],
}
_BEYOND = {"train": 2000, "val": 4000, "test": 6000}
_CATEGORIES = (
    "noise", "animal", "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.stroller",
    "human.pedestrian.wheelchair", "movable_object.barrier", "movable_object.debris",
    "movable_object.pushable_pullable", "movable_object.trafficcone", "static_object.bicycle_rack", "vehicle.bicycle",
    "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.car", "vehicle.construction", "vehicle.emergency.ambulance",
    "vehicle.emergency.police", "vehicle.motorcycle", "vehicle.trailer", "vehicle.truck", "flat.driveable_surface",
    "flat.other", "flat.sidewalk", "flat.terrain", "static.manmade", "static.other", "static.vegetation", "vehicle.ego",
)  # fmt: skip
_CAMERAS = {
    "CAM_FRONT": (0.0, 1260.0), "CAM_FRONT_RIGHT": (-55.0, 1260.0), "CAM_FRONT_LEFT": (55.0, 1260.0),
    "CAM_BACK": (180.0, 800.0), "CAM_BACK_LEFT": (110.0, 1260.0), "CAM_BACK_RIGHT": (-110.0, 1260.0),
}  # fmt: skip


def token(*parts: object) -> str:
    """A token of 32 hexadecimal digits that follows from ``parts``."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def scene_name(split: str, index: int) -> str:
    """Name of a scene: official names first, then numbers that the official data set does not use."""
    official = _OFFICIAL[split]
    return f"scene-{official[index] if index < len(official) else _BEYOND[split] + index:04d}"


def quaternion(rotation: np.ndarray) -> list[float]:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix (3,3), from its largest component (Shepperd 1978)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    candidates = (
        (1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
    )
    best = max(range(4), key=lambda k: candidates[k][k])
    q = np.array(candidates[best]) / np.linalg.norm(candidates[best])
    return [float(v) for v in (q if q[0] >= 0 else -q)]


def scan_arrays(scan: Scan, sensor: Sensor, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scan as it is stored: points float32 (R,5) and raw labels uint8 (R,), a row for every ray.

    Rays without a return are kept, as in the real files: they lie a quarter of a metre to the left behind the sensor.
    """
    rays = len(sensor.directions)
    points = np.empty((rays, 5), np.float32)
    points[:, :3] = np.array([-0.06, -0.23, -0.008]) * rng.uniform(0.7, 1.3, (rays, 1))
    points[:, 3] = rng.integers(3, 30, rays)
    points[:, 4] = sensor.ring
    labels = np.full(rays, nuscenes_ids()[Kind.UNLABELED], np.uint8)
    points[scan.ray, :3] = scan.xyz
    points[scan.ray, 3] = np.round(np.clip(100 * scan.intensity**1.6, 0, 255))
    labels[scan.ray] = nuscenes_ids()[scan.kind]
    beams = len(sensor.elevations)
    order = np.arange(rays).reshape(beams, -1).T.ravel()
    return points[order], labels[order]


def _grey_png(size: int) -> bytes:
    """A grey image of size x size pixels: the map mask that every log needs."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\xff" * size) * size
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _sensor_tables(sensor: Sensor) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tables ``sensor`` and ``calibrated_sensor``: the lidar and six cameras."""
    sensors = [{"token": token("sensor", sensor.name), "channel": sensor.name, "modality": "lidar"}]
    calibrated = [
        {
            "token": token("calibrated", sensor.name),
            "sensor_token": sensors[0]["token"],
            "translation": list(sensor.mount),
            "rotation": quaternion(sensor.pose()[:3, :3]),
            "camera_intrinsic": [],
        }
    ]
    for name, (azimuth, focal) in _CAMERAS.items():
        a = np.radians(azimuth)
        forward, left = np.array([np.cos(a), np.sin(a), 0]), np.array([-np.sin(a), np.cos(a), 0])
        rotation = np.stack([-left, [0, 0, -1.0], forward], axis=1)
        sensors.append({"token": token("sensor", name), "channel": name, "modality": "camera"})
        calibrated.append(
            {
                "token": token("calibrated", name),
                "sensor_token": sensors[-1]["token"],
                "translation": [float(v) for v in np.array([0.9, 0, 1.5]) + 0.7 * forward],
                "rotation": quaternion(rotation),
                "camera_intrinsic": [[focal, 0.0, 800.0], [0.0, focal, 450.0], [0.0, 0.0, 1.0]],
            }
        )
    return sensors, calibrated


class _SceneTables:
    """Collects the records of one scene."""

    def __init__(self, job: Job) -> None:
        self.job, self.name = job, scene_name(job.split, job.index)
        self.id = (job.seed, job.split, job.index)
        self.start = _START + (("train", "val", "test").index(job.split) * 100_000 + job.index) * 1_000_000_000
        self.sample: list[dict[str, Any]] = []
        self.sample_data: list[dict[str, Any]] = []
        self.ego_pose: list[dict[str, Any]] = []
        self.lidarseg: list[dict[str, Any]] = []

    def sample_token(self, key: int) -> str:
        return token("sample", *self.id, key) if 0 <= key < self.job.frames else ""

    def data_token(self, channel: str, step: int, last: int) -> str:
        return token(channel, *self.id, step) if 0 <= step <= last else ""

    def add_data(self, channel: str, step: int, stride: int, pose: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
        """A ``sample_data`` record with its ``ego_pose``; ``step`` counts sweeps, ``stride`` is 1 or a key frame."""
        stamp = self.start + step * 50_000
        is_key = step % SWEEPS == 0
        last = (self.job.frames - 1) * SWEEPS
        lidar = channel == "LIDAR_TOP"
        pose_token = token("ego_pose", channel, *self.id, step)
        folder, kind = ("samples" if is_key else "sweeps"), ("pcd.bin" if lidar else "jpg")
        self.ego_pose.append(
            {
                "token": pose_token,
                "timestamp": stamp,
                "rotation": quaternion(pose[:3, :3]),
                "translation": pose[:3, 3].tolist(),
            }
        )
        record = {
            "token": self.data_token(channel, step, last),
            "sample_token": self.sample_token(-(-step // SWEEPS)),
            "ego_pose_token": pose_token,
            "calibrated_sensor_token": token("calibrated", channel),
            "timestamp": stamp,
            "fileformat": "pcd" if lidar else "jpg",
            "is_key_frame": is_key,
            "height": size[0],
            "width": size[1],
            "filename": f"{folder}/{channel}/synthetic-{self.job.seed}-{self.name}__{channel}__{stamp}.{kind}",
            "prev": self.data_token(channel, step - stride, last),
            "next": self.data_token(channel, step + stride, last),
        }
        self.sample_data.append(record)
        return record

    def add_sample(self, key: int) -> None:
        self.sample.append(
            {
                "token": self.sample_token(key),
                "timestamp": self.start + key * SWEEPS * 50_000,
                "prev": self.sample_token(key - 1),
                "next": self.sample_token(key + 1),
                "scene_token": token("scene", *self.id),
            }
        )

    def record(self) -> dict[str, Any]:
        """All records, by table, as JSON types."""
        log = token("log", *self.id)
        scene = {
            "token": token("scene", *self.id), "log_token": log, "nbr_samples": self.job.frames,
            "first_sample_token": self.sample_token(0), "last_sample_token": self.sample_token(self.job.frames - 1),
            "name": self.name, "description": "synthetic street",
        }  # fmt: skip
        logs = {
            "token": log, "logfile": f"synthetic-{self.name}", "vehicle": "n000", "date_captured": "2017-07-14",
            "location": "singapore-onenorth",
        }  # fmt: skip
        return {
            "scene": [scene], "log": [logs], "sample": self.sample, "sample_data": self.sample_data,
            "ego_pose": self.ego_pose, "lidarseg": self.lidarseg,
        }  # fmt: skip


class NuScenesLayout:
    """Scenes carry official names; the lists of the splits also stand in ``raw/<version>/splits.json``."""

    def check(self, scenes: dict[str, int], frames: int) -> None:
        """Refuse more scenes than there are four-digit names (raises ``ConfigError``)."""
        for split, count in scenes.items():
            if count > 2000:
                raise ConfigError(f"{split}: at most 2000 scenes, got {count}")

    def bytes_per_scene(self, frames: int) -> int:
        """About how many bytes a scene takes."""
        return (frames * SWEEPS - SWEEPS + 1) * 34_688 * 20 + frames * 34_688

    def write_scene(self, job: Job) -> dict[str, Any]:
        """Write key frames, sweeps and labels (none in the test split); return the records of the tables."""
        sensor, tables = hdl32e(), _SceneTables(job)
        simulator = Simulator(job.scene(job.frames * SWEEPS * sensor.period))
        for step in range((job.frames - 1) * SWEEPS + 1):
            time, rng = step * sensor.period, job.noise(step)
            points, labels = scan_arrays(simulator.scan(sensor, time, rng), sensor, rng)
            pose = simulator.scene.ego_pose(time)
            record = tables.add_data(sensor.name, step, 1, pose, (0, 0))
            write_array(job.out / "raw" / record["filename"], points)
            if not record["is_key_frame"]:
                continue
            tables.add_sample(step // SWEEPS)
            for camera in _CAMERAS:
                tables.add_data(camera, step, SWEEPS, pose, (900, 1600))
            if job.split != "test":
                name = f"lidarseg/{VERSIONS[job.split]}/{record['token']}_lidarseg.bin"
                write_array(job.out / "raw" / name, labels)
                tables.lidarseg.append(
                    {"token": record["token"], "sample_data_token": record["token"], "filename": name}
                )
        return tables.record()

    def finish(self, out: Path, jobs: list[Job], parts: list[dict[str, Any]]) -> None:
        """Write the tables of both versions."""
        for version in sorted({VERSIONS[job.split] for job in jobs}):
            held = [(job, part) for job, part in zip(jobs, parts, strict=True) if VERSIONS[job.split] == version]
            self._write_version(out / "raw", version, held)

    @staticmethod
    def _write_version(raw: Path, version: str, held: list[tuple[Job, dict[str, Any]]]) -> None:
        tables: dict[str, Any] = {
            name: [record for _, part in held for record in part[name]]
            for name in ("scene", "log", "sample", "sample_data", "ego_pose", "lidarseg")
        }
        if version == "v1.0-test":
            del tables["lidarseg"]
        tables["sensor"], tables["calibrated_sensor"] = _sensor_tables(hdl32e())
        tables["category"] = [
            {"token": token("category", name), "name": name, "description": "", "index": i}
            for i, name in enumerate(_CATEGORIES)
        ]
        for name in ("attribute", "visibility", "instance", "sample_annotation"):
            tables[name] = []
        mask = f"maps/{token('map')}.png"
        logs = [log["token"] for log in tables["log"]]
        tables["map"] = [{"token": token("map"), "category": "semantic_prior", "filename": mask, "log_tokens": logs}]
        write_array(raw / mask, np.frombuffer(_grey_png(64), np.uint8))
        for name, records in tables.items():
            write_text_atomic(raw / version / f"{name}.json", json.dumps(records, indent=1))
        splits: dict[str, list[str]] = {split: [] for split, of in VERSIONS.items() if of == version}
        for job, _ in held:
            splits[job.split].append(scene_name(job.split, job.index))
        write_text_atomic(raw / version / "splits.json", json.dumps(splits, indent=1))
