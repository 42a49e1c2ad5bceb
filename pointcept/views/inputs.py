"""Scenes from what a user names: scans of a split or files, with predictions of networks or from files."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from pointcept.datasets import Draw, build_dataset
from pointcept.datasets.concat import ConcatDataset
from pointcept.datasets.files import ScanFiles
from pointcept.datasets.submission import check_prediction
from pointcept.engines.data import per_process
from pointcept.engines.inference import Precision, predict_scan
from pointcept.engines.predict import cloud_reader, scan_files
from pointcept.engines.sampler import draw_seed
from pointcept.engines.scores import network_name
from pointcept.models import build_inference_model
from pointcept.utils import device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError, DataError, did_you_mean
from pointcept.views.scene import TRUTH, Classes, Scene

logger = logging.getLogger(__name__)

NPY = ".npy"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Network:
    """A trained network and how it is run.

    Attributes:
        name: of its layer: student, teacher.
        model: in evaluation mode, on the device.
        precision: of its forward pass.
        weight: its file, for messages.
    """

    name: str
    model: nn.Module
    precision: Precision
    weight: str

    @classmethod
    def load(cls, name: str, model: Mapping[str, Any], cfg: Config, weight: str) -> Network:
        """Build the network that ``model`` describes and load its weights.

        Raises:
            ConfigError: the description is wrong.
            CheckpointError: the weights are missing, damaged or do not fit.
        """
        network = build_inference_model(model)
        load_weights(network, weight)
        return cls(name, network.to(device.get_device()).eval(), Precision.of(cfg), str(weight))

    def predict(self, sample: Mapping[str, Any], batch_size: int) -> np.ndarray:
        """Classes int16 (N,) of a sample in test mode."""
        name = network_name(self.model, self.weight)
        return predict_scan(self.model, sample, batch_size, self.precision, name).pred.cpu().numpy().astype(np.int16)


class Scans:
    """The scans that a picture is made of: their points, and samples in test mode for networks.

    Args:
        cfg: the resolved config.
        dataset: in test mode where networks shall predict.
        indices: of its scans.
    """

    def __init__(self, cfg: Config, dataset: Any, indices: Sequence[int]) -> None:
        self.cfg, self.dataset, self.indices = cfg, dataset, list(indices)
        self.classes = Classes.of(dataset)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, number: int) -> str:
        """Name of scan ``number`` in [0, len)."""
        return str(self.dataset.get_data_name(self.indices[number]))

    def points(self, number: int) -> dict[str, Any]:
        """Points, strength and labels of scan ``number``, before any transform."""
        return cast("dict[str, Any]", self.dataset.read(self.indices[number]))

    def kept(self, number: int, classes: np.ndarray) -> np.ndarray:
        """Of the classes (M,) of all points of a scan file those of the points that were not left out, (N,)."""
        if not isinstance(self.dataset, ScanFiles):
            return classes
        kept = self.dataset.reader.read(self.dataset.files[self.indices[number]], self.dataset.nonfinite).kept
        return classes if kept is None or len(kept) != len(classes) else classes[kept]

    def sample(self, number: int) -> dict[str, Any]:
        """Scan ``number`` in test mode, as the tester draws it: what is seen is what was measured."""
        index = self.indices[number]
        return cast("dict[str, Any]", self.dataset[Draw(index, draw_seed(0, 0, index))])


def split_scans(
    cfg: Config, split: str, wanted: Sequence[str] = (), predict: bool = True, every: bool = False, quick: bool = False
) -> Scans:
    """Scans of a split.

    Args:
        cfg: the resolved config.
        split: section of ``cfg.data``.
        wanted: indices or names of scans; none: the first one.
        predict: networks will look at them, with the transforms of ``data.test``.
        every: all of them, where none are wanted.
        quick: networks look at one view of each.

    Raises:
        ConfigError: there is no such section, or no such scan in it.
        DataError: files are missing.
    """
    section = cfg.data.get(split)
    if section is None:
        there = [name for name in SPLITS if cfg.data.get(name) is not None]
        raise ConfigError(f"--split {split}: the config has no data.{split}, only {', '.join(there)}")
    arguments = section.to_dict()
    if split != "test" or not predict:
        arguments = {key: value for key, value in arguments.items() if key not in ("transform", "loop", "unlabelled")}
        arguments.pop("test_mode", None)
        arguments.pop("test_cfg", None)
    if predict and split != "test":
        test = cfg.data.test.to_dict() if cfg.data.get("test") is not None else {}
        if "datasets" in arguments or "test_cfg" not in test:
            raise ConfigError(
                f"--split {split}: predictions need data.test with test_cfg, and one data set; try --split test"
            )
        arguments.update({key: test[key] for key in ("transform", "test_mode", "test_cfg") if key in test})
    if quick and arguments.get("test_cfg"):
        arguments["test_cfg"] = {**arguments["test_cfg"], "aug_transform": [[]]}
    dataset = build_dataset(arguments, f"data.{split}")
    names = [dataset.get_data_name(i) for i in range(len(dataset.data_list))]
    indices = [_index(entry, names) for entry in wanted] or list(range(len(names) if every else 1))
    return Scans(cfg, dataset, indices)


def _index(entry: str, names: Sequence[str]) -> int:
    """Position of the scan that ``entry`` names or counts.

    Raises:
        ConfigError: there is none.
    """
    if entry in names:
        return names.index(entry)
    if entry.lstrip("-").isdigit() and -len(names) <= int(entry) < len(names):
        return int(entry) % len(names)
    hint = f"0 to {len(names) - 1}, or a name such as {names[0]}"
    if not entry.lstrip("-").isdigit() and len(names) < 1000:
        hint += f"; {did_you_mean(entry, names[:20])}"
    raise ConfigError(f"--scan-index {entry}: there is no such scan. Allowed: {hint}")


def named_scans(cfg: Config, path: Path, quick: bool = False) -> Scans:
    """A scan file, or all below a folder, in the format of the data set of ``data.test``.

    Raises:
        ConfigError: the config has no ``data.test``.
        DataError: there is no scan.
    """
    if cfg.data.get("test") is None:
        raise ConfigError("scan files are read as data.test reads its own, which this config lacks")
    reader = cloud_reader(cfg)
    files = reader.find(path)
    return Scans(cfg, scan_files(cfg, reader, files, quick), range(len(files)))


@dataclass(frozen=True)
class ClassFiles:
    """Files that hold the classes of scans.

    Attributes:
        layer: what they are: truth, teacher, student.
        path: a file, or a folder of files that are called like the scans.
    """

    layer: str
    path: Path

    @classmethod
    def parse(cls, text: str, layer: str) -> ClassFiles:
        """``NAME=PATH``, or ``PATH`` for the layer ``layer``."""
        name, sign, path = text.partition("=")
        return cls(name, Path(path)) if sign and name.isidentifier() else cls(layer, Path(text))

    def read(self, scans: Scans, number: int, points: int) -> np.ndarray:
        """The classes of scan ``number``, int16 (points,).

        Raises:
            DataError: there is no such file, it is malformed, or it has another number of points.
        """
        path = self._file(scans, number) if self.path.is_dir() else self.path
        if not self.path.is_dir() and len(scans) > 1:
            raise ConfigError(f"{self.path} is one file for {len(scans)} scans: name a folder")
        if path.suffix == NPY:
            classes = _load(path)
        else:
            reader: Any = scans.dataset.reader.dataset if isinstance(scans.dataset, ScanFiles) else scans.dataset
            if isinstance(scans.dataset, ConcatDataset):
                raise ConfigError(f"{path}: classes of several data sets are read from .npy files only")
            classes = reader.read_classes(path, predicted=self.layer != TRUTH)
        classes = scans.kept(number, classes)
        known = np.where(classes < 0, 0, classes)
        check_prediction(known, points, len(scans.classes.names), f"{scans.name(number)} ({path})")
        return classes.astype(np.int16)

    def _file(self, scans: Scans, number: int) -> Path:
        """The file below the folder that is called like the scan.

        Raises:
            DataError: there is none.
        """
        name = scans.name(number)
        # The tester's files, those of tools/predict.py beside which the suffixes of scans are gone, and submissions.
        stems = list(dict.fromkeys([name, Path(name).stem, name.partition(".")[0]]))
        wanted = [f"{stem}{suffix}" for stem in stems for suffix in (NPY, ".label", ".bin", "_lidarseg.bin")]
        for file in wanted:
            if (self.path / file).is_file():
                return self.path / file
        below = [found for file in wanted for found in sorted(self.path.rglob(glob.escape(file)))]
        if len(below) == 1:
            return below[0]
        if below:
            raise DataError(f"{self.path} has several files of classes of {name}, such as {below[0]} and {below[1]}")
        raise DataError(f"{self.path} has no classes of {name}: none of {', '.join(stems)} with .npy, .label or .bin")


def _load(path: Path) -> np.ndarray:
    """A ``.npy`` file of integers (N,)."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{path} holds no integers (N,)")
    return array.astype(np.int64)


def _place(layer: str) -> int:
    return {TRUTH: 0, "teacher": 1}.get(layer, 2)


def scenes(scans: Scans, networks: Sequence[Network] = (), files: Sequence[ClassFiles] = ()) -> Iterator[Scene]:
    """Read the scans one after the other, with what networks predict and files hold.

    Args:
        scans: which.
        networks: they predict each scan, the teacher first.
        files: further layers; one that is called truth replaces the labels of the data set.

    Raises:
        DataError: a file is missing or malformed, or the test transforms lose points.
    """
    batch_size = per_process(scans.cfg.batch_size_test, "batch_size_test")
    for number in range(len(scans)):
        points = scans.points(number)
        coord = points["coord"].astype(np.float32)
        layers: dict[str, np.ndarray] = {}
        if "segment" in points and (points["segment"] >= 0).any():
            layers[TRUTH] = points["segment"].astype(np.int16)
        for source in files:
            layers[source.layer] = source.read(scans, number, len(coord))
        sample = scans.sample(number) if networks else {}
        for network in networks:
            logger.info("[%d/%d] %s: %s predicts", number + 1, len(scans), scans.name(number), network.name)
            layers[network.name] = network.predict(sample, batch_size)
        # Any negative label is -1; the teacher stands between truth and student, whatever came from where.
        layers = {name: np.maximum(layers[name], -1) for name in sorted(layers, key=_place)}
        strength = points["strength"][:, 0] if "strength" in points else None
        yield Scene(scans.name(number), coord, scans.classes, layers, strength)
