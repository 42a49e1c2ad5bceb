"""Single scans for a trained network: those of its benchmark as the data set reads them, all others as clouds."""

from __future__ import annotations

import logging
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointcept.utils.errors import ConfigError, DataError

from .cloud import CloudFile, CloudOptions
from .files import find_clouds, read_cloud
from .frame import Frame, to_frame
from .raw import NUSCENES

if TYPE_CHECKING:
    from pointcept.datasets.base import BaseDataset

logger = logging.getLogger(__name__)

BESIDE_SCANS = (".bin", ".npy", ".npz", ".txt")
"""In a folder with scans of the benchmark, other files with these suffixes are its labels, poses and calibrations."""


class CloudReader:
    """Reads scans of any format into the frame of a data set.

    Args:
        dataset: that the network was trained on, its class or, where its arguments say what its files are, an object.
        options: what the user says about the files; those that are not None go before the data set's own. None or
            an empty dict: nothing.

    Raises:
        ConfigError: an option is wrong.
    """

    def __init__(self, dataset: type[BaseDataset] | BaseDataset, options: dict[str, Any] | None = None) -> None:
        given = {name: value for name, value in (options or {}).items() if value is not None and value != {}}
        own: CloudOptions | None = getattr(dataset, "clouds", None)
        self.dataset = dataset
        self.custom: Any = None if own is None else dataset
        self.options = CloudOptions(**given) if own is None else replace(own, **given)
        # A user who says how files are to be read does not mean the benchmark's own way.
        self.benchmark = own is None and self.options == CloudOptions()

    @property
    def name(self) -> str:
        """The data set, for messages."""
        return getattr(self.dataset, "__name__", type(self.dataset).__name__)

    def is_own(self, path: Path) -> bool:
        """Whether a file or a frame's folder is one of the benchmark, by its name."""
        if not self.benchmark:
            return False
        pattern = self.dataset.SCAN_PATTERN
        if path.name.endswith(NUSCENES) and not pattern.endswith(NUSCENES):
            return False
        return fnmatch(path.name, pattern) or path.is_dir()

    def find(self, path: Path, skip: Path | None = None) -> list[Path | CloudFile]:
        """The scans at ``path``, a file or a folder: those of the benchmark first, each kind sorted.

        Args:
            path: what the user names.
            skip: leave out what lies below this folder, such as earlier predictions.

        Raises:
            ConfigError: a package for a format is missing.
            DataError: there is nothing, or no scan.
        """
        if path.is_file() and not self.is_own(path):
            return list(find_clouds(path, self.options))
        own: list[Path] = []
        if self.benchmark:
            try:
                own = [file for file in self.dataset.find_scans(path) if file == path or self.is_own(file)]
            except DataError:
                if not path.is_dir():
                    raise
        own = [file for file in own if skip is None or skip not in file.parents]
        if path.is_file() or own == [path]:
            return list(own)
        try:
            clouds = find_clouds(path, self.options) if self.custom is None else self.custom.find_scans(path)
        except DataError:
            if own:
                return list(own)
            raise
        known = set(own)
        others = [
            cloud
            for cloud in clouds
            if cloud.path not in known
            and not known.intersection(cloud.path.parents)
            and not (own and cloud.path.name.lower().endswith(BESIDE_SCANS) and not cloud.path.name.endswith(NUSCENES))
            and (skip is None or skip not in cloud.path.parents)
        ]
        if not own and not others:
            raise DataError(f"{path} holds no scans besides those below {skip}")
        return [*own, *others]

    def read(self, file: Path | CloudFile, nonfinite: str = "raise") -> Frame:
        """Read one scan.

        Args:
            file: an entry of :meth:`find`.
            nonfinite: points with NaN or infinite values: "drop" them or "raise".

        Raises:
            DataError: it is missing or malformed; the message begins with its name. Also where the package for its
                format is missing.
        """
        if isinstance(file, Path):
            if self.is_own(file) or not file.is_file():
                sample, kept = self.dataset.read_scan(file, nonfinite)
                notes = {} if kept is None else {"nonfinite": _lost(kept)}
                return Frame(sample, kept, notes)
            file = CloudFile(file)
        try:
            cloud = read_cloud(file, self.options)
        except ConfigError as error:
            raise DataError(f"{file}: {error}") from error
        try:
            return to_frame(cloud, self.options, self.dataset.SENSOR, nonfinite)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


def _lost(kept: np.ndarray) -> str:
    return f"{len(kept) - kept.sum()} of {len(kept)} points have NaN or infinite values and get no class"
