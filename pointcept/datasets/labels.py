"""Label files, and the map between what they hold and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pointcept.utils.checks import refused
from pointcept.utils.errors import ConfigError, DataError, did_you_mean

from .reading import listed, read_binary

LABEL_SUFFIXES = (".label", ".npy", ".txt")
"""Suffixes of label files."""

NONE = 255
"""Label of points without a class where no label is ignored."""


def read_labels(path: Path) -> np.ndarray:
    """Read a label file.

    Args:
        path: ``.label``, uint32 whose lower 16 bits count; ``.npy``, integers (N,) or (N, 1); ``.txt``, one in a line.

    Returns:
        numbers (N,).

    Raises:
        DataError: it is missing, empty or malformed.
    """
    suffix = path.suffix.lower()
    if suffix == ".label":
        return (read_binary(path, np.uint32) & 0xFFFF).astype(np.int64)
    try:
        labels = np.load(path, allow_pickle=False) if suffix == ".npy" else np.loadtxt(path, ndmin=1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} holds no labels: {str(error).splitlines()[0]}") from None
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "fiu" or labels.size != labels.shape[0]:
        raise DataError(f"{path} holds no labels: expected integers (N,)")
    return labels.reshape(-1)


class LabelMap:
    """Labels of files <-> classes.

    Args:
        names: of the classes.
        label_map: label -> name of its class, None where it is ignored; None: labels are classes.
        ignored: further labels that are ignored.
        ignore_index: what becomes of them; a label of this value is ignored, too.

    Raises:
        ConfigError: a label is no integer, a class has no label, or a name is no class.
    """

    def __init__(
        self,
        names: Sequence[str],
        label_map: Mapping[int, str | None] | None,
        ignored: Sequence[int],
        ignore_index: int,
    ) -> None:
        self.first: list[int] = list(range(len(names)))
        known = {label: label for label in self.first}
        if label_map is not None:
            known = _checked(label_map, names, ignore_index)
            order = [label for label in label_map if known[label] >= 0]
            self.first = [next(label for label in order if known[label] == index) for index in range(len(names))]
        for label in ignored:
            if known.get(label, -1) >= 0:
                raise refused("ignored_labels", list(ignored), f"labels without a class; {label} has one")
            known[label] = ignore_index
        known.setdefault(ignore_index, ignore_index)
        self.known = known
        free = [label for label, index in known.items() if index < 0 and label >= 0]
        self.none = free[0] if free else NONE if known.get(NONE, -1) < 0 else max(known) + 1

    def classes(self, raw: np.ndarray, place: str) -> np.ndarray:
        """Classes int64 (N,), or the ignore index, of labels (N,).

        Raises:
            DataError: numbers that are no labels, or no integers; the message names ``place`` and them.
        """
        values, inverse = np.unique(raw, return_inverse=True)
        if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
            raise DataError(f"{place}: labels are integers, got {values[~(values == np.round(values))][:3].tolist()}")
        whole = values.astype(np.int64)
        unknown = ~np.isin(whole, list(self.known))
        if unknown.any():
            wrong = raw.reshape(-1)[unknown[inverse.reshape(-1)]].astype(np.int64)
            raise DataError(f"{place}: unknown label {listed(wrong)}. Known: {', '.join(map(str, sorted(self.known)))}")
        table = np.array([self.known[value] for value in whole.tolist()], np.int64)
        return table[inverse.reshape(-1)]

    def labels(self, classes: np.ndarray) -> np.ndarray:
        """Labels int64 (N,) of classes (N,): the first one of each class, one without a class for -1."""
        return np.where(classes < 0, self.none, np.array(self.first)[classes])


def _checked(label_map: Mapping[int, str | None], names: Sequence[str], ignore_index: int) -> dict[int, int]:
    """Label -> class index."""
    allowed = "a dict from labels (integers) to names of classes, or None where they are ignored"
    if not isinstance(label_map, Mapping):
        raise refused("label_map", label_map, allowed)
    known = {}
    for label, name in label_map.items():
        if not isinstance(label, int) or isinstance(label, bool):
            raise refused("label_map", label, allowed)
        if name is not None and name not in names:
            raise ConfigError(f"label {label} is of no class {name!r}: {did_you_mean(str(name), names)}", "label_map")
        known[label] = ignore_index if name is None else list(names).index(name)
    without = [name for index, name in enumerate(names) if index not in known.values()]
    if without:
        raise ConfigError(f"no label has the class {', '.join(map(repr, without))}", "label_map")
    return known
