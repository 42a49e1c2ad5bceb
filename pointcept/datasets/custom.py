"""Scans of your own in any format of clouds, with what is particular about them in the config."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pointcept.utils.checks import check_integers, check_numbers, refused
from pointcept.utils.errors import ConfigError, DataError, did_you_mean
from pointcept.utils.files import read_regular

from .base import BaseDataset
from .builder import DATASETS
from .clouds import SUFFIXES, Cloud, CloudFile, CloudOptions, find_clouds, read_cloud
from .clouds.cloud import OPTION_NAMES
from .clouds.files import suffix_of
from .clouds.frame import to_frame
from .clouds.sensor import Sensor
from .labels import LABEL_SUFFIXES, LabelMap, read_labels
from .submission import check_prediction, write_npy
from .transform.points import Sample

FIELD = "field"
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
MOST_LIST = 2**26  # bytes of a list of scans


class Scan(NamedTuple):
    """A scan, its label file (None: in its own fields), and its name."""

    file: CloudFile
    labels: Path | None
    name: str


@DATASETS.register_module()
class CustomDataset(BaseDataset):
    """Scans of your own: folders of files in any format that predictions take, labels inside them or beside them.

    Args:
        names: class names, in the order of the class indices.
        label_map: label in the files -> name of its class, or None where it is ignored. Without it labels are class
            indices.
        ignored_labels: labels in the files that are ignored, besides those of ``label_map`` and ``ignore_index``.
        labels: where labels are: "field" of the scans (``clouds`` may name it), or the suffix of files with the names
            of the scans: .label (uint32, of which the lower 16 bits count), .npy (integers (N,)), .txt (one in a line).
        label_folder: the name of a folder for label files, beside or in that of the scans; None: that of the scans.
        splits: split -> folder below ``data_root``, or a ``.txt`` file there with the path of a scan or a folder in
            each line, or a list of these. A split that is not in it is the folder of its name, or NAME.txt.
        scan_suffixes: what scan files end in; None: all formats.
        colours: ``#rrggbb`` for each class; empty: pictures choose some.
        things: the classes of countable objects, which PolarMix pastes unless it is told which.
        rare: those that InstancePaste pastes unless it is told which; None: ``things``.
        sensor: what predictions of other scans are compared with, any of dict(points=of a scan, reach=[m] within which
            95 % of them lie, ground=its z [m], strength=its mean).
        clouds: how the files are read, arguments of ``CloudOptions``: dict(fields, columns, delimiter, topic,
            intensity_scale, intensity, sensor_height, up).
        split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled: see
            :class:`BaseDataset`.

    Raises:
        ConfigError: an argument is wrong.
        DataError: a folder, a list or a label file is missing, or there are no scans.
    """

    STRENGTH_RANGE = (0.0, 1.0)
    PREDICTION_SUFFIX = ".label"
    SCAN_PATTERN = "*"

    def __init__(
        self,
        names: Sequence[str],
        split: str | Sequence[str] = "train",
        data_root: str | Path = "data/custom",
        label_map: Mapping[int, str | None] | None = None,
        ignored_labels: Sequence[int] = (),
        labels: str = FIELD,
        label_folder: str | None = None,
        splits: Mapping[str, str | Sequence[str]] | None = None,
        scan_suffixes: Sequence[str] | None = None,
        colours: Sequence[str] = (),
        things: Sequence[str] = (),
        rare: Sequence[str] | None = None,
        sensor: Mapping[str, float] | None = None,
        clouds: Mapping[str, Any] | None = None,
        transform: Sequence[Mapping[str, Any]] | None = None,
        test_mode: bool = False,
        test_cfg: Mapping[str, Any] | None = None,
        loop: int = 1,
        ignore_index: int = -1,
        nonfinite: str = "raise",
        unlabelled: bool = False,
    ) -> None:
        self.names = _words("names", names, None)
        self.things = _words("things", things, self.names)
        self.rare = self.things if rare is None else _words("rare", rare, self.names)
        self.colours = _colours(colours, len(self.names))
        self.SENSOR = _sensor(sensor)
        self.clouds = _cloud_options(clouds)
        if not isinstance(ignored_labels, (list, tuple)) or ignored_labels:
            check_integers("ignored_labels", ignored_labels)
        self.label_map = LabelMap(self.names, label_map, ignored_labels, ignore_index)
        if labels not in (FIELD, *LABEL_SUFFIXES):
            raise ConfigError(f"got {labels!r}: {did_you_mean(str(labels), (FIELD, *LABEL_SUFFIXES))}", "labels")
        if label_folder is not None and (labels == FIELD or not isinstance(label_folder, str)):
            raise refused("label_folder", label_folder, f"the name of a folder, with one of labels={LABEL_SUFFIXES}")
        self.labels, self.label_folder = labels, label_folder
        self.scan_suffixes = None if scan_suffixes is None else _suffixes(scan_suffixes)
        self.splits = _splits(splits, self.SPLITS)
        super().__init__(split, data_root, transform, test_mode, test_cfg, loop, ignore_index, nonfinite, unlabelled)
        self._numbers = {scan.name: number for number, scan in enumerate(self.data_list)}

    # --- which scans there are ---

    def get_data_list(self) -> list[Scan]:
        """The scans of the splits, in the order of the lists, those of a folder sorted.

        Raises:
            DataError: a folder, a list, a scan or a label file is missing, or scans are of two splits at once.
        """
        found = [(file, split) for split in self.split for place in self._places(split) for file in self._files(place)]
        if len({file for file, _ in found}) < len(found):
            twice = next(file for file, times in Counter(file for file, _ in found).items() if times > 1)
            raise DataError(f"{twice} is twice among the scans of {', '.join(self.split)}")
        scans = [self._scan(file, split) for file, split in found]
        times = Counter(scan.name for scan in scans)
        return [
            scan if times[scan.name] == 1 else scan._replace(name=_name(scan.file, self.data_root, True))
            for scan in scans
        ]

    def _places(self, split: str) -> list[Path]:
        """What a split is made of: files and folders that are there."""
        named = self.splits.get(split)
        if named is None:
            listed = self.data_root / f"{split}.txt"
            named = (listed.name,) if listed.is_file() else (split,)
        places: list[Path] = []
        for name in named:
            path = self.data_root / name
            if path.suffix == ".txt" and path.is_file():
                places += self._listed(path)
            else:
                places.append(path)
        for place in places:
            if not place.exists():
                words = (
                    f"split {split!r}: there is no {place}; a split is the folder of its name below data_root, a list"
                )
                raise DataError(f"{words} NAME.txt there, or what splits=dict({split}=...) says")
        return places

    def _listed(self, path: Path) -> list[Path]:
        try:
            lines = read_regular(path, MOST_LIST).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the list {path}: {error}") from None
        return [self.data_root / line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def _files(self, place: Path) -> list[CloudFile]:
        """The clouds at a file or below a folder."""
        if place.is_file():
            return find_clouds(place, self.clouds)
        return [file for file in find_clouds(place, self.clouds) if self._is_scan(file.path)]

    def _is_scan(self, path: Path) -> bool:
        if self.scan_suffixes is not None:
            return suffix_of(path) in self.scan_suffixes
        # Label files may have the suffixes of clouds.
        return self.labels == FIELD or not path.name.lower().endswith(self.labels)

    def _scan(self, file: CloudFile, split: str) -> Scan:
        name = _name(file, self.data_root, False)
        if self.labels == FIELD or self.unlabelled:
            return Scan(file, None, name)
        path = file.path
        label = path.name[: len(path.name) - len(suffix_of(path) or "")] + self.labels
        if self.label_folder is None:
            places = [path.parent / label]
        else:
            places = [path.parent.with_name(self.label_folder) / label, path.parent / self.label_folder / label]
        there = next((place for place in places if place.is_file()), None)
        if there is None and split != "test":
            raise DataError(
                f"{file} has no labels, looked for {' and '.join(map(str, places))}; scans without labels can be "
                'read with split="test", to train on them with unlabelled=True'
            )
        return Scan(file, there, name)

    # --- reading ---

    def get_data(self, idx: int) -> Sample:
        """Read scan ``idx``: coord float32 (N, 3) [m], strength float32 (N, 1), segment int64 (N,) if labelled, name.

        Raises:
            DataError: a file is missing or malformed, a label is unknown, labels and points differ in number, or (with
                nonfinite="raise") values are not finite.
        """
        scan = self.data_list[idx]
        cloud = read_cloud(scan.file, self.clouds)
        sample, kept = self._sample(cloud, scan.file)
        segment = None if self.unlabelled else self._segment(cloud, scan)
        if segment is not None:
            sample["segment"] = segment if kept is None else segment[kept]
        return {**sample, "name": scan.name}

    def _sample(self, cloud: Cloud, file: CloudFile) -> tuple[Sample, np.ndarray | None]:
        try:
            frame = to_frame(cloud, self.clouds, self.SENSOR, self.nonfinite)
        except DataError as error:
            hint = '; nonfinite="drop" leaves such points out' if "NaN" in str(error) else ""
            raise DataError(f"{file}: {error}{hint}") from None
        return frame.sample, frame.kept

    def _segment(self, cloud: Cloud, scan: Scan) -> np.ndarray | None:
        """Classes int64 (M,) of all points of the file; None if it has no labels, as test scans may."""
        if scan.labels is not None:
            raw, place = read_labels(scan.labels), str(scan.labels)
            if len(raw) != len(cloud):
                raise DataError(f"{scan.labels} has {len(raw)} labels, {scan.file} has {len(cloud)} points")
        else:
            name = cloud.find("label", self.clouds.fields)
            if name is None:
                if self.labels != FIELD or self.split == ("test",):
                    return None
                raise DataError(
                    f"{scan.file} has no field of labels, only {', '.join(cloud.fields)}: clouds=dict(fields="
                    "dict(label=NAME)) names it, labels=SUFFIX says that they are in files beside the scans"
                )
            raw, place = cloud.fields[name], str(scan.file)
        return self.label_map.classes(raw, place)

    def get_data_name(self, idx: int) -> str:
        """Name of scan ``idx``: its path below ``data_root``, with _ between the folders."""
        return self.data_list[idx].name

    def find_scans(self, path: Path) -> list[CloudFile]:  # type: ignore[override]
        """The scans at ``path``, see :meth:`BaseDataset.find_scans`; which files they are the arguments say."""
        return self._files(path)

    def read_scan(  # type: ignore[override]
        self, path: Path | CloudFile, nonfinite: str = "raise"
    ) -> tuple[Sample, np.ndarray | None]:
        """Read a scan of any format, see :meth:`BaseDataset.read_scan`."""
        file = path if isinstance(path, CloudFile) else CloudFile(path)
        try:
            frame = to_frame(read_cloud(file, self.clouds), self.clouds, self.SENSOR, nonfinite)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
        return frame.sample, frame.kept

    # --- predictions ---

    def encode_prediction(self, classes: np.ndarray) -> np.ndarray:  # type: ignore[override]
        """uint32 (M,): the first label of each class in ``label_map``, and one that is ignored for -1."""
        return (self.label_values(classes) & 0xFFFF).astype(np.uint32)

    def label_values(self, classes: np.ndarray) -> np.ndarray:  # type: ignore[override]
        """Labels as they are in the files, int64 (M,), of classes (M,); one that is ignored for -1."""
        return self.label_map.labels(classes)

    def read_classes(self, path: Path, predicted: bool = False) -> np.ndarray:  # type: ignore[override]
        """Classes int64 (M,) from a label file, or from one of predictions: ``.npy`` of classes, or ``.label``."""
        raw = read_labels(path)
        if predicted and path.suffix == ".npy":
            return raw.astype(np.int64)
        return self.label_map.classes(raw, str(path))

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        """Write ``folder/NAME.npy``, int16 classes of all points of the file, -1 for those that were left out.

        Args:
            folder: where.
            name: a name that :meth:`get_data_name` gives.
            pred: classes, integers (N,), one per point that :meth:`get_data` gives.

        Raises:
            DataError: no such scan, or the prediction has another shape, no integers or a class out of range.
        """
        if name not in self._numbers:
            raise DataError(f"there is no scan {name!r}")
        file = self.data_list[self._numbers[name]].file
        sample, kept = self._sample(read_cloud(file, self.clouds), file)
        found = check_prediction(pred, len(sample["coord"]), self.num_classes, name)
        classes = np.full(len(found) if kept is None else len(kept), -1, np.int16)
        classes[slice(None) if kept is None else kept] = found
        return write_npy(Path(folder) / f"{name}.npy", classes)


def _name(file: CloudFile, root: Path, whole: bool) -> str:
    path = file.path.relative_to(root) if root in file.path.parents else Path(file.path.name)
    text = path.as_posix()
    if not whole:
        text = text[: len(text) - len(suffix_of(path) or "")]
    return "_".join([*text.split("/"), *file.part.split("/")]).rstrip("_").replace("__", "_")


def _words(argument: str, value: Any, allowed: Sequence[str] | None) -> tuple[str, ...]:
    """Names of classes, each once."""
    right = isinstance(value, (list, tuple)) and all(isinstance(word, str) and word.strip() for word in value)
    if not right or len(set(value)) < len(value) or (allowed is None and not value):
        raise refused(argument, value, "a list of names, each once")
    for word in value:
        if allowed is not None and word not in allowed:
            raise ConfigError(f"no class {word!r}: {did_you_mean(word, allowed)}", argument)
    return tuple(value)


def _colours(value: Any, count: int) -> tuple[str, ...]:
    right = isinstance(value, (list, tuple)) and all(isinstance(c, str) and COLOUR.fullmatch(c) for c in value)
    if not right or len(value) not in (0, count):
        raise refused("colours", value, f"{count} colours such as '#4c9dff', one for each class")
    return tuple(value)


def _sensor(value: Any) -> Sensor | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not set(value) <= set(Sensor._fields):
        raise refused("sensor", value, f"a dict of numbers with some of the keys {', '.join(Sensor._fields)}")
    check_numbers("sensor", list(value.values()), len(value))
    return Sensor(**value)


def _cloud_options(value: Any) -> CloudOptions:
    if value is None:
        return CloudOptions()
    if not isinstance(value, Mapping):
        raise refused("clouds", value, f"a dict with some of the keys {', '.join(OPTION_NAMES)}")
    for key in value:
        if key not in OPTION_NAMES:
            raise ConfigError(f"takes no {key!r}: {did_you_mean(str(key), OPTION_NAMES)}", "clouds")
    try:
        return replace(CloudOptions(), **value)
    except ConfigError as error:
        raise error.within("clouds") from None


def _suffixes(value: Any) -> tuple[str, ...]:
    right = isinstance(value, (list, tuple)) and value and all(suffix in SUFFIXES for suffix in value)
    if not right:
        raise refused("scan_suffixes", value, f"a list out of {', '.join(SUFFIXES)}")
    return tuple(value)


def _splits(value: Any, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refused("splits", value, 'a dict such as dict(train="train", val="val.txt")')
    found = {}
    for split, places in value.items():
        if split not in known:
            raise ConfigError(f"there is no split {split!r}: {did_you_mean(str(split), known)}", "splits")
        listed = (places,) if isinstance(places, str) else places
        if not isinstance(listed, (list, tuple)) or not listed or not all(isinstance(p, str) and p for p in listed):
            raise refused(f"splits.{split}", places, "a folder, a list file .txt, or a list of these")
        found[split] = tuple(listed)
    return found
