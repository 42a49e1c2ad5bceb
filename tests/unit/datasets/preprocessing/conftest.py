"""A tiny nuScenes in the official layout: every table, random scans, a moving vehicle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CATEGORIES = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
SENSORS = ("LIDAR_TOP", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
KEY_FRAMES, STEP, POINTS = 3, 2, 60  # per scene: key frames, lidar scans per key frame; points per scan


def quaternion(rng: np.random.Generator) -> list[float]:
    q = rng.normal(size=4)
    return (q / np.linalg.norm(q)).tolist()


class TinyNuScenes:
    """Builds the tables of one version; scene names decide the split."""

    def __init__(self, root: Path, version: str, scenes: tuple[str, ...], cameras: bool) -> None:
        self.root, self.version = root, version
        self.sensors = SENSORS if cameras else SENSORS[:1]
        self.rng = np.random.default_rng(5)
        names = "attribute visibility instance sample_annotation scene sample sample_data ego_pose lidarseg"
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in names.split()}
        self.tables["category"] = [
            {"token": f"category{i}", "name": name, "description": "", "index": i} for i, name in enumerate(CATEGORIES)
        ]
        self.tables["sensor"] = [
            {"token": f"sensor{c}", "channel": c, "modality": "lidar" if "LIDAR" in c else "camera"}
            for c in self.sensors
        ]
        self.tables["log"] = [
            {"token": "log0", "logfile": "l", "vehicle": "v", "date_captured": "2018-01-01", "location": "l"}
        ]
        self.tables["map"] = [
            {"token": "map0", "category": "semantic_prior", "filename": "maps/m.png", "log_tokens": ["log0"]}
        ]
        self.tables["calibrated_sensor"] = [
            {
                "token": f"calibrated{channel}",
                "sensor_token": f"sensor{channel}",
                "translation": self.rng.normal(size=3).tolist(),
                "rotation": quaternion(self.rng),
                "camera_intrinsic": [] if "LIDAR" in channel else [[1200.0, 0, 800], [0, 1200, 450], [0, 0, 1]],
            }
            for channel in self.sensors
        ]
        for number, name in enumerate(scenes):
            self.add_scene(number, name)
        (root / "maps").mkdir(parents=True, exist_ok=True)
        (root / "maps" / "m.png").touch()
        (root / version).mkdir()
        for table, records in self.tables.items():
            if table != "lidarseg" or version != "v1.0-test":
                (root / version / f"{table}.json").write_text(json.dumps(records))

    def add_scene(self, number: int, name: str) -> None:
        key = [f"sample{self.version[5:]}s{number}k{k}" for k in range(KEY_FRAMES)]
        self.tables["scene"].append(
            {
                "token": f"scene{number}",
                "log_token": "log0",
                "nbr_samples": KEY_FRAMES,
                "first_sample_token": key[0],
                "last_sample_token": key[-1],
                "name": name,
                "description": "",
            }
        )
        for k, token in enumerate(key):
            links = {"prev": key[k - 1] if k else "", "next": key[k + 1] if k + 1 < KEY_FRAMES else ""}
            stamp = 1_500_000_000_000_000 + 100_000_000 * number + 500_000 * k
            self.tables["sample"].append({"token": token, "timestamp": stamp, "scene_token": f"scene{number}", **links})
        for channel in self.sensors:
            # The lidar has scans between the key frames, and none before the first.
            step = STEP if channel == "LIDAR_TOP" else 1
            chain = [f"{channel}{self.version[5:]}s{number}d{d}" for d in range((KEY_FRAMES - 1) * step + 1)]
            for d, token in enumerate(chain):
                links = (chain[d - 1] if d else "", chain[d + 1] if d + 1 < len(chain) else "")
                self.add_data(
                    channel, token, key[(d + step - 1) // step], d % step == 0, number, d * 500_000 // step, links
                )

    def add_data(
        self, channel: str, token: str, sample: str, is_key: bool, scene: int, time: int, links: tuple[str, str]
    ) -> None:
        stamp = 1_500_000_000_000_000 + 100_000_000 * scene + time
        suffix = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
        path = f"{'samples' if is_key else 'sweeps'}/{channel}/n__{token}__{stamp}.{suffix}"
        self.tables["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": f"pose{token}",
                "calibrated_sensor_token": f"calibrated{channel}",
                "timestamp": stamp,
                "fileformat": suffix[:3],
                "is_key_frame": is_key,
                "height": 0,
                "width": 0,
                "filename": path,
                "prev": links[0],
                "next": links[1],
            }
        )
        translation = [10 * scene + time * 1e-5, *self.rng.normal(size=2).tolist()]
        self.tables["ego_pose"].append(
            {"token": f"pose{token}", "timestamp": stamp, "translation": translation, "rotation": quaternion(self.rng)}
        )
        if channel != "LIDAR_TOP":
            return
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        points = self.rng.uniform(-30, 30, (POINTS, 5)).astype(np.float32)
        points[:, 3] = self.rng.integers(0, 256, POINTS)
        points.tofile(self.root / path)
        if is_key and self.version != "v1.0-test":
            label = Path("lidarseg") / self.version / f"{token}_lidarseg.bin"
            (self.root / label).parent.mkdir(parents=True, exist_ok=True)
            self.rng.integers(0, 32, POINTS).astype(np.uint8).tofile(self.root / label)
            self.tables["lidarseg"].append({"token": token, "sample_data_token": token, "filename": str(label)})


@pytest.fixture
def tiny_nuscenes(tmp_path: Path) -> Callable[..., TinyNuScenes]:
    """Function that writes one version below ``tmp_path/nuscenes/raw``."""

    def build(
        version: str = "v1.0-mini", scenes: tuple[str, ...] = ("scene-0061", "scene-0103"), cameras: bool = False
    ) -> TinyNuScenes:
        return TinyNuScenes(tmp_path / "nuscenes" / "raw", version, scenes, cameras)

    return build
