"""The inference engine: a trained network with folded weights, replayed as CUDA graphs over padded sizes.

    engine = InferenceEngine.from_config("configs/nuscenes/student.py", weight="model_best.pth")
    labels = engine.predict(points)     # (N, 4) x, y, z [m], strength -> (N,) int64
    logits = engine.logits(grid_coord, feat, offset)

Point Transformer V3 runs on kernels of its own for deployment, other segmentors on those of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pointcept.engines.defaults import load_config
from pointcept.engines.deploy.captured_ptv3 import CapturedPTv3
from pointcept.engines.deploy.folding import Target
from pointcept.engines.deploy.network_graphed import GraphedSegmentor
from pointcept.engines.deploy.network_ptv3 import DeployedPTv3
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.engines.preflight import check_prediction
from pointcept.engines.scores import advice, check_scores, network_name
from pointcept.models import build_inference_model
from pointcept.models.point_transformer_v3 import PointTransformerV3
from pointcept.models.segmentor import DefaultSegmentorV2, Segmentor
from pointcept.ops import backend, padded
from pointcept.utils import device
from pointcept.utils.checkpoint import damage, load_weights
from pointcept.utils.errors import CheckpointError, ConfigError, DataError, did_you_mean

DTYPES = {
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


class InferenceEngine:
    """Runs a trained segmentation network.

    Args:
        model: a segmentor with its weights.
        dtype: "float16", "bfloat16" or "float32", also as a torch dtype; by default float16 on a GPU and float32
            on the CPU. In half precision products are half; sums, norms and the residual stream are float32.
        preprocessing: what :meth:`predict` does with points; :meth:`from_config` reads it from a config.
        where: the device; by default that of this process.
        weight: the file that the weights come from, for messages.

    Raises:
        ConfigError: a network, an option or a dtype that the engine does not support, or that has no numbers large
            enough for the weights.
        CheckpointError: weights that are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: str | torch.dtype | None = None,
        preprocessing: Preprocessing | None = None,
        where: torch.device | None = None,
        weight: str | Path | None = None,
    ) -> None:
        self.device = where or device.get_device()
        if isinstance(dtype, str):
            if dtype not in DTYPES:
                raise ConfigError(f"inference engine: unknown dtype {dtype!r}: {did_you_mean(dtype, DTYPES)}")
            dtype = DTYPES[dtype]
        self.dtype = dtype or (torch.float16 if self.device.type == "cuda" else torch.float32)
        if self.dtype not in DTYPES.values():
            raise ConfigError(f"inference engine: dtype {self.dtype}: {did_you_mean(str(self.dtype), DTYPES)}")
        self.preprocessing = preprocessing
        self._name = f"the inference engine of {network_name(model, weight)}"
        damaged = damage(model.state_dict())
        if damaged is not None:
            raise CheckpointError(f"{self._name}: {damaged}")
        self._network = _deployed(model.eval(), Target(self.dtype, self.device))
        beyond = self._network.not_finite()
        if beyond:
            raise ConfigError(
                f"{self._name}: {self.dtype} has no numbers as large as those in {', '.join(beyond[:10])}"
                f"{f' and {len(beyond) - 10} more' if len(beyond) > 10 else ''}: use another dtype, bfloat16 or float32"
            )

    @classmethod
    def from_config(
        cls,
        config: str | Path,
        weight: str | Path | None = None,
        dtype: str | torch.dtype | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> InferenceEngine:
        """Build the engine for the network and the validation transforms of a config.

        Args:
            config: a config file; of a distillation the student is deployed.
            weight: a checkpoint; by default the config's ``weight``.
            dtype: see the class.
            options: overrides of config keys, ``{"model.backbone.order": ("z",)}``.

        Raises:
            ConfigError: the config is wrong, has no weight, or asks for what the engine does not support.
            CheckpointError: the weights are missing, damaged or do not fit.
        """
        cfg = load_config(config, dict(options or {}))
        weight = weight or cfg.weight
        if not weight:
            raise ConfigError("the inference engine needs weights: weight=PATH")
        check_prediction(cfg, ["val"])
        backend.configure(cfg.backend)
        model = build_inference_model(cfg.model)
        load_weights(model, weight)
        return cls(model, dtype, Preprocessing.of_config(cfg), weight=weight)

    @property
    def num_classes(self) -> int:
        """K."""
        return self._network.num_classes

    @torch.no_grad()
    def predict(self, points: Any) -> Tensor:
        """Label every point of a scan.

        Args:
            points: (N, 4) x, y, z [m] and strength as the data set of the config gives it (for nuScenes intensity /
                255), a tensor or an array in float32, float64 or integers. x, y, z are relative to the sensor.

        Returns:
            (N,) int64 classes on the engine's device.

        Raises:
            ConfigError: the engine was built without a config, so it does not know the voxels.
            DataError: another shape, no real numbers, no point, values that are not finite, or points too far apart, or
                all of them so far from the origin that float32 does not resolve them.
            FloatingPointError: scores that are NaN or infinite.
        """
        if self.preprocessing is None:
            raise ConfigError("predict needs the transforms of a config: build the engine with from_config")
        voxels = self.preprocessing(_as_tensor(points).to(self.device, non_blocking=True))
        logits = self._run(voxels.grid_coord, voxels.feat, torch.tensor([len(voxels.feat)]))
        return logits.argmax(1).index_select(0, voxels.inverse)

    @torch.no_grad()
    def logits(self, grid_coord: Tensor, feat: Tensor, offset: Tensor) -> Tensor:
        """Class scores of the voxels of a batch.

        Args:
            grid_coord: (N, 3) integer voxel coordinates >= 0, each voxel of a scan once.
            feat: (N, C) features.
            offset: (B,) cumulative ends of the scans.

        Returns:
            (N, K) float32 on the engine's device, in the order of the rows.

        Raises:
            DataError: shapes that do not fit, an empty scan, coordinates out of range, or a voxel that occurs twice.
            FloatingPointError: scores that are NaN or infinite.
        """
        return self._run(grid_coord, feat, offset).clone()

    def _run(self, grid_coord: Tensor, feat: Tensor, offset: Tensor) -> Tensor:
        """The logits in a buffer that the next batch overwrites."""
        n, channels = len(grid_coord), self._network.in_channels
        if grid_coord.shape != (n, 3) or grid_coord.is_floating_point() or n == 0:
            raise DataError(
                f"grid_coord must be integer (N, 3), N > 0; got {grid_coord.dtype} {tuple(grid_coord.shape)}"
            )
        if feat.shape != (n, channels):
            raise DataError(f"feat must be ({n}, {channels}) for this network and grid_coord, got {tuple(feat.shape)}")
        if offset.dim() != 1 or not 1 <= len(offset) <= padded.MAX_SCANS:
            raise DataError(f"offset must be (B,), B from 1 to {padded.MAX_SCANS}, got {tuple(offset.shape)}")
        scores = self._network(grid_coord, feat, offset)
        return check_scores(scores, self._name, advice(self.dtype, "dtype='bfloat16' or 'float32'"))


def _as_tensor(points: Any) -> Tensor:
    """A tensor of ``points``, which keep their precision: float32, or float64 where they were wider or integers.

    Raises:
        DataError: they are no real numbers, or rows of different lengths.
    """
    if isinstance(points, Tensor) or hasattr(points, "__cuda_array_interface__"):
        return torch.as_tensor(points)
    try:
        array = np.asarray(points)
    except ValueError as error:
        raise DataError(f"points must be (N, 4): x, y, z [m], strength; got rows that do not fit: {error}") from None
    if array.dtype.kind not in "fiu" or array.dtype == np.float16:
        raise DataError(f"points must be (N, 4) float32 or float64: x, y, z [m], strength; got {array.dtype}")
    narrow = array.dtype.kind == "f" and array.dtype.itemsize == 4
    return torch.from_numpy(np.require(array, np.float32 if narrow else np.float64, ["C", "W"]))


def _deployed(model: nn.Module, target: Target) -> CapturedPTv3 | GraphedSegmentor:
    """The folded network of a segmentor.

    Raises:
        ConfigError: there is none.
    """
    backbone = getattr(model, "backbone", None)
    if isinstance(model, DefaultSegmentorV2) and isinstance(backbone, PointTransformerV3):
        return CapturedPTv3(DeployedPTv3(backbone, model.seg_head, target), target.device)
    if isinstance(model, Segmentor) and not isinstance(backbone, PointTransformerV3):
        return GraphedSegmentor(model, target)
    got = network_name(model)
    raise ConfigError(f"the inference engine supports segmentors, got {got}; other networks run without it")
