"""An exported student, ready to label scans on ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcept_runtime.card import Card, read_card
from pointcept_runtime.errors import ExportError, ScanError
from pointcept_runtime.tables import Octree
from pointcept_runtime.voxels import voxelize

logger = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Student:
    """A network with its card; one object may label scans from several threads at once.

    Attributes:
        card: what the network is.
    """

    def __init__(self, card: Card, session: Any) -> None:
        self.card = card
        self._session = session

    def logits(self, grid: np.ndarray, feat: np.ndarray) -> np.ndarray:
        """Class scores of voxels.

        Args:
            grid: (M, 3) integer voxel coordinates >= 0, each voxel once.
            feat: (M, C) features.

        Returns:
            (M, K) float32.

        Raises:
            ScanError: shapes that do not fit, coordinates out of range, a voxel that occurs twice, or scores that are
                not finite.
        """
        card = self.card
        octree = Octree(grid, card.orders, card.strides)
        if feat.shape != (len(grid), len(card.columns)):
            raise ScanError(f"features must be {(len(grid), len(card.columns))}, got {feat.shape}")
        inputs = {"feat": np.ascontiguousarray(feat, np.float32), **octree.tables(card.tables)}
        (scores,) = self._session.run(["logits"], inputs)
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        if bad:
            raise ScanError(
                f"the scores of {bad} of {len(scores)} voxels are not finite: look for outliers in the scan"
            )
        return scores

    def label(self, points: Any) -> np.ndarray:
        """Label every point of a scan: one pass over its voxels, whose class all their points get.

        Args:
            points: (N, 4) x, y, z [m] relative to the sensor, and strength as in training.

        Returns:
            (N,) int64 classes, numbers of ``card.names``.

        Raises:
            ScanError: points that cannot be labelled; see :func:`pointcept_runtime.voxels.voxelize`.
        """
        voxels = voxelize(points, self.card)
        return self.logits(voxels.grid, voxels.feat).argmax(axis=1)[voxels.inverse]


def load(
    folder: str | Path, device: str = "cpu", threads: int | None = None, providers: Sequence[Any] | None = None
) -> Student:
    """Load the ONNX program of an exported folder; nothing else in the folder is run or opened.

    Args:
        folder: what ``pointcept export`` wrote.
        device: "cpu" or "cuda".
        threads: of a product on the CPU; by default as many as there are cores.
        providers: of ONNX Runtime, in place of ``device``.

    Raises:
        ExportError: see :func:`read_card`; the program is missing or damaged, does not take what the card says, or
            asks for a device that this ONNX Runtime does not know.
    """
    import onnxruntime

    if device not in PROVIDERS:
        raise ExportError(f"device: got {device!r}, allowed: {', '.join(PROVIDERS)}")
    card = read_card(folder)
    if "onnx" not in card.programs:
        raise ExportError(f"{folder} has no ONNX program, only {', '.join(card.programs) or 'weights'}")
    wanted = [PROVIDERS[device]] if providers is None else list(providers)
    known = onnxruntime.get_available_providers()
    if device == "cuda" and PROVIDERS[device] not in known:
        raise ExportError(f"this ONNX Runtime has no CUDA ({', '.join(known)}): pip install onnxruntime-gpu")
    name = card.programs["onnx"]["file"]
    data = card.read_file(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # Every scan has other sizes: plans for the memory of each would pile up.
    options.enable_mem_pattern = False
    # Weights in other files, which no program of ours has, could only lie in this folder.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(folder)))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=wanted)
    except Exception as error:  # ONNX Runtime has one class of errors for each of its states
        raise ExportError(f"{Path(folder) / name} cannot be loaded: {_first_line(error)}") from None
    got, expected = [entry.name for entry in session.get_inputs()], ["feat", *card.tables]
    shape = [entry.shape for entry in session.get_outputs() if entry.name == "logits"]
    if sorted(got) != sorted(expected) or len(shape) != 1 or shape[0][-1] != len(card.names):
        raise ExportError(
            f"{Path(folder) / name} is not what the card says: other inputs, or another number of classes"
        )
    return Student(card, session)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
