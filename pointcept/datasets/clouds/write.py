"""Predictions as clouds: coloured PLY files, and files of the input's own format with a label on every point."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointcept.utils.errors import DataError

from . import las
from .cloud import Cloud, CloudFile, CloudOptions
from .files import SUFFIXES, read_cloud, suffix_of

UNLABELLED = (90, 90, 90)
"""Colour of points without a class."""
LABEL = "label"
COLOURS = ("red", "green", "blue")


def palette(count: int, colours: np.ndarray | None = None) -> np.ndarray:
    """Colours of ``count`` classes and, behind them, of points without a class, uint8 (count + 1, 3).

    Args:
        count: K.
        colours: (K, 3) from 0 to 255; None: hues by the golden angle, in two shades, so that neighbours differ.
    """
    if colours is None:
        hue = (np.arange(count) * 0.61803398875) % 1.0
        light = np.where(np.arange(count) % 2 == 0, 1.0, 0.72)
        wheel = np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        colours = np.round(255 * light[:, None] * (0.15 + 0.85 * wheel))
    return np.concatenate([np.asarray(colours).reshape(-1, 3), [UNLABELLED]]).astype(np.uint8)


def labelled(cloud: Cloud, labels: np.ndarray, options: CloudOptions, rename: bool = True) -> Cloud:
    """The cloud with ``labels`` (M,) in a field ``label``, in place of one of this name.

    Args:
        cloud: as it was read.
        labels: integers.
        options: what the user says about the file.
        rename: call the fields that are x, y, z and intensity so, as other programs know them.
    """
    own = {cloud.find(meaning, options.fields): meaning for meaning in ("x", "y", "z", "intensity") if rename}
    fields = {own.get(name, name): values for name, values in cloud.fields.items() if name != LABEL}
    fields[LABEL] = labels
    return Cloud(fields, cloud.source)


def coloured_ply(
    file: CloudFile,
    classes: np.ndarray,
    names: tuple[str, ...],
    options: CloudOptions,
    colours: np.ndarray | None = None,
) -> bytes:
    """A PLY file with x, y, z, intensity, colours and ``label`` of every point of a file that have finite coordinates.

    Args:
        file: the input.
        classes: int (M,), -1 for points without a class.
        names: of the classes; a comment of the header lists them.
        options: what the user says about the file.
        colours: see :func:`palette`.
    """
    cloud = read_cloud(file, options)
    _check_length(cloud, classes, file)
    coord = cloud.coord(options.fields)
    finite = np.isfinite(coord).all(axis=1)
    fields = dict(zip("xyz", coord[finite].T, strict=True))
    intensity = cloud.find("intensity", options.fields)
    if intensity is not None:
        fields["intensity"] = cloud.fields[intensity][finite]
    rgb = palette(len(names), colours)[classes[finite]]  # -1 is the last row
    fields.update(zip(COLOURS, rgb.T, strict=True))
    fields[LABEL] = classes[finite].astype(np.int16)
    text = SUFFIXES[".ply"].write
    assert text is not None
    return _with_comments(text(Cloud(fields), ".ply"), [f"label {i} {name}" for i, name in enumerate(names)])


def _with_comments(ply: bytes, comments: list[str]) -> bytes:
    head, mark, rest = ply.partition(b"element vertex")
    return head + b"".join(f"comment {line}\n".encode("ascii", "replace") for line in comments) + mark + rest


def own_format(file: CloudFile, suffix: str, labels: np.ndarray, options: CloudOptions) -> bytes:
    """The file with its fields and ``labels`` in the format of ``suffix``, all points in their order.

    In LAS they become the classification, so they have to be its codes, see :func:`las_codes`.

    Args:
        file: the input.
        suffix: a key of ``SUFFIXES``.
        labels: int (M,).
        options: what the user says about the file.

    Raises:
        DataError: the format holds no labels.
    """
    writer = SUFFIXES[suffix].write
    if writer is None:
        raise DataError(f"{suffix} files hold no labels: choose another format")
    cloud = read_cloud(file, options)
    _check_length(cloud, labels, file)
    small = np.int16 if len(labels) == 0 or abs(labels).max() < 2**15 else np.int32
    same = SUFFIXES[suffix] is SUFFIXES[str(suffix_of(file.path))]
    return writer(labelled(cloud, labels.astype(small), options, rename=not (same and cloud.source)), suffix)


def las_codes(classes: np.ndarray) -> np.ndarray:
    """Classification codes of classes (M,): 64 and up, which ASPRS leaves to users; 1 (unassigned) for -1.

    Raises:
        DataError: there are more classes than codes.
    """
    if len(classes) and classes.max() > 255 - las.FIRST_OWN:
        raise DataError(f"LAS has codes for {256 - las.FIRST_OWN} classes, got class {classes.max()}")
    return np.where(classes < 0, las.UNASSIGNED, classes + las.FIRST_OWN)


def can_be_written(path: Path) -> bool:
    """Whether the format of a file has room for labels."""
    suffix = suffix_of(path)
    return suffix is not None and SUFFIXES[suffix].write is not None


def _check_length(cloud: Cloud, classes: np.ndarray, file: CloudFile) -> None:
    if len(cloud) != len(classes):
        raise DataError(f"{file} has {len(cloud)} points now, {len(classes)} classes were predicted: it has changed")
