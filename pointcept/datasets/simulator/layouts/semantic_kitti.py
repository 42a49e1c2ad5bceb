"""SemanticKITTI folders: ``dataset/sequences/XX/{velodyne,labels}``, calibration, poses and times."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError
from pointcept.utils.files import write_text_atomic

from ...semantic_kitti import SEQUENCES
from ...submission import write_array
from ..labels import UNLABELED, semantic_kitti_ids
from ..scan import Scan, Simulator
from ..sensors import hdl64e
from .base import Job

LABELLED_RANGE = 50.0
"""Points farther away than this [m] are unlabeled, as in the real data set."""

PERIOD = 0.1
_CAMERA_FROM_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1.0]])


def scan_arrays(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """A scan as it is stored: points float32 (N,4) and labels uint32 (N,) with the instance in the high half."""
    points = np.empty((len(scan.xyz), 4), np.float32)
    points[:, :3] = np.round(scan.xyz, 3)
    points[:, 3] = np.round(np.clip(scan.intensity, 0, 0.99), 2)
    semantic = semantic_kitti_ids()[scan.moving.astype(np.intp), scan.kind]
    semantic[np.linalg.norm(scan.xyz, axis=1) > LABELLED_RANGE] = UNLABELED
    instance = np.where(semantic == UNLABELED, 0, scan.instance).astype(np.uint32)
    return points, semantic | instance << np.uint32(16)


def _calibration() -> str:
    lines = []
    for camera in range(4):
        baseline = 0.54 * (camera % 2)
        lines.append(
            f"P{camera}: " + " ".join(f"{v:.12e}" for v in (720, 0, 610, -720 * baseline, 0, 720, 180, 0, 0, 0, 1, 0))
        )
    return "\n".join([*lines, "Tr: " + " ".join(f"{v:.12e}" for v in _CAMERA_FROM_LIDAR[:3].ravel())]) + "\n"


class SemanticKITTILayout:
    """Scene i of a split goes to its i-th official sequence; with more scenes than sequences they follow each other."""

    def check(self, scenes: dict[str, int], frames: int) -> None:
        """Refuse more frames than six digits can number (raises ``ConfigError``)."""
        for split, count in scenes.items():
            if -(-count // len(SEQUENCES[split])) * frames > 999_999:
                raise ConfigError(
                    f"{split}: {count} scenes of {frames} frames do not fit into frame numbers of 6 digits"
                )

    def bytes_per_scene(self, frames: int) -> int:
        """About how many bytes a scene takes: 120 000 points of 20 bytes in each frame."""
        return frames * 120_000 * 20

    @staticmethod
    def _place(job: Job) -> tuple[Path, int]:
        numbers = SEQUENCES[job.split]
        folder = job.out / "dataset" / "sequences" / f"{numbers[job.index % len(numbers)]:02d}"
        return folder, job.index // len(numbers) * job.frames

    def write_scene(self, job: Job) -> dict[str, Any]:
        """Write scans and labels (none in the test split); return the poses of the scanner."""
        sensor = hdl64e()
        simulator = Simulator(job.scene(job.frames * PERIOD))
        folder, first = self._place(job)
        poses = []
        for frame in range(job.frames):
            scan = simulator.scan(sensor, frame * PERIOD, job.noise(frame))
            points, labels = scan_arrays(scan)
            write_array(folder / "velodyne" / f"{first + frame:06d}.bin", points)
            if job.split != "test":
                write_array(folder / "labels" / f"{first + frame:06d}.label", labels)
            poses.append(scan.pose.tolist())
        return {"poses": poses}

    def finish(self, out: Path, jobs: list[Job], parts: list[dict[str, Any]]) -> None:
        """Write ``calib.txt``, ``poses.txt`` (camera 0, relative to the first frame) and ``times.txt``."""
        by_folder: dict[Path, list[tuple[int, list[Any]]]] = defaultdict(list)
        for job, part in zip(jobs, parts, strict=True):
            folder, first = self._place(job)
            by_folder[folder].append((first, part["poses"]))
        for folder, pieces in by_folder.items():
            poses = np.array([pose for _, piece in sorted(pieces) for pose in piece])
            relative = np.linalg.inv(poses[0]) @ poses
            camera = _CAMERA_FROM_LIDAR @ relative @ np.linalg.inv(_CAMERA_FROM_LIDAR)
            rows = [" ".join(f"{v:.9e}" for v in pose[:3].ravel()) for pose in camera]
            write_text_atomic(folder / "poses.txt", "\n".join(rows) + "\n")
            write_text_atomic(folder / "times.txt", "".join(f"{i * PERIOD:.6e}\n" for i in range(len(rows))))
            write_text_atomic(folder / "calib.txt", _calibration())
