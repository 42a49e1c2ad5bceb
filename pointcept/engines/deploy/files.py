"""Scan files through the inference engine: ``tools/predict.py --engine``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np

from pointcept.datasets.files import ScanFiles
from pointcept.engines.deploy.engine import InferenceEngine
from pointcept.engines.memory import memory_for
from pointcept.utils.errors import DataError

logger = logging.getLogger(__name__)


def predict_with_engine(engine: InferenceEngine, scans: ScanFiles) -> Iterator[np.ndarray]:
    """Label file by file, each in one pass, and log how long the engine takes.

    Args:
        engine: made with preprocessing.
        scans: the files; of their transforms none is used, the engine has its own.

    Yields:
        Classes int64 (M,) of all points of a file, in its order; -1 for those that nonfinite="drop" left out.

    Raises:
        DataError: a file is malformed; the message names it.
        FloatingPointError: scores of a file are NaN or infinite.
        MemoryShortage: there is too little memory for a file.
    """
    for index in range(len(scans)):
        sample = scans.get_data(index)
        points = np.concatenate([sample["coord"], sample["strength"]], axis=1)
        start = time.perf_counter()
        try:
            with memory_for(f"{sample['name']} ({len(points)} points)"):
                classes = engine.predict(points).cpu().numpy()
        except (DataError, FloatingPointError) as error:
            raise type(error)(f"{sample['name']}: {error}") from error
        seconds = time.perf_counter() - start
        logger.info("engine: %.2f ms, %.0f points/s: %s", 1000 * seconds, len(points) / seconds, sample["name"])
        yield scans.full_prediction(index, classes)
