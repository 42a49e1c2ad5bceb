"""Where predictions go, and in which format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.datasets.clouds import SUFFIXES, CloudFile
from pointcept.datasets.clouds.files import suffix_of
from pointcept.datasets.clouds.reader import CloudReader
from pointcept.datasets.clouds.write import can_be_written, coloured_ply, las_codes, own_format
from pointcept.datasets.submission import write_array, write_npy
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import write_bytes_atomic

NPY = ".npy"
COLOURED = ".ply"
SAME = "same"
FOLDER = Path("predictions")
"""Where predictions go if the user does not say it."""

LAS = (".las", ".laz")


def path_of(file: Path | CloudFile) -> Path:
    """The file, or the folder of a frame, that a scan is in."""
    return file.path if isinstance(file, CloudFile) else file


def suffixes(dataset: Any) -> list[str]:
    """Suffixes of the formats in which predictions are written: ``.npy``, the benchmark's own, those of clouds."""
    own = [] if dataset.PREDICTION_SUFFIX is None else [dataset.PREDICTION_SUFFIX]
    others = [suffix for suffix, entry in SUFFIXES.items() if entry.write is not None and suffix != NPY]
    return [NPY, *own, *sorted(others)]


def check_format(dataset: Any, suffix: str) -> None:
    """Check that predictions of a network that was trained on ``dataset`` can be written with this suffix.

    Raises:
        ConfigError: they cannot.
    """
    allowed = suffixes(dataset)
    if suffix not in (*allowed, SAME):
        name = getattr(dataset, "__name__", type(dataset).__name__)
        raise ConfigError(f"predictions of {name} are written as {' or '.join([*allowed, SAME])}, got {suffix!r}")


def output_paths(
    found: Sequence[tuple[Path, Sequence[Path | CloudFile]]], out: Path | None, suffix: str | None, pattern: str
) -> list[Path]:
    """Where each prediction goes: for one scan ``out`` itself if it has a suffix, else places in a folder.

    In the folder they have the places that the scans have below what the user named. Where two would have one place,
    the whole name of the scan stands before the suffix.

    Args:
        found: what the user named, a scan or a folder, and the scans there.
        out: a file or a folder; None: ``FOLDER``.
        suffix: of the predictions in a folder; None: coloured clouds without ``out``, else ``.npy``.
        pattern: what scans of the benchmark are called.

    Raises:
        ConfigError: ``out`` is a file where a folder is needed, or the other way round; or two scans have one place.
    """
    files = [file for _, scans in found for file in scans]
    if len(files) == 1 and out is not None and out.suffix and not out.is_dir():
        if suffix is not None and suffix not in (SAME, out.suffix):
            raise ConfigError(f"--suffix {suffix} contradicts --out {out}")
        return [out]
    folder = FOLDER if out is None else out
    if folder.is_file() or (folder.suffix in (NPY, *SUFFIXES, suffix) and not folder.is_dir()):
        raise ConfigError(f"--out {out}: there are {len(files)} scans, so name a folder")
    suffix = suffix or (COLOURED if out is None else NPY)
    places = [_place(file, root, pattern) for root, scans in found for file in scans]
    ends = [suffix if suffix != SAME else own_suffix(path_of(file)) for file in files]
    count = Counter(short.with_name(short.name + end) for (short, _), end in zip(places, ends, strict=True))
    targets = []
    for (short, whole), end in zip(places, ends, strict=True):
        target = short.with_name(short.name + end)
        targets.append(folder / (target if count[target] == 1 else whole.with_name(whole.name + end)))
    if len(set(targets)) < len(targets):
        twice = next(target for target, times in Counter(targets).items() if times > 1)
        raise ConfigError(f"two scans would be written to {twice}: predict them apart")
    return targets


def _place(file: Path | CloudFile, root: Path, pattern: str) -> tuple[Path, Path]:
    """Place of a scan below ``root``, with the name of its file without the suffix, and with all of it."""
    path = path_of(file)
    relative = Path(path.name) if root in (path, path / pattern) else path.relative_to(root)
    own = pattern.removeprefix("*")
    suffix = suffix_of(path) or (own if own and path.name.endswith(own) else "")
    bare = relative.with_name(relative.name[: len(relative.name) - len(suffix)] or relative.name)
    if isinstance(file, CloudFile) and file.part:
        part = file.part.strip("/").replace("/", "_")
        return bare / part, relative.with_name(f"{relative.name}.clouds") / part
    return bare, relative


def own_suffix(path: Path) -> str:
    """The suffix of a file if its format has room for labels, else that of coloured clouds."""
    suffix = suffix_of(path)
    return suffix if suffix is not None and can_be_written(path) else COLOURED


class Writer:
    """Writes predictions in the format that the suffix of a file says.

    Args:
        reader: that has read the scans.
        same: files of the scan's own format hold all its fields and the label, ``.npy`` and ``.ply`` too.
    """

    def __init__(self, reader: CloudReader, same: bool = False) -> None:
        self.reader, self.same = reader, same
        colours = getattr(reader.dataset, "colours", ())
        self.colours = np.array([_rgb(colour) for colour in colours], np.uint8) if len(colours) else None

    def write(self, target: Path, file: Path | CloudFile, classes: np.ndarray) -> None:
        """Write the classes (M,) of all points of a file, -1 for points without one.

        Raises:
            DataError: they cannot be written.
        """
        try:
            self._write(target, file, classes)
        except OSError as error:
            raise DataError(f"cannot write {target}: {error}") from error

    def _write(self, target: Path, file: Path | CloudFile, classes: np.ndarray) -> None:
        dataset, suffix = self.reader.dataset, target.suffix.lower()
        if suffix == NPY and not self.same:
            write_npy(target, classes.astype(np.int16))
        elif target.suffix == dataset.PREDICTION_SUFFIX:
            write_array(target, dataset.encode_prediction(classes))
        else:
            write_bytes_atomic(target, self._cloud(suffix, self._as_cloud(file), classes))

    def _as_cloud(self, file: Path | CloudFile) -> CloudFile:
        if path_of(file).is_dir():
            raise ConfigError(f"{file} is a folder of several files: its prediction is written as .npy")
        return file if isinstance(file, CloudFile) else CloudFile(file)

    def _cloud(self, suffix: str, file: CloudFile, classes: np.ndarray) -> bytes:
        dataset, options = self.reader.dataset, self.reader.options
        if suffix == COLOURED and not (self.same and suffix_of(file.path) == COLOURED):
            return coloured_ply(file, classes, tuple(dataset.names), options, self.colours)
        labels = dataset.label_values(classes)
        if suffix in LAS and labels is classes:
            labels = las_codes(classes)
        return own_format(file, suffix, labels, options)


def _rgb(colour: str) -> list[int]:
    """``#rrggbb`` -> three numbers from 0 to 255."""
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
