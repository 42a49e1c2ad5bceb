"""The info of a lidar key frame: where its files are, where the vehicle was, which sweeps came before.

Keys and meanings are those of Pointcept's info files, without its boxes, which segmentation does not use. Where
Pointcept writes ``transform_matrix=None`` (the first key frame of a scene has no sweep before it and repeats itself)
the identity is written, with the poses of the frame itself; readers of either kind take both.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.datasets.preprocessing.nuscenes.tables import CAMERAS, NuScenesTables, Record, rigid_transform
from pointcept.utils.errors import DataError

logger = logging.getLogger(__name__)
Info = dict[str, Any]


def build_info(tables: NuScenesTables, sample: Record, max_sweeps: int, with_camera: bool, labelled: bool) -> Info:
    """Return the info of one sample.

    Args:
        tables: the tables.
        sample: a record of the table ``sample``.
        max_sweeps: the key frame and ``max_sweeps - 1`` sweeps before it.
        with_camera: add ``cams``, the calibration of the six cameras.
        labelled: add ``gt_segment_path``.

    Raises:
        DataError: if a record is missing.
    """
    lidar = tables.lidar_key_frame(sample["token"])
    front = tables.key_frames[sample["token"]].get(CAMERAS[0])
    info = {
        "lidar_path": lidar["filename"],
        "lidar_token": lidar["token"],
        "cam_front_path": front["filename"] if front else None,
        "cam_intrinsic": np.array(tables.calibration(front)["camera_intrinsic"]) if front else None,
        "token": sample["token"],
        "ref_from_car": rigid_transform(tables.calibration(lidar), inverse=True),
        "car_from_global": rigid_transform(tables.pose(lidar), inverse=True),
        "timestamp": 1e-6 * lidar["timestamp"],
    }
    info["sweeps"] = _sweeps(tables, lidar, info, max_sweeps - 1)
    if with_camera:
        info["cams"] = {camera: _camera(tables, sample, camera, info) for camera in CAMERAS}
    if labelled:
        if lidar["token"] not in tables.label_path:
            raise DataError(f"the table lidarseg of {tables.version} has no labels of the scan {lidar['filename']}")
        info["gt_segment_path"] = tables.label_path[lidar["token"]]
    return info


def _sweeps(tables: NuScenesTables, lidar: Record, info: Info, count: int) -> list[Info]:
    """Return exactly ``count`` sweeps before the key frame, latest first; the last one is repeated at need."""
    sweeps: list[Info] = []
    record: Record | None = lidar
    while len(sweeps) < count:
        before = tables.previous(record) if record else None
        if before is None and sweeps:
            sweeps.append(sweeps[-1])
            continue
        record = before or lidar
        global_from_car = rigid_transform(tables.pose(record))
        car_from_current = rigid_transform(tables.calibration(record))
        sweeps.append(
            {
                "lidar_path": record["filename"],
                "sample_data_token": record["token"],
                "transform_matrix": info["ref_from_car"] @ info["car_from_global"] @ global_from_car @ car_from_current,
                "global_from_car": global_from_car,
                "car_from_current": car_from_current,
                "time_lag": info["timestamp"] - 1e-6 * record["timestamp"],
            }
        )
    return sweeps


def _camera(tables: NuScenesTables, sample: Record, camera: str, info: Info) -> Info:
    """Return the calibration of one camera; ``sensor2lidar_*`` take points of the camera to the lidar key frame."""
    record = tables.key_frames[sample["token"]].get(camera)
    if record is None:
        raise DataError(f"the sample {sample['token']} has no image of {camera}, which --with_camera asks for")
    calibration, pose = tables.calibration(record), tables.pose(record)
    lidar_from_camera = (
        info["ref_from_car"] @ info["car_from_global"] @ rigid_transform(pose) @ rigid_transform(calibration)
    )
    return {
        "data_path": record["filename"],
        "type": camera,
        "sample_data_token": record["token"],
        "sensor2ego_translation": calibration["translation"],
        "sensor2ego_rotation": calibration["rotation"],
        "ego2global_translation": pose["translation"],
        "ego2global_rotation": pose["rotation"],
        "timestamp": record["timestamp"],
        "sensor2lidar_rotation": lidar_from_camera[:3, :3],
        "sensor2lidar_translation": lidar_from_camera[:3, 3],
        "camera_intrinsics": np.array(calibration["camera_intrinsic"]),
    }


def info_path(root: Path, max_sweeps: int, split: str) -> Path:
    """Return the path of an info file, ``root/info/nuscenes_infos_<max_sweeps>sweeps_<split>.pkl``."""
    return root / "info" / f"nuscenes_infos_{max_sweeps}sweeps_{split}.pkl"


def complete_scenes(root: Path, infos: list[tuple[str, Info]]) -> set[str]:
    """Return the scenes whose scans and labels are on disk.

    nuScenes is downloaded in parts: a scene without any of its key frames is left out with a warning.

    Args:
        root: the folder that the paths of the infos start from.
        infos: (name of the scene, info).

    Raises:
        DataError: a scene is there in part only, or a label file is missing, or nothing is there.
    """
    missing: dict[str, list[Path]] = {}
    present: set[str] = set()
    for scene, info in infos:
        scan = root / info["lidar_path"]
        if scan.is_file():
            present.add(scene)
        else:
            missing.setdefault(scene, []).append(scan)
    for scene in sorted(present & missing.keys()):
        raise DataError(f"{len(missing[scene])} scans of {scene} are missing, such as {missing[scene][0]}")
    if not present:
        first = next(iter(missing.values()))[0] if missing else "none"
        raise DataError(f"none of the scans that the tables list is there ({first}); is {root} the right folder?")
    if missing:
        logger.warning(
            "%d of %d scenes are left out, their scans are missing", len(missing), len(missing) + len(present)
        )
    labels = [root / info["gt_segment_path"] for scene, info in infos if scene in present and "gt_segment_path" in info]
    absent = [path for path in labels if not path.is_file()]
    if absent:
        raise DataError(f"{len(absent)} of {len(labels)} label files are missing, such as {absent[0]}")
    return present
