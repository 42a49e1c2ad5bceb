"""Pictures of a few validation scans for TensorBoard: truth, prediction and errors from above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pointcept.evaluation import birdseye
from pointcept.utils import comm
from pointcept.utils.events import ScalarWriter

SIZE = 256  # px


class ScanPictures:
    """Draws the first scans of an evaluation; its :meth:`watch` is for ``evaluate_quick``.

    Args:
        number: of scans.
        writer: where the pictures go.
        dataset: gives ``names`` and perhaps ``colours``.
        iteration: how far the run is.
    """

    def __init__(self, number: int, writer: ScalarWriter, dataset: Any, iteration: int) -> None:
        self.left = number if comm.is_main_process() else 0
        self.writer, self.iteration = writer, iteration
        self.colours = birdseye.palette(len(dataset.names), getattr(dataset, "colours", ()))
        self._drawn = 0

    def watch(self, batch: Mapping[str, Tensor], pred: Tensor) -> None:
        """Draw what is wanted of a batch.

        Args:
            batch: ``coord`` (N, 3) [m], ``segment`` (N,) and ``offset`` (B,); without coordinates there is no picture.
            pred: predicted classes of its voxels (N,).
        """
        if not self.left or "coord" not in batch or "segment" not in batch:
            return
        ends = batch["offset"].tolist()
        for begin, end in zip([0, *ends], ends, strict=False):
            if self.left:
                rows = slice(begin, end)
                self._draw(*(_host(part[rows]) for part in (batch["coord"], batch["segment"], pred)))

    def _draw(self, coord: np.ndarray, target: np.ndarray, pred: np.ndarray) -> None:
        self.left -= 1
        self._drawn += 1
        parts = [birdseye.render(coord, classes, self.colours, SIZE) for classes in (target, pred)]
        picture = birdseye.side_by_side([*parts, birdseye.render_errors(coord, pred, target, SIZE)])
        height, width, _ = picture.shape
        name = f"val_quick/scan {self._drawn}: truth, prediction, errors"
        self.writer.add_picture(name, birdseye.png(picture), (width, height), self.iteration)


def _host(part: Tensor) -> np.ndarray:
    array: np.ndarray = part.detach().cpu().numpy()
    return array
