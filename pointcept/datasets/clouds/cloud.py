"""What every reader of point clouds gives, and what users may say about their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pointcept.utils.checks import check_choice, check_integer, check_number, refused
from pointcept.utils.errors import ConfigError, DataError, did_you_mean

MEANINGS: dict[str, tuple[str, ...]] = {
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "intensity": ("intensity", "reflectance", "reflectivity", "remission", "strength", "i"),
    "label": ("label", "labels", "class", "classification", "segment", "semantic", "category"),
}
"""What a field may mean -> the names under which it is looked for, in any case, also as CloudCompare's scalar_NAME."""

COLUMNS = ("x", "y", "z", "intensity")
"""What the columns of files without names are, in this order; those after them are column4, column5 and so on."""

UP = ("z", "-z", "y", "-y", "x", "-x")
"""Axes that may point up."""


class CloudFile(NamedTuple):
    """One cloud on disk.

    Args:
        path: the file.
        part: which cloud of a file that holds several, such as a message of a bag; empty if it is the file itself.
    """

    path: Path
    part: str = ""

    @property
    def name(self) -> str:
        """The name of the file, with the part behind it."""
        return f"{self.path.name}:{self.part}" if self.part else self.path.name

    def __str__(self) -> str:
        return f"{self.path}:{self.part}" if self.part else str(self.path)


@dataclass(frozen=True)
class Cloud:
    """The points of a file.

    Args:
        fields: name -> numbers (M,), in the order of the file and of its points.
        source: what the format needs to write the file again with other fields, see its module.
    """

    fields: dict[str, np.ndarray]
    source: Any = None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values()), ()))

    def find(self, meaning: str, named: Mapping[str, str]) -> str | None:
        """The name of the field that has a meaning; None if there is none.

        Args:
            meaning: a key of ``MEANINGS``.
            named: meaning -> name, or number from 0 on, of a field, as the user says it; an empty name: there is none.

        Raises:
            DataError: the user names a field that the cloud does not have.
        """
        if meaning in named:
            wanted, names = named[meaning], list(self.fields)
            if wanted == "" or wanted in self.fields:
                return wanted or None
            if wanted.isdecimal() and int(wanted) < len(names):
                return names[int(wanted)]
            raise DataError(f"there is no field {wanted!r} for {meaning}: {did_you_mean(wanted, names)}")
        lower = {name.lower().removeprefix("scalar_"): name for name in reversed(self.fields)}
        return next((lower[alias] for alias in MEANINGS[meaning] if alias in lower), None)

    def coord(self, named: Mapping[str, str]) -> np.ndarray:
        """x, y, z of all points (M, 3) [m], float32 if the file has no more digits, else float64.

        Raises:
            DataError: a field is missing.
        """
        names = [self.find(axis, named) for axis in "xyz"]
        for axis, name in zip("xyz", names, strict=True):
            if name is None:
                raise DataError(
                    f"there is no field {axis!r}, only {', '.join(self.fields)}: say which it is, {axis}=NAME"
                )
        columns = [self.fields[name] for name in names if name is not None]
        single = all(column.dtype.kind == "f" and column.dtype.itemsize <= 4 for column in columns)
        return np.stack(columns, axis=1).astype(np.float32 if single else np.float64)


class CloudFormat(NamedTuple):
    """A format of files.

    Args:
        name: what messages call it.
        suffixes: of its files, in lower case.
        read: a file, what the user says about it, and the part -> its points.
        write: a cloud, that of the same file as it was read or None, and the suffix -> bytes; None: never written.
        parts: the clouds in a file that holds several; None: one.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[CloudFile, CloudOptions], Cloud]
    write: Callable[[Cloud, str], bytes] | None = None
    parts: Callable[[Path, CloudOptions], list[str]] | None = None


def _no_fields() -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class CloudOptions:
    """What the user says about clouds; files say the rest.

    Args:
        fields: meaning (x, y, z, intensity, label) -> name of the field, or its number from 0 on; "": there is none.
        columns: float32 numbers per point of a ``.bin`` file; None: 5 in ``.pcd.bin`` (nuScenes), 4 in others (KITTI).
        delimiter: between the columns of text; None: found from the first line.
        topic: of the clouds of a bag; None: all topics that have clouds.
        intensity_scale: the intensity that becomes strength 1; None: 1, 255 or 65535, the first that the largest one
            of a file does not exceed (integers are never taken for numbers up to 1).
        intensity: strength of clouds that have none; None: the mean of the data that the network was trained on.
        sensor_height: of the sensor above the ground [m]: the clouds are lifted so that the ground lies as in training.
        up: the axis that points up, one of ``UP``; the clouds are turned so that it is z.

    Raises:
        ConfigError: a value is wrong.
    """

    fields: Mapping[str, str] = field(default_factory=_no_fields)
    columns: int | None = None
    delimiter: str | None = None
    topic: str | None = None
    intensity_scale: float | None = None
    intensity: float | None = None
    sensor_height: float | None = None
    up: str = "z"

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping):
            raise refused("fields", self.fields, 'a dict such as dict(intensity="reflectance")')
        for meaning, name in self.fields.items():
            if meaning not in MEANINGS:
                raise ConfigError(
                    f"no field has the meaning {meaning!r}: {did_you_mean(str(meaning), MEANINGS)}", "fields"
                )
            if not isinstance(name, str):
                raise refused(f"fields.{meaning}", name, "the name of a field, or its number from 0 on, as a string")
        if self.columns is not None:
            check_integer("columns", self.columns, 3)
        if self.delimiter is not None and (not isinstance(self.delimiter, str) or len(self.delimiter) != 1):
            raise refused("delimiter", self.delimiter, "one character")
        if self.topic is not None and not isinstance(self.topic, str):
            raise refused("topic", self.topic, "the name of a topic")
        if self.intensity_scale is not None:
            check_number("intensity_scale", self.intensity_scale, 0, open_low=True)
        if self.intensity is not None:
            check_number("intensity", self.intensity, 0, 1)
        if self.sensor_height is not None:
            check_number("sensor_height", self.sensor_height)
        check_choice("up", self.up, UP)


OPTION_NAMES = tuple(entry.name for entry in fields(CloudOptions))


def column_names(count: int) -> list[str]:
    """Names for ``count`` columns of a file that has none."""
    return [*COLUMNS[:count], *(f"column{number}" for number in range(len(COLUMNS), count))]


def of_columns(points: np.ndarray, names: Iterable[str] | None = None, source: Any = None) -> Cloud:
    """A cloud of points (M, C), with the names of their columns."""
    if points.ndim != 2 or points.shape[1] < 3:
        raise DataError(f"expected points (N, 3) or with more columns, got {points.shape}")
    named = column_names(points.shape[1]) if names is None else list(names)
    return Cloud({name: points[:, number] for number, name in enumerate(named)}, source)


def of_records(records: np.ndarray, source: Any = None) -> Cloud:
    """A cloud of records (M,), numbers in the byte order of this machine; fields of several numbers are NAME_0, ..."""
    found: dict[str, np.ndarray] = {}
    for name in records.dtype.names or ():
        values = records[name]
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.dtype.base.kind not in "fiub" or name.startswith("_"):  # _: padding of PCD files
            continue
        if values.ndim == 1:
            found[name] = values
        else:
            for number, column in enumerate(values.reshape(len(values), -1).T):
                found[f"{name}_{number}"] = column
    return Cloud(found, source)


def to_records(cloud: Cloud, kinds: str = "fiu") -> np.ndarray:
    """The fields of a cloud as packed little-endian records (M,).

    Args:
        cloud: fields of numbers; half precision becomes single, truth values bytes.
        kinds: of numbers that the format has.
    """
    columns = {}
    for name, values in cloud.fields.items():
        if values.dtype.kind == "b" or (values.dtype.kind == "f" and values.dtype.itemsize not in (4, 8)):
            values = values.astype(np.uint8 if values.dtype.kind == "b" else np.float32)
        if values.dtype.kind in kinds:
            columns[name] = values
    dtype = np.dtype([(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
    records = np.empty(len(cloud), dtype)
    for name, values in columns.items():
        records[name] = values
    return records
