"""Waymo Open Dataset, 3D semantic segmentation: class names, reading, submission."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pointcept.utils.errors import DataError

from .base import BaseDataset
from .builder import DATASETS
from .preprocessing.waymo.convert import MARKER, SPLITS, segment_context
from .preprocessing.waymo.protos import dataset_pb2, encode_matrix, segmentation_pb2
from .preprocessing.waymo.range_image import RETURNS
from .reading import finite_rows, require_folder
from .submission import check_prediction, write_array
from .transform.mixing import Scanner
from .transform.points import Sample, narrow_coord

logger = logging.getLogger(__name__)

NAMES = (
    "Car",
    "Truck",
    "Bus",
    "Other-Vehicle",
    "Motorcyclist",
    "Bicyclist",
    "Pedestrian",
    "Sign",
    "Traffic-Light",
    "Pole",
    "Construction-Cone",
    "Bicycle",
    "Motorcycle",
    "Building",
    "Vegetation",
    "Tree-Trunk",
    "Curb",
    "Road",
    "Lane-Marker",
    "Other-Ground",
    "Walkable",
    "Sidewalk",
)
"""The classes; class i has the official number i + 1, and 0 is undefined."""

LAYOUT = (
    "data_root/{training,validation,testing}/<segment>/<timestamp>/{coord,strength,segment}.npy, written by"
    " pointcept/datasets/preprocessing/waymo/preprocess_waymo.py --dataset_root <tfrecords> --output_root data_root"
)


class Frame(NamedTuple):
    """The folder of one frame and its split."""

    folder: Path
    split: str

    @property
    def name(self) -> str:
        """``<segment>_<timestamp>``."""
        return f"{self.folder.parent.name}_{self.folder.name}"


@DATASETS.register_module()
class WaymoDataset(BaseDataset):
    """Waymo frames as ``preprocess_waymo.py`` writes them.

    A frame has the first returns of the five lasers and then their second returns; only the top laser is labelled.
    The splits are named as by Waymo: training, validation, testing.

    Args:
        split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled: see
            :class:`BaseDataset`.

    Raises:
        ConfigError: an argument is wrong.
        DataError: a folder is missing.
    """

    names = NAMES
    things = (*NAMES[:7], *NAMES[10:13])  # Car to Pedestrian, Construction-Cone to Motorcycle
    rare = things[1:]  # all but Car
    scanner = Scanner((1.43, 0.0, 2.184), (-17.6, 2.4))  # of the top laser, in the vehicle frame
    SCAN_PATTERN = "coord.npy"
    STRENGTH_RANGE = (0.0, 1.0)
    SPLITS = SPLITS

    def __init__(
        self,
        split: str | Sequence[str] = "training",
        data_root: str | Path = "data/waymo",
        transform: Sequence[Mapping[str, Any]] | None = None,
        test_mode: bool = False,
        test_cfg: Mapping[str, Any] | None = None,
        loop: int = 1,
        ignore_index: int = -1,
        nonfinite: str = "raise",
        unlabelled: bool = False,
    ) -> None:
        super().__init__(split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled)
        self._index = {frame.name: index for index, frame in enumerate(self.data_list)}

    def get_data_list(self) -> list[Frame]:
        """The frames, in the order of splits, segments and timestamps.

        Raises:
            DataError: the folder of a split is missing.
        """
        frames = []
        for split in self.split:
            folder = require_folder(self.data_root / split, LAYOUT)
            segments = sorted(path for path in folder.iterdir() if path.is_dir())
            whole = sum((segment / MARKER).is_file() for segment in segments)
            if 0 < whole < len(segments):
                logger.warning(
                    "%s: %d of %d segments are converted in part only", folder, len(segments) - whole, len(segments)
                )
            # Names of frames are numbers; hidden folders belong to a running or killed conversion.
            frames += [
                Frame(path, split) for segment in segments for path in sorted(segment.iterdir()) if path.name.isdigit()
            ]
        return frames

    def get_data(self, idx: int) -> Sample:
        """Read frame ``idx``: coord float32 (N, 3) [m] in the vehicle frame, strength float32 (N, 1) = tanh(intensity),
        name, and segment int64 (N,) if labelled.

        Raises:
            DataError: a file is missing or malformed, the files do not fit together, or (with nonfinite="raise")
                values are not finite.
        """
        frame = self.data_list[idx]
        sample, kept = self.read_scan(frame.folder, self.nonfinite)
        sample["name"] = frame.name
        if frame.split != "testing" and not self.unlabelled:
            path = frame.folder / "segment.npy"
            count = len(sample["coord"]) if kept is None else len(kept)
            segment = _load(path, "iu", (count,)).astype(np.int64)
            if segment.min() < -1 or segment.max() >= self.num_classes:
                raise DataError(f"{path} has classes from {segment.min()} to {segment.max()}, expected -1 to 21")
            segment[segment == -1] = self.ignore_index
            sample["segment"] = segment if kept is None else segment[kept]
        return sample

    @classmethod
    def find_scans(cls, path: Path) -> list[Path]:
        """The folders of frames at ``path``: itself (or that of the ``coord.npy`` it is), else all below it, sorted.

        Raises:
            DataError: there is nothing at ``path``, or no frame below it.
        """
        return [file.parent for file in super().find_scans(path)]

    @classmethod
    def read_scan(cls, path: Path, nonfinite: str = "raise") -> tuple[Sample, np.ndarray | None]:
        """Read the folder of a frame, ``coord.npy`` and ``strength.npy``; see :meth:`BaseDataset.read_scan`."""
        coord = _load(path / "coord.npy", "f", (None, 3))
        strength = _load(path / "strength.npy", "f", (len(coord), 1)).astype(np.float32, copy=False)
        finite = finite_rows(np.concatenate([coord, strength], axis=1), path, nonfinite)
        if finite is not None:
            coord, strength = coord[finite], strength[finite]
        return {"coord": narrow_coord(coord), "strength": strength}, finite

    def get_data_name(self, idx: int) -> str:
        """Name of frame ``idx``: ``<segment>_<timestamp>``."""
        return self.data_list[idx].name

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        """Write ``folder/frames/<name>.bin``: an official ``SegmentationFrameList`` with this one frame.

        Both returns of the top laser are written, official class numbers; points that nonfinite="drop" left out are
        0 (undefined). :meth:`finish_submission` joins the frames.

        Args:
            folder: root of the submission.
            name: a name that :meth:`get_data_name` gives.
            pred: classes in [0, 22), integers (N,), one per point that :meth:`get_data` gives.

        Raises:
            DataError: the frame is not in this data set or has no fitting mask.npy, or the prediction has another
                shape, no integers or a class out of range.
            ImportError: the official message classes are not installed.
        """
        if name not in self._index:
            raise DataError(f"there is no frame {name!r} in the split {', '.join(self.split)}")
        frame = self.data_list[self._index[name]]
        sample, kept = self.read_scan(frame.folder, self.nonfinite)
        classes = check_prediction(pred, len(sample["coord"]), self.num_classes, name)
        official = np.zeros(len(classes) if kept is None else len(kept), np.int32)
        official[slice(None) if kept is None else kept] = classes + 1

        pb2 = dataset_pb2()
        frames = segmentation_pb2().SegmentationFrameList()
        message = frames.frames.add()
        message.context_name = segment_context(frame.folder.parent.name)
        message.frame_timestamp_micros = int(frame.folder.name)
        laser = message.segmentation_labels.add()
        laser.name = pb2.LaserName.TOP
        for number, image in zip(RETURNS, _top_images(frame.folder / "mask.npy", official), strict=True):
            getattr(laser, f"ri_return{number}").segmentation_label_compressed = encode_matrix(image)
        data = np.frombuffer(frames.SerializeToString(), np.uint8)
        return write_array(Path(folder) / "frames" / f"{name}.bin", data)

    def finish_submission(self, folder: str | Path) -> Path:
        """Join the written frames into ``folder/segmentation_frames.bin``, one ``SegmentationFrameList``.

        A submission is for one split: beside frames of the testing split those of others are left out.

        Raises:
            DataError: frames of this data set have not been written.
        """
        frames = [frame for frame in self.data_list if frame.split == "testing"] or self.data_list
        parts = [Path(folder) / "frames" / f"{frame.name}.bin" for frame in frames]
        missing = [part for part in parts if not part.is_file()]
        if missing:
            raise DataError(f"{len(missing)} of {len(parts)} frames have no prediction, such as {missing[0]}")
        # Serialized messages that hold one repeated field are joined by joining their bytes.
        data = b"".join(part.read_bytes() for part in parts)
        return write_array(Path(folder) / "segmentation_frames.bin", np.frombuffer(data, np.uint8))


def _load(path: Path, kinds: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Load an array; raises ``DataError`` unless its dtype kind and shape (None: any length >= 1) are as expected."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    fits = array.ndim == len(shape) and all(
        n >= 1 if m is None else n == m for n, m in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        expected = tuple("N" if m is None else m for m in shape)
        raise DataError(f"{path} is {array.dtype} {array.shape}, expected {expected} of kind {' or '.join(kinds)}")
    return array


def _top_images(path: Path, official: np.ndarray) -> list[np.ndarray]:
    """Put the classes of the points back into the range images of the top laser.

    Args:
        path: the mask file: one record, a bool field (H, W) per laser and return in the order of the points.
        official: int32 (N,), official class numbers.

    Returns:
        Per return int32 (H, W, 2): instance (always 0) and class.

    Raises:
        DataError: the file is missing, no such record, or marks another number of pixels.
    """
    try:
        record = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"cannot read {path} ({error}); preprocess_waymo.py writes it for validation and testing, other programs"
            " write other masks"
        ) from error
    fields = record.dtype.names or ()
    counts = [int(np.count_nonzero(record[field])) for field in fields]
    if not {f"TOP_{number}" for number in RETURNS} <= set(fields) or sum(counts) != len(official):
        raise DataError(
            f"{path} marks {sum(counts)} pixels of {', '.join(fields)}, the frame has {len(official)} points"
        )
    images = []
    for field, end in zip(fields, np.cumsum(counts), strict=True):
        if field.startswith("TOP_"):
            mask = record[field]
            image = np.zeros((*mask.shape, 2), np.int32)
            image[mask, 1] = official[end - np.count_nonzero(mask) : end]
            images.append(image)
    return images
