"""SemanticKITTI (Behley et al., ICCV 2019): class map, reading, submission."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pointcept.utils.checks import refused
from pointcept.utils.errors import DataError

from .base import BaseDataset
from .builder import DATASETS
from .reading import UNKNOWN, check_learning_map, finite_rows, map_labels, read_binary, require_folder
from .submission import check_prediction, write_array
from .transform.mixing import Scanner
from .transform.points import Sample

logger = logging.getLogger(__name__)

CLASSES: dict[str, tuple[int, ...]] = {
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (20, 13, 16, 256, 257, 259),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
}
"""Class -> its raw ids. The order is that of the class indices; the first raw id is the one submissions use."""

IGNORED_RAW = (0, 1, 52, 99)
"""Raw ids without a class: unlabeled, outlier, other-structure, other-object."""

CLASS_TO_RAW = np.array([raw[0] for raw in CLASSES.values()], np.uint32)
"""Inverse map, uint32 (19,): the raw id that a submission holds for each class."""

SEQUENCES = {
    "train": (0, 1, 2, 3, 4, 5, 6, 7, 9, 10),
    "val": (8,),
    "test": tuple(range(11, 22)),
}

LAYOUT = (
    "data_root/dataset/sequences/XX/velodyne/NNNNNN.bin and, for labelled splits,"
    " data_root/dataset/sequences/XX/labels/NNNNNN.label"
)


def label_table(ignore_index: int) -> np.ndarray:
    """Class of every 16-bit raw id, int64 (65536,); ``UNKNOWN`` for those outside the class map."""
    table = np.full(1 << 16, UNKNOWN)
    table[list(IGNORED_RAW)] = ignore_index
    for index, raw in enumerate(CLASSES.values()):
        table[list(raw)] = index
    return table


class Scan(NamedTuple):
    """The files of one scan; no label file in the test split."""

    points: Path
    labels: Path | None

    @property
    def name(self) -> str:
        """``<sequence>_<frame>``, for instance 08_000003."""
        return f"{self.points.parent.parent.name}_{self.points.stem}"


@DATASETS.register_module()
class SemanticKITTIDataset(BaseDataset):
    """SemanticKITTI in its official layout, ``data_root/dataset/sequences/XX/{velodyne,labels}``.

    Args:
        sequences: these sequences instead of those of the split, as numbers or names (8 or "08"), read with labels
            unless ``split`` is "test" or ``unlabelled``; or "available": those of the split that are on disk, for
            parts of the data set.
        learning_map: accepted so that Pointcept's configs load: raw id -> class, as it is here anyway.
        split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled: see
            :class:`BaseDataset`.

    Raises:
        ConfigError: an argument is wrong.
        DataError: a folder or a label file is missing, or a folder holds no scans.
    """

    names = tuple(CLASSES)
    things = names[:8]  # car to motorcyclist
    rare = things[1:]  # all but car
    scanner = Scanner(pitch_range=(-25.0, 3.0))
    STRENGTH_RANGE = (0.0, 1.0)
    PREDICTION_SUFFIX = ".label"

    def __init__(
        self,
        split: str | Sequence[str] = "train",
        data_root: str | Path = "data/semantic_kitti",
        transform: Sequence[Mapping[str, Any]] | None = None,
        test_mode: bool = False,
        test_cfg: Mapping[str, Any] | None = None,
        loop: int = 1,
        ignore_index: int = -1,
        nonfinite: str = "raise",
        sequences: Sequence[int | str] | str | None = None,
        learning_map: Mapping[int, int] | None = None,
        unlabelled: bool = False,
    ) -> None:
        check_learning_map(learning_map, label_table(-1))
        self.available = sequences == "available"
        self.sequences = None if sequences is None or self.available else self._sequence_names(sequences)
        super().__init__(split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled)
        self._table = label_table(ignore_index)

    @staticmethod
    def _sequence_names(sequences: Sequence[int | str] | str) -> list[str]:
        """Two-digit names of the sequences, each once."""
        if isinstance(sequences, (str, int)) or not sequences:
            raise refused("sequences", sequences, 'a list such as [0, 8] or ["00", "08"], or "available"')
        if any(isinstance(s, (bool, float)) or (isinstance(s, int) and s < 0) for s in sequences):
            raise refused("sequences", sequences, "numbers from 0 on, or names of folders")
        names = [f"{s:02d}" if isinstance(s, int) else str(s).zfill(2) for s in sequences]
        if len(set(names)) != len(names):
            raise refused("sequences", sequences, "each sequence once")
        return names

    def get_data_list(self) -> list[Scan]:
        """The scans, in the order of sequences and frames.

        Raises:
            DataError: a folder or a label file is missing, or a folder holds no scans.
        """
        root = require_folder(self.data_root / "dataset" / "sequences", LAYOUT)
        if self.sequences is not None:
            labelled = self.split != ("test",) and not self.unlabelled
            return [scan for name in self.sequences for scan in self._scans(root / name, labelled)]
        wanted = [(root / f"{number:02d}", split) for split in self.split for number in SEQUENCES[split]]
        there = [(folder, split) for folder, split in wanted if folder.is_dir() or not self.available]
        if not there:
            raise DataError(f"{root} has none of the sequences {', '.join(folder.name for folder, _ in wanted)}")
        if self.available:
            logger.info("sequences of the split %s: %s", "+".join(self.split), " ".join(f.name for f, _ in there))
        labels = not self.unlabelled
        return [scan for folder, split in there for scan in self._scans(folder, labels and split != "test")]

    @staticmethod
    def _scans(folder: Path, labelled: bool) -> list[Scan]:
        """The scans of one sequence."""
        points = sorted(require_folder(folder / "velodyne", LAYOUT).glob("*.bin"))
        if not points:
            raise DataError(f"{folder / 'velodyne'} holds no .bin files. Expected layout: {LAYOUT}")
        if not labelled:
            return [Scan(path, None) for path in points]
        known = {path.stem for path in require_folder(folder / "labels", LAYOUT).glob("*.label")}
        scans = [Scan(path, folder / "labels" / f"{path.stem}.label") for path in points]
        missing = [scan.labels for scan in scans if scan.points.stem not in known]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(scans)} scans of {folder} have no label file, the first is {missing[0]}."
                f' Expected layout: {LAYOUT}. Scans without labels can be read with split="test", to train on them with'
                " unlabelled=True"
            )
        return scans

    def get_data(self, idx: int) -> Sample:
        """Read scan ``idx``: coord float32 (N, 3) [m], strength float32 (N, 1), segment int64 (N,) if labelled, name.

        Raises:
            DataError: a file is missing or empty or of a wrong size, label and point counts differ, a raw
                label is unknown, or (with nonfinite="raise") values are not finite.
        """
        scan = self.data_list[idx]
        sample, kept = self.read_scan(scan.points, self.nonfinite)
        if scan.labels is not None:
            # The upper 16 bits hold the instance id.
            raw = read_binary(scan.labels, np.uint32) & 0xFFFF
            count = len(sample["coord"]) if kept is None else len(kept)
            if len(raw) != count:
                raise DataError(f"{scan.labels} has {len(raw)} labels, {scan.points} has {count} points")
            segment = map_labels(raw, self._table, scan.labels)
            sample["segment"] = segment if kept is None else segment[kept]
        sample["name"] = scan.name
        return sample

    @classmethod
    def read_scan(cls, path: Path, nonfinite: str = "raise") -> tuple[Sample, np.ndarray | None]:
        """Read a file of float32 x, y, z [m], reflectance in [0, 1]; see :meth:`BaseDataset.read_scan`."""
        points = read_binary(path, np.float32, 4)
        finite = finite_rows(points, path, nonfinite)
        if finite is not None:
            points = points[finite]
        coord, strength = np.ascontiguousarray(points[:, :3]), np.ascontiguousarray(points[:, 3:])
        return {"coord": coord, "strength": strength}, finite

    @classmethod
    def encode_prediction(cls, classes: np.ndarray) -> np.ndarray:
        """uint32 (M,) raw ids, 0 (unlabeled) for points without a prediction."""
        return np.where(classes < 0, np.uint32(0), CLASS_TO_RAW[classes])

    def get_data_name(self, idx: int) -> str:
        """Name of scan ``idx``: ``<sequence>_<frame>``, for instance 08_000003."""
        return self.data_list[idx].name

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        """Write ``folder/sequences/XX/predictions/NNNNNN.label``, uint32 raw ids, one per point of the scan file.

        Points that nonfinite="drop" left out get raw id 0 (unlabeled).

        Args:
            folder: root of the submission.
            name: a name that :meth:`get_data_name` gives.
            pred: classes in [0, 19), integers (N,), one per point that :meth:`get_data` gives.

        Raises:
            DataError: the scan is not in ``data_root``, or the prediction has another shape, no
                integers or a class out of range.
        """
        sequence, _, frame = name.partition("_")
        path = self.data_root / "dataset" / "sequences" / sequence / "velodyne" / f"{frame}.bin"
        points = read_binary(path, np.float32, 4)
        finite = finite_rows(points, path, self.nonfinite)
        kept = slice(None) if finite is None else finite
        classes = np.full(len(points), -1)
        classes[kept] = check_prediction(pred, len(points[kept]), self.num_classes, name)
        target = Path(folder) / "sequences" / sequence / "predictions" / f"{frame}.label"
        return write_array(target, self.encode_prediction(classes))
