"""The inference engine: a trained network with folded weights, replayed as CUDA graphs over padded sizes.

    engine = InferenceEngine.from_config("configs/nuscenes/student.py", weight="model_best.pth")
    labels = engine.predict(points)     # (N, 4) x, y, z [m], strength -> (N,) int64
    logits = engine.logits(grid_coord, feat, offset)

A batch takes one transfer to the host (the sizes of its octree levels) and two graphs. A graph serves every
batch that fits into its capacities; a new one is captured where none fits.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pointcept.engines.defaults import load_config
from pointcept.engines.deploy.folding import Target
from pointcept.engines.deploy.network_ptv3 import DeployedPTv3
from pointcept.engines.deploy.plan import Survey, build_levels, choose_capacities, read_report, round_up, survey
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.models import build_inference_model
from pointcept.models.point_transformer_v3 import PointTransformerV3
from pointcept.models.segmentor import DefaultSegmentorV2
from pointcept.ops import backend, padded
from pointcept.utils import device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.errors import ConfigError, DataError, did_you_mean

logger = logging.getLogger(__name__)

DTYPES = {
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
    "fp32": torch.float32,
}
MAX_GRAPHS = 8
"""Graphs of the network that are kept; the one that was not used for longest goes first."""
_MOST_WASTE = 4  # a graph is used where its finest capacity is at most this multiple of the batch


@dataclass
class _Entry:
    """The input buffers of one capacity and the sorted batch that comes out of them."""

    grid_coord: Tensor
    feat: Tensor
    ends: Tensor
    replay: Callable[[], Survey]
    batch: Survey | None = None


class InferenceEngine:
    """Runs a trained segmentation network.

    Args:
        model: a segmentor with its weights: ``DefaultSegmentorV2`` with the backbone ``PT-v3m1``.
        dtype: "float16", "bfloat16" or "float32", also as a torch dtype; by default float16 on a GPU and float32
            on the CPU. In half precision products are half; sums, norms and the residual stream are float32.
        preprocessing: what :meth:`predict` does with points; :meth:`from_config` reads it from a config.
        where: the device; by default that of this process.

    Raises:
        ConfigError: a network, an option or a dtype that the engine does not support.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: str | torch.dtype | None = None,
        preprocessing: Preprocessing | None = None,
        where: torch.device | None = None,
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
        self._network = _deployed(model.eval(), Target(self.dtype, self.device))
        climbs = [stride.bit_length() - 1 for stride in self._network.strides]
        self._shifts = [sum(climbs[:i]) for i in range(len(climbs) + 1)]
        self._pool = device.graph_pool(self.device)
        self._entries: dict[tuple[int, int], _Entry] = {}
        self._graphs: OrderedDict[tuple[int, int, tuple[int, ...]], Callable[[], Tensor]] = OrderedDict()

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
        backend.configure(cfg.backend)
        model = build_inference_model(cfg.model)
        load_weights(model, weight)
        return cls(model, dtype, Preprocessing.of_config(cfg))

    @property
    def num_classes(self) -> int:
        """K."""
        return self._network.num_classes

    @torch.no_grad()
    def predict(self, points: Any) -> Tensor:
        """Label every point of a scan.

        Args:
            points: (N, 4) x, y, z [m] and strength as the data set of the config gives it (for nuScenes intensity /
                255), a tensor or an array.

        Returns:
            (N,) int64 classes on the engine's device.

        Raises:
            ConfigError: the engine was built without a config, so it does not know the voxels.
            DataError: another shape, no point, values that are not finite, or points too far apart.
        """
        if self.preprocessing is None:
            raise ConfigError("predict needs the transforms of a config: build the engine with from_config")
        voxels = self.preprocessing(torch.as_tensor(points).to(self.device, non_blocking=True))
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
        key = self._room(n), len(offset)
        entry = self._entry(key)
        entry.grid_coord[:n].copy_(grid_coord, non_blocking=True)
        entry.feat[:n].copy_(feat, non_blocking=True)
        entry.ends.copy_(offset, non_blocking=True)
        entry.batch = entry.replay()
        counts = read_report(entry.batch.report, len(self._shifts), n)
        return self._graph(key, counts)()[:n]

    def _room(self, n: int) -> int:
        """The smallest capacity of input buffers that there is and suits, or a new one."""
        fitting = [room for room, _ in self._entries if n <= room <= _MOST_WASTE * n]
        return min(fitting, default=round_up(n))

    def _entry(self, key: tuple[int, int]) -> _Entry:
        """The input buffers for a capacity and a number of scans, made now if there are none."""
        room, scans = key
        if key not in self._entries:
            if len(self._entries) == MAX_GRAPHS:
                oldest = next(iter(self._entries))
                del self._entries[oldest]
                for graph in [graph for graph in self._graphs if graph[:2] == oldest]:
                    del self._graphs[graph]
            grid_coord = torch.zeros(room, 3, dtype=torch.int64, device=self.device)
            feat = torch.zeros(room, self._network.in_channels, device=self.device)
            ends = torch.arange(1, scans + 1, dtype=torch.int32, device=self.device)
            orders, shifts = self._network.orders, self._shifts
            replay = device.capture(lambda: survey(grid_coord, feat, ends, orders, shifts), self.device, self._pool)
            self._entries[key] = _Entry(grid_coord, feat, ends, replay)
        return self._entries[key]

    def _graph(self, key: tuple[int, int], counts: list[int]) -> Callable[[], Tensor]:
        """A graph whose capacities hold ``counts``, captured now if there is none."""
        entry, room = self._entries[key], key[0]
        for known in reversed(self._graphs):
            fits = all(count <= capacity for count, capacity in zip(counts, known[2], strict=True))
            if known[:2] == key and fits:
                self._graphs.move_to_end(known)
                return self._graphs[known]
        capacities = (room, *(min(room, capacity) for capacity in choose_capacities(counts)[1:]))
        if len(self._graphs) == MAX_GRAPHS:
            self._graphs.popitem(last=False)
        start, network, shifts = time.perf_counter(), self._network, self._shifts

        def run() -> Tensor:
            batch = entry.batch
            assert batch is not None
            return network(batch.feat, batch.position, build_levels(batch, shifts, capacities))

        replay = device.capture(run, self.device, self._pool)
        self._graphs[room, key[1], capacities] = replay
        logger.info(
            "inference engine: ready for up to %s voxels per level after %.2f s (%d graphs, %d input buffers)",
            capacities,
            time.perf_counter() - start,
            len(self._graphs),
            len(self._entries),
        )
        return replay


def _deployed(model: nn.Module, target: Target) -> DeployedPTv3:
    """The folded network of a segmentor.

    Raises:
        ConfigError: there is none.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(model, DefaultSegmentorV2) or not isinstance(backbone, PointTransformerV3):
        got = type(model).__name__ + (f" with {type(backbone).__name__}" if backbone is not None else "")
        raise ConfigError(
            f"the inference engine supports DefaultSegmentorV2 with the backbone PT-v3m1, got {got}; "
            "other networks run without it"
        )
    return DeployedPTv3(backbone, model.seg_head, target)
