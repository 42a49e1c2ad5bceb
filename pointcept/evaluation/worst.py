"""The scans with the largest share of wrong points: their scores, and of a few the points themselves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointcept.utils import comm
from pointcept.utils.errors import DataError
from pointcept.utils.files import read_regular, write_bytes_atomic

KEPT, SHOWN = 12, 3
"""Scans whose scores are kept, and whose points are kept too."""
MOST = 2**29  # bytes
POINTS = Path("result") / "worst_precise.npz"
"""Where the tester writes :meth:`WorstScans.write`, below the folder of the run."""


@dataclass(frozen=True)
class ScanPoints:
    """The points of a scan.

    Attributes:
        coord: (N, 3) [m], the sensor at the origin, to a few centimetres.
        pred: int16 (N,) predicted classes.
        target: int16 (N,) true classes, -1 where there is none.
    """

    coord: np.ndarray
    pred: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class ScanScore:
    """How much of a scan is wrong.

    Attributes:
        name: of the scan.
        points: those with a label.
        wrong: of these.
        shown: the points, where they are kept.
    """

    name: str
    points: int
    wrong: int
    shown: ScanPoints | None = None

    @property
    def error(self) -> float:
        """Share of wrong points."""
        return self.wrong / self.points


class WorstScans:
    """Collects the scans with the largest share of wrong points.

    Args:
        ignore_index: target of the points that do not count.
    """

    def __init__(self, ignore_index: int = -1) -> None:
        self.ignore_index = ignore_index
        self.scores: list[ScanScore] = []

    def add(self, name: str, pred: Tensor, target: Tensor, coord: Any = None) -> ScanScore | None:
        """Look at a scan; returns its score, None without labels.

        Args:
            name: of the scan.
            pred: predicted classes (N,).
            target: true classes (N,).
            coord: (N, 3) [m], for its picture; None if nobody knows.
        """
        counts = target != self.ignore_index
        points, wrong = torch.stack([counts.sum(), (counts & (pred != target)).sum()]).tolist()
        if not points:
            return None
        score = ScanScore(name, points, wrong)
        if coord is not None and self._rank(score) < SHOWN:
            labels = torch.where(counts, target, -1)
            arrays = (array.cpu().numpy().astype(np.int16) for array in (pred, labels))
            score = ScanScore(name, points, wrong, ScanPoints(np.asarray(coord).astype(np.float16), *arrays))
        self.insert([score])
        return score

    def _rank(self, score: ScanScore) -> int:
        return sum(other.error >= score.error for other in self.scores)

    def insert(self, scores: Sequence[ScanScore]) -> None:
        """Look at scans whose scores are known."""
        ordered = sorted([*self.scores, *scores], key=lambda score: (-score.error, score.name))[:KEPT]
        self.scores = [
            score if rank < SHOWN else ScanScore(score.name, score.points, score.wrong)
            for rank, score in enumerate(ordered)
        ]

    def gather(self) -> None:
        """Take in what the other processes have; every process has to call it."""
        parts = comm.gather_objects(self.scores)
        self.scores = []
        self.insert([score for part in parts for score in part])

    def report(self) -> list[dict[str, Any]]:
        """Name, points and wrong points of the scans, the worst first."""
        return [{"name": s.name, "points": s.points, "wrong": s.wrong} for s in self.scores]

    def write(self, path: Path, colours: Sequence[str] = ()) -> Path | None:
        """Write the points of the worst scans, whole or not at all, where some are kept.

        Args:
            path: an ``.npz`` file.
            colours: ``#rrggbb`` of each class.

        Raises:
            OSError: it cannot be written.
        """
        shown = [score for score in self.scores if score.shown is not None]
        if not shown:
            return None
        arrays: dict[str, np.ndarray] = {"names": np.array([s.name for s in shown]), "colours": np.array(colours, str)}
        for number, score in enumerate(shown):
            assert score.shown is not None
            arrays |= {f"{key}_{number}": getattr(score.shown, key) for key in ("coord", "pred", "target")}
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        return write_bytes_atomic(path, stream.getvalue())


def read_points(path: Path) -> tuple[dict[str, ScanPoints], list[str]]:
    """What :meth:`WorstScans.write` wrote: the scans by name, the worst first, and the colours of the classes.

    Raises:
        OSError: it cannot be read.
        DataError: it is something else, or damaged.
    """
    data = read_regular(path, MOST)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            scans = {
                str(name): ScanPoints(*(file[f"{key}_{number}"] for key in ("coord", "pred", "target")))
                for number, name in enumerate(file["names"])
            }
            return scans, [str(colour) for colour in file["colours"]]
    except Exception as error:  # a zip archive may be broken in many ways
        raise DataError(f"{path} is damaged or something else: {error}") from error
