"""Scan files through the inference engine: ``tools/predict.py --engine``."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np

from pointcept.datasets.files import ScanFiles, full_prediction
from pointcept.engines.deploy.engine import InferenceEngine
from pointcept.engines.memory import memory_for
from pointcept.engines.prediction.scans import Outcome
from pointcept.utils.errors import DataError, MemoryShortage

logger = logging.getLogger(__name__)


def predict_with_engine(engine: InferenceEngine, scans: ScanFiles) -> Iterator[Outcome]:
    """Label file by file, each in one pass, and log how long the engine takes.

    Args:
        engine: made with preprocessing.
        scans: the files; of their transforms none is used, the engine has its own.

    Yields:
        Classes of all points of a file, or why it has none: it is malformed, its scores are no numbers, or memory is
        short.
    """
    for index in range(len(scans)):
        try:
            sample = scans.get_data(index)
        except DataError as error:
            yield Outcome(None, {}, error)
            continue
        points = np.concatenate([sample["coord"], sample["strength"]], axis=1)
        start = time.perf_counter()
        try:
            with memory_for(f"{sample['name']} ({len(points)} points)"):
                classes = engine.predict(points).cpu().numpy()
        except (DataError, FloatingPointError) as error:
            yield Outcome(None, sample["notes"], type(error)(f"{sample['name']}: {error}"))
            continue
        except MemoryShortage as error:
            yield Outcome(None, sample["notes"], error)
            continue
        seconds = time.perf_counter() - start
        logger.info("engine: %.2f ms, %.0f points/s: %s", 1000 * seconds, len(points) / seconds, sample["name"])
        yield Outcome(full_prediction(classes, sample["kept"]), sample["notes"])
