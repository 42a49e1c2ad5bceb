"""Scan files that lie anywhere, read as a data set reads its own, or as clouds of other formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import DataError

from .base import BaseDataset
from .clouds import CloudFile
from .clouds.reader import CloudReader
from .clouds.sensor import differences, measure
from .reading import check_strength
from .transform.points import Sample

LOOKED_AT = 20_000
"""Points of a scan by which its sensor is compared with that of the training."""


class ScanFiles(BaseDataset):
    """Unlabelled scan files as fragments for inference.

    A sample also has ``kept``, bool (M,) or None: which points of the file were read; and ``notes``: kind -> what the
    user should know about the file, such as how its sensor differs from that of the training.

    Args:
        reader: reads the files, or the data set whose format they have.
        files: what its ``find`` gives.
        transform, test_cfg, nonfinite: see :class:`BaseDataset`.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        reader: CloudReader | type[BaseDataset],
        files: Sequence[Path | CloudFile],
        transform: Sequence[Mapping[str, Any]] | None,
        test_cfg: Mapping[str, Any],
        nonfinite: str = "raise",
    ) -> None:
        self.reader = reader if isinstance(reader, CloudReader) else CloudReader(reader)
        self.files = list(files)
        self.names = self.reader.dataset.names
        first = self.files[0]
        root = first.path if isinstance(first, CloudFile) else first
        super().__init__("test", root.parent, transform, True, test_cfg, nonfinite=nonfinite)

    def get_data_list(self) -> list[Any]:
        """The files."""
        return self.files

    def get_data(self, idx: int) -> Sample:
        """Read file ``idx``: coord float32 (N, 3) [m], strength float32 (N, 1) in [0, 1], name, kept, notes.

        Raises:
            DataError: the file is malformed, or its numbers look like those of another format.
        """
        file, dataset = self.files[idx], self.reader.dataset
        frame = self.reader.read(file, self.nonfinite)
        sample, notes = frame.sample, dict(frame.notes)
        if "strength" in sample:
            try:
                check_strength(sample["strength"], dataset.STRENGTH_RANGE, self.reader.name)
            except DataError as error:
                raise DataError(f"{file}: {error}; --intensity-scale says which intensity is 1") from None
            if dataset.SENSOR is not None and len(sample["coord"]):
                every = max(1, len(sample["coord"]) // LOOKED_AT)
                seen = measure(sample["coord"][::every], sample["strength"][::every])
                seen = seen._replace(points=len(sample["coord"]))
                told = differences(seen, dataset.SENSOR)
                if "intensity" in notes:  # a constant
                    told.pop("strength", None)
                notes.update(told)
        return {**sample, "name": file.name, "kept": frame.kept, "notes": notes}

    def get_data_name(self, idx: int) -> str:
        """Name of file ``idx``, without its folder."""
        return self.files[idx].name

    def read(self, idx: int) -> Sample:
        """See :meth:`BaseDataset.read`; ``kept`` and ``notes`` wait for the result, out of reach of transforms."""
        sample = super().read(idx)
        self._aside = {key: sample.pop(key) for key in ("kept", "notes")}
        return sample

    def prepare_test_data(self, idx: int) -> dict[str, Any]:
        """See :meth:`BaseDataset.prepare_test_data`, and ``kept`` and ``notes``."""
        return {**super().prepare_test_data(idx), **self._aside}


def full_prediction(pred: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    """Classes of all points of a file, int64 (M,), -1 for those that nonfinite="drop" left out.

    Args:
        pred: classes (N,) of the points that were read.
        kept: which points of the file they are, bool (M,) with N True; None: all.
    """
    if kept is None:
        return pred.astype(np.int64)
    classes = np.full(len(kept), -1)
    classes[kept] = pred
    return classes
