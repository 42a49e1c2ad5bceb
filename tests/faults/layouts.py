"""Tiny data in the layouts of nuScenes and Waymo, as their preprocessing leaves them, and configs to train on them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.stage import Stage
from tests.faults.world import NETWORK
from tests.paths import CONFIGS

SCANS = {"train": 3, "val": 2}
WAYMO_SPLITS = {"train": "training", "val": "validation"}
CONFIG = """
_base_ = [
    "{configs}/_base_/runtime_cpu.py", "{configs}/_base_/datasets/{layout}.py",
    "{configs}/_base_/models/ptv3_small_student.py", "{configs}/_base_/schedules/smoke.py",
]
data_root = {root!r}
epoch = eval_epoch = batch_size = log_freq = 1
num_worker = 0
seed = 3
model = dict({{{{_base_.student}}}}, num_classes={{{{_base_.num_classes}}}})
data = dict(test=dict(test_cfg=dict(aug_transform=[[]])))
"""


def write_nuscenes(root: Path) -> None:
    """Info files of ten sweeps, and a scan with labels for each of their entries."""
    random = np.random.default_rng(1)
    (root / "info").mkdir(parents=True)
    (root / "raw" / "samples").mkdir(parents=True)
    (root / "raw" / "lidarseg").mkdir()
    for split, scans in SCANS.items():
        infos = [nuscenes_info(f"{split}{number}") for number in range(scans)]
        write_infos(root, infos, split)
        for info in infos:
            points = random.uniform((-1, -1, -1, 0, 0), (1, 1, 1, 255, 31), (60, 5)).astype(np.float32)
            points.tofile(root / "raw" / info["lidar_path"])
            random.integers(0, 32, 60).astype(np.uint8).tofile(root / "raw" / info["gt_segment_path"])


def nuscenes_info(token: str) -> dict[str, Any]:
    """The entry of one scan: the first of its scene, which repeats itself as its sweeps."""
    path = f"samples/{token}.pcd.bin"
    sweep = {"lidar_path": path, "sample_data_token": token, "transform_matrix": None, "time_lag": 0}
    labels = f"lidarseg/{token}_lidarseg.bin"
    return {"lidar_path": path, "lidar_token": token, "token": token, "sweeps": [sweep] * 9, "gt_segment_path": labels}


def write_infos(root: Path, infos: Any, split: str = "train") -> None:
    """An info file with anything in it."""
    (root / "info" / f"nuscenes_infos_10sweeps_{split}.pkl").write_bytes(pickle.dumps(infos))


def write_waymo(root: Path) -> None:
    """One converted segment for each split."""
    random = np.random.default_rng(2)
    for split, scans in SCANS.items():
        segment = root / WAYMO_SPLITS[split] / "segment-1_with_camera_labels"
        for number in range(scans):
            frame = segment / str(1000 + number)
            frame.mkdir(parents=True)
            np.save(frame / "coord.npy", random.uniform(-1, 1, (60, 3)).astype(np.float32))
            np.save(frame / "strength.npy", random.uniform(0, 1, (60, 1)).astype(np.float32))
            np.save(frame / "segment.npy", random.integers(-1, 22, 60))
            np.save(frame / "pose.npy", np.eye(4, dtype=np.float32))
        (segment / ".complete").write_text("{}")


WRITERS = {"nuscenes": write_nuscenes, "waymo": write_waymo}


def train_on(stage: Stage, layout: str, *options: str) -> None:
    """Train on the data of ``layout`` in the case's folder ``data``."""
    base, config = stage.folder / "base.py", stage.folder / f"{layout}.py"
    base.write_text(CONFIG.format(configs=CONFIGS, layout=layout, root=str(stage.folder / "data")))
    config.write_text(f"_base_ = ['base.py']\n{NETWORK}model = _network\n")
    stage.call("train", "--config", str(config), "--options", f"save_path={stage.run}", *options)
