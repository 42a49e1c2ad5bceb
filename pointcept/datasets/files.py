"""Scan files that lie anywhere, read as a data set reads its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import DataError

from .base import BaseDataset
from .reading import check_strength
from .transform.points import Sample


class ScanFiles(BaseDataset):
    """Unlabelled scan files in the format of a data set, as fragments for inference.

    Args:
        reader: the data set whose format the files have.
        files: what its ``find_scans`` gives.
        transform, test_cfg, nonfinite: see :class:`BaseDataset`.

    Raises:
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        reader: type[BaseDataset],
        files: Sequence[Path],
        transform: Sequence[Mapping[str, Any]] | None,
        test_cfg: Mapping[str, Any],
        nonfinite: str = "raise",
    ) -> None:
        self.reader = reader
        self.files = list(files)
        self.names = reader.names
        super().__init__("test", self.files[0].parent, transform, True, test_cfg, nonfinite=nonfinite)

    def get_data_list(self) -> list[Path]:
        """The files."""
        return self.files

    def get_data(self, idx: int) -> Sample:
        """Read file ``idx``: coord float32 (N, 3) [m], strength float32 (N, 1) in [0, 1], name.

        Raises:
            DataError: the file is malformed, or its numbers look like those of another format.
        """
        path = self.files[idx]
        sample, _ = self.reader.read_scan(path, self.nonfinite)
        if "strength" in sample:
            try:
                check_strength(sample["strength"], self.reader.STRENGTH_RANGE, self.reader.__name__)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
        return {**sample, "name": path.name}

    def get_data_name(self, idx: int) -> str:
        """Name of file ``idx``, without its folder."""
        return self.files[idx].name

    def full_prediction(self, idx: int, pred: np.ndarray) -> np.ndarray:
        """Classes of all points of file ``idx``, int64 (M,), -1 for those that nonfinite="drop" left out.

        Args:
            idx: the file.
            pred: classes (N,) of the points that :meth:`get_data` gives.
        """
        if self.nonfinite == "raise":
            return pred.astype(np.int64)
        _, kept = self.reader.read_scan(self.files[idx], self.nonfinite)
        if kept is None:
            return pred.astype(np.int64)
        classes = np.full(len(kept), -1)
        classes[kept] = pred
        return classes
