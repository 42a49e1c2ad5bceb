"""nuScenes lidarseg (Fong et al., RA-L 2022): class map, reading, sweeps, submission."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pointcept.utils.checks import check_integer, refused
from pointcept.utils.errors import DataError

from .base import BaseDataset
from .builder import DATASETS
from .preprocessing.nuscenes.info import info_path
from .reading import UNKNOWN, check_learning_map, finite_rows, map_labels, read_binary
from .safe_pickle import load_plain_pickle
from .submission import check_prediction, write_array
from .transform.mixing import Scanner
from .transform.points import Sample, add_point_keys

CLASSES: dict[str, tuple[int, ...]] = {
    "barrier": (9,),
    "bicycle": (14,),
    "bus": (15, 16),
    "car": (17,),
    "construction_vehicle": (18,),
    "motorcycle": (21,),
    "pedestrian": (2, 3, 4, 6),
    "traffic_cone": (12,),
    "trailer": (22,),
    "truck": (23,),
    "driveable_surface": (24,),
    "other_flat": (25,),
    "sidewalk": (26,),
    "terrain": (27,),
    "manmade": (28,),
    "vegetation": (30,),
}
"""Class -> its raw ids. The order is that of the class indices; the other raw ids below 32 are ignored."""

NUM_RAW = 32
"""Number of raw ids of nuScenes lidarseg."""

COLUMNS = 5
"""Numbers per point of a scan file, float32: x, y, z [m], intensity 0-255, ring."""

LAYOUT = (
    "data_root/raw/{samples,sweeps,lidarseg} and data_root/info/nuscenes_infos_<sweeps>sweeps_<split>.pkl, written by"
    " pointcept/datasets/preprocessing/nuscenes/preprocess_nuscenes_info.py --dataset_root data_root/raw"
    " --output_root data_root"
)

META = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
"""What a submission declares about its inputs."""


NEAR = 1.0
"""Points of a sweep whose |x| and |y| in the sensor's frame are below [m] lie on the own car, as in the devkit."""


def label_table(ignore_index: int) -> np.ndarray:
    """Class of every uint8 raw id, int64 (256,); ``UNKNOWN`` from 32 on."""
    table = np.full(256, UNKNOWN)
    table[:NUM_RAW] = ignore_index
    for index, raw in enumerate(CLASSES.values()):
        table[list(raw)] = index
    return table


class Sweep(NamedTuple):
    """A scan before the key frame: its file, (4, 4) key frame from sweep, age in seconds."""

    points: Path
    transform: np.ndarray
    time_lag: float


class Scan(NamedTuple):
    """A key frame: its lidar token, split and files (no label file in the test split), and the sweeps before it."""

    token: str
    split: str
    points: Path
    labels: Path | None
    sweeps: tuple[Sweep, ...]


@DATASETS.register_module()
class NuScenesDataset(BaseDataset):
    """nuScenes lidarseg: ``data_root/raw`` in its official layout and info files in ``data_root/info``.

    Args:
        sweeps: the info files to read, ``nuscenes_infos_<sweeps>sweeps_<split>.pkl``.
        input_sweeps: scans that make one sample, at most ``sweeps``: 1 is the key frame alone; with more, the points
            of the latest sweeps follow those of the key frame, in its coordinates and with ``ignore_index`` as label
            (but for those on the own car, closer than ``NEAR`` to the sensor, which would trail behind it), and the
            sample has ``time``, float32 (N, 1), their age in seconds (0 for the key frame). A scene begins
            without sweeps, so its first key frames have fewer.
        learning_map: accepted so that Pointcept's configs load: raw id -> class, as it is here anyway.
        split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled: see
            :class:`BaseDataset`.

    Raises:
        ConfigError: an argument is wrong.
        DataError: an info file is missing or malformed, or its scans are not in ``data_root/raw``.
    """

    names = tuple(CLASSES)
    things = names[:10]  # barrier to truck
    rare = tuple(name for name in things if name != "car")
    scanner = Scanner(pitch_range=(-30.67, 10.67))
    SCAN_PATTERN = "*.pcd.bin"
    PREDICTION_SUFFIX = ".bin"
    STRENGTH_RANGE = (0.0, 1.0)
    SPLITS = ("train", "val", "test", "mini_train", "mini_val")

    def __init__(
        self,
        split: str | Sequence[str] = "train",
        data_root: str | Path = "data/nuscenes",
        transform: Sequence[Mapping[str, Any]] | None = None,
        test_mode: bool = False,
        test_cfg: Mapping[str, Any] | None = None,
        loop: int = 1,
        ignore_index: int = -1,
        nonfinite: str = "raise",
        sweeps: int = 10,
        input_sweeps: int = 1,
        learning_map: Mapping[int, int] | None = None,
        unlabelled: bool = False,
    ) -> None:
        check_learning_map(learning_map, label_table(-1))
        self.sweeps = check_integer("sweeps", sweeps, 1)
        if check_integer("input_sweeps", input_sweeps, 1) > sweeps:
            raise refused("input_sweeps", input_sweeps, f"at most sweeps={sweeps}")
        self.input_sweeps = input_sweeps
        super().__init__(split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled)
        self._table = label_table(ignore_index)
        self._index = {scan.token: index for index, scan in enumerate(self.data_list)}

    def get_data_list(self) -> list[Scan]:
        """The key frames, in the order of splits and info files.

        Raises:
            DataError: an info file is missing or malformed, or its first scan is not in ``data_root/raw``.
        """
        scans = []
        for split in self.split:
            path = info_path(self.data_root, self.sweeps, split)
            if not path.is_file():
                there = ", ".join(sorted(p.name for p in path.parent.glob("nuscenes_infos_*.pkl"))) or "none"
                raise DataError(f"no info file {path}; info files there: {there}. Expected layout: {LAYOUT}")
            infos = load_plain_pickle(path)
            if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
                raise DataError(f"{path} is no list of dicts, as info files are")
            found = [self._scan(path, split, number, info) for number, info in enumerate(infos)]
            for file in (found[0].points, found[0].labels) if found else ():
                if file is not None and not file.is_file():
                    raise DataError(f"{path} names {file}, which is not there. Expected layout: {LAYOUT}")
            scans += found
        return scans

    def _scan(self, path: Path, split: str, number: int, info: Mapping[str, Any]) -> Scan:
        """What is needed of one info; the rest of it would only fill the memory of every worker."""
        root = self.data_root / "raw"
        try:
            token = info["lidar_token"]
            latest: dict[str, Sweep] = {}
            for sweep in info["sweeps"] if self.input_sweeps > 1 else ():
                # At the start of a scene info files repeat the last sweep, or the key frame itself.
                if sweep["sample_data_token"] != token and len(latest) < self.input_sweeps - 1:
                    matrix = np.array(sweep["transform_matrix"], np.float64).reshape(4, 4)
                    latest[sweep["sample_data_token"]] = Sweep(root / sweep["lidar_path"], matrix, sweep["time_lag"])
            labels = None if split == "test" or self.unlabelled else root / info["gt_segment_path"]
            scan = Scan(token, split, root / info["lidar_path"], labels, tuple(latest.values()))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, entry {number} is malformed: {error!r}") from error
        if not isinstance(token, str) or not re.fullmatch(r"[\w-]+", token):  # it names a file of submissions
            raise DataError(f"{path}, entry {number}: {token!r} is no token")
        return scan

    def get_data(self, idx: int) -> Sample:
        """Read scan ``idx``: coord float32 (N, 3) [m], strength float32 (N, 1) in [0, 1], name, segment int64 (N,) if
        labelled and time float32 (N, 1) [s] with sweeps.

        Raises:
            DataError: a file is missing or empty or of a wrong size, label and point counts differ, a raw
                label is unknown, or (with nonfinite="raise") values are not finite.
        """
        scan = self.data_list[idx]
        points, finite, count = _read_points(scan.points, self.nonfinite)
        sample: Sample = {}
        if scan.labels is not None:
            raw = read_binary(scan.labels, np.uint8)
            if len(raw) != count:
                raise DataError(f"{scan.labels} has {len(raw)} labels, {scan.points} has {count} points")
            segment = map_labels(raw, self._table, scan.labels)
            sample["segment"] = segment if finite is None else segment[finite]
        if self.input_sweeps > 1:
            points = self._add_sweeps(sample, points, scan)
        return {
            "coord": np.ascontiguousarray(points[:, :3]),
            "strength": np.ascontiguousarray(points[:, 3:]),
            **sample,
            "name": scan.token,
        }

    @classmethod
    def read_scan(cls, path: Path, nonfinite: str = "raise") -> tuple[Sample, np.ndarray | None]:
        """Read a file of float32 x, y, z [m], intensity 0-255, ring; see :meth:`BaseDataset.read_scan`."""
        points, finite, _ = _read_points(path, nonfinite)
        coord, strength = np.ascontiguousarray(points[:, :3]), np.ascontiguousarray(points[:, 3:])
        return {"coord": coord, "strength": strength}, finite

    @classmethod
    def encode_prediction(cls, classes: np.ndarray) -> np.ndarray:
        """uint8 (M,) class + 1. The format knows no "unlabelled": points without a prediction get the most frequent
        class."""
        common = np.bincount(classes[classes >= 0], minlength=1).argmax()
        return (np.where(classes < 0, common, classes) + 1).astype(np.uint8)

    def _add_sweeps(self, sample: Sample, points: np.ndarray, scan: Scan) -> np.ndarray:
        """Append the sweeps, in the coordinates of the key frame, to its ``points`` float32 (N, 4); adds the ages and,
        if there are any, the labels of the new points to ``sample``."""
        parts, ages = [points], [0.0]
        for sweep in scan.sweeps:
            part = _read_sweep(sweep, self.nonfinite)
            part[:, :3] = part[:, :3] @ sweep.transform[:3, :3].T + sweep.transform[:3, 3]
            parts.append(part)
            ages.append(sweep.time_lag)
        sample["time"] = np.repeat(np.array(ages, np.float32), [len(part) for part in parts])[:, None]
        add_point_keys(sample, ("time",))
        if "segment" in sample:
            added = np.full(len(sample["time"]) - len(points), self.ignore_index, np.int64)
            sample["segment"] = np.concatenate([sample["segment"], added])
        return np.concatenate(parts)

    def get_data_name(self, idx: int) -> str:
        """Name of scan ``idx``: its lidar token."""
        return self.data_list[idx].token

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        """Write ``folder/lidarseg/<split>/<token>_lidarseg.bin``, uint8 class + 1 per point of the key frame, and
        ``folder/<split>/submission.json`` unless it is there.

        The format knows no "unlabelled": points that nonfinite="drop" left out get the scan's most frequent class.

        Args:
            folder: root of the submission.
            name: a name that :meth:`get_data_name` gives.
            pred: classes in [0, 16), integers (N,), one per point that :meth:`get_data` gives; those of sweeps are
                not written.

        Raises:
            DataError: the scan is not in this data set, or the prediction has another shape, no integers or a
                class out of range.
        """
        if name not in self._index:
            raise DataError(f"there is no scan {name!r} in the split {', '.join(self.split)}")
        scan = self.data_list[self._index[name]]
        points, finite, count = _read_points(scan.points, self.nonfinite)
        added = sum(len(_read_sweep(sweep, self.nonfinite)) for sweep in scan.sweeps)
        classes = np.full(count, -1)
        kept = slice(None) if finite is None else finite
        classes[kept] = check_prediction(pred, len(points) + added, self.num_classes, name)[: len(points)]
        meta = Path(folder) / scan.split / "submission.json"
        if not meta.is_file():
            write_array(meta, np.frombuffer(json.dumps({"meta": META}, indent=2).encode(), np.uint8))
        target = Path(folder) / "lidarseg" / scan.split / f"{name}_lidarseg.bin"
        return write_array(target, self.encode_prediction(classes))


def _read_points(path: Path, nonfinite: str) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Read x, y, z [m], strength of a scan file, float32 (N, 4); the mask of the finite points if some are not;
    and the number of points in the file."""
    points = read_binary(path, np.float32, COLUMNS)[:, :4]
    finite = finite_rows(points, path, nonfinite)
    kept = points if finite is None else points[finite]
    return kept / np.array([1, 1, 1, 255], np.float32), finite, len(points)


def _read_sweep(sweep: Sweep, nonfinite: str) -> np.ndarray:
    """Read a sweep without the own car: x, y, z [m] in the sensor's frame, strength, float32 (N, 4), N >= 0.

    The key frame keeps those points: they have labels and need predictions.
    """
    points = _read_points(sweep.points, nonfinite)[0]
    return points[(np.abs(points[:, :2]) >= NEAR).any(axis=1)]
