"""Scans that may fail without ending the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from pointcept.datasets.base import Draw
from pointcept.datasets.files import ScanFiles
from pointcept.utils.errors import DataError
from pointcept.utils.faults import machine_fault


class Outcome(NamedTuple):
    """What became of a scan.

    Args:
        classes: int64 (M,) of all points of the file, -1 for points without one; None if it has failed.
        notes: kind -> what the user should know about the file.
        error: why it has failed.
    """

    classes: np.ndarray | None
    notes: dict[str, str]
    error: Exception | None = None


class Tolerant(Dataset):
    """The samples of scan files; of one that cannot be read, dict(error=the reason), instead of an exception.

    An exception of a loading process would end the loader. All have the same seed, so that the classes of a file do not
    depend on the files beside it.

    Args:
        scans: the files.
    """

    asks_for_scans = True

    def __init__(self, scans: ScanFiles) -> None:
        self.scans = scans
        self.data_list = scans.data_list

    def get_data_name(self, idx: int) -> str:
        """Name of file ``idx``."""
        return self.scans.get_data_name(idx)

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """Sample of ``draw``, or ``error``."""
        try:
            return self.scans[Draw(draw.index, 0)]
        except DataError as error:
            reason = str(error)
        except Exception as error:
            fault = machine_fault(error)
            if fault is None:
                raise
            reason = fault
        name = self.get_data_name(draw.index)
        return {"error": reason if name in reason else f"{name}: {reason}"}
