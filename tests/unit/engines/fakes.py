"""A data set and a model small enough to train in a blink; registered when this module is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pointcept.datasets import DATASETS
from pointcept.datasets.base import Draw
from pointcept.engines.sampler import draw_seed
from pointcept.models import MODELS
from pointcept.utils.config import Config
from pointcept.utils.config_schema import defaults

NAMES = ("left", "middle", "right")


@DATASETS.register_module("FakeDataset")
class FakeDataset:
    """Points on a line in three classes; every draw with another seed gives other points."""

    def __init__(
        self,
        scans: int = 8,
        points: int = 40,
        test_mode: bool = False,
        labels: bool = True,
        views: int = 2,
        all_ignored: bool = False,
        full_resolution: bool = False,
    ) -> None:
        self.names, self.ignore_index, self.test_mode = NAMES, -1, test_mode
        self.scans, self.points, self.labels, self.views = scans, points, labels, views
        self.all_ignored, self.full_resolution = all_ignored, full_resolution
        self.data_list = [f"scan{i}" for i in range(scans)]

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def __len__(self) -> int:
        return self.scans

    def get_data_name(self, idx: int) -> str:
        return self.data_list[idx]

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        draw = draw if isinstance(draw, Draw) else Draw(draw, 0)
        np.random.seed(draw.seed)
        rng = np.random.default_rng([draw.index, 0 if self.test_mode else draw.seed])
        points = self.points + draw.index  # sizes differ
        x = rng.uniform(-1, 1, points)
        label = np.digitize(x, (-0.3, 0.3)).astype(np.int64)
        label[0] = -1
        if self.all_ignored:
            label[:] = -1
        coord = np.stack([x, rng.normal(size=points), rng.normal(size=points)], 1).astype(np.float32)
        return self._test_sample(draw.index, coord, label) if self.test_mode else self._sample(draw.index, coord, label)

    def _tensors(self, coord: np.ndarray) -> dict[str, torch.Tensor]:
        tensor = torch.from_numpy(coord)
        grid = torch.floor((tensor - tensor.min(0).values) / 0.05).long()
        return {"coord": tensor, "grid_coord": grid, "feat": tensor.clone(), "offset": torch.tensor([len(tensor)])}

    def _sample(self, index: int, coord: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        sample: dict[str, Any] = dict(**self._tensors(coord), name=self.data_list[index])
        sample["segment"] = torch.from_numpy(label)
        if self.full_resolution:  # every voxel stands for two points of the scan
            sample["inverse"] = torch.arange(len(coord)).repeat(2)
            sample["origin_segment"] = torch.from_numpy(label).repeat(2)
        return sample

    def _test_sample(self, index: int, coord: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        fragments = []
        for view in range(self.views):
            for half in (slice(0, None, 2), slice(1, None, 2)):
                rows = torch.arange(len(coord))[half]
                fragments.append({**self._tensors(coord[half] + np.float32(0.05 * view)), "index": rows})
        sample: dict[str, Any] = {"fragment_list": fragments, "name": self.data_list[index], "num_points": len(coord)}
        if self.labels:
            sample["segment"] = label
        if self.full_resolution:
            sample["inverse"] = np.arange(len(coord)).repeat(2)
            sample["origin_segment"] = label.repeat(2)
        return sample

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        path = Path(folder) / f"{name}.label"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.asarray(pred, np.uint8).tobytes())
        return path

    def finish_submission(self, folder: str | Path) -> None:
        path = Path(folder) / "finished"
        assert not path.exists(), "the tester finishes once"
        path.write_text(str(len(list(path.parent.iterdir()))))


@DATASETS.register_module("RenamedDataset")
class RenamedDataset(FakeDataset):
    """The same scans with other names."""

    def get_data_name(self, idx: int) -> str:
        return f"other{idx}"


@DATASETS.register_module("PoisonedScans")
class PoisonedScans(FakeDataset):
    """Scan 5 has a feature of another order of magnitude in the first pass over the data."""

    def __init__(self, value: float, **options: Any) -> None:
        super().__init__(**options)
        self.value = value

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        sample = super().__getitem__(draw)
        if draw == Draw(5, draw_seed(7, 0, 5)):
            sample["feat"][3, 1] = self.value
        return sample


@DATASETS.register_module("BrokenDataset")
class BrokenDataset(FakeDataset):
    """Every sample fails, in a loading process too: what a test patches does not reach those."""

    def _tensors(self, coord: np.ndarray) -> dict[str, torch.Tensor]:
        raise IndexError("index 3 is out of bounds")


@MODELS.register_module("FakeModel")
class FakeModel(nn.Module):
    """Two layers with dropout, and a loss of two terms."""

    def __init__(self, dropout: float = 0.2, norm: bool = True, bad_call: int | None = None) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.ReLU())
        self.dropout = nn.Dropout(dropout)
        self.seg_head = nn.Linear(16, len(NAMES))
        self.bad_call = bad_call
        self.calls = 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        logits = self.seg_head(self.dropout(self.block(batch["feat"])))
        result: dict[str, Any] = {} if self.training else {"seg_logits": logits}
        if "segment" in batch:
            target = batch["segment"]
            labelled = (target >= 0).sum().clamp(min=1)
            ce = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum") / labelled
            extra = 0.01 * logits.square().mean()
            self.calls += self.training
            if self.training and self.calls == self.bad_call:
                ce = ce * float("nan")
            result["loss"] = ce + extra
            result["losses"] = {"ce": ce.detach(), "size": extra.detach()}
        return result


@MODELS.register_module("FakeDistiller")
class FakeDistiller(nn.Module):
    """A student in training beside something else that has state."""

    def __init__(self, student: dict[str, Any]) -> None:
        super().__init__()
        self.student = MODELS.build(student)
        self.projection = nn.Linear(3, 1)

    @staticmethod
    def inference_config(cfg: dict[str, Any]) -> dict[str, Any]:
        return cfg["student"]

    @property
    def deployable(self) -> nn.Module:
        return self.student

    def fingerprint(self) -> str:
        return "of the teacher"

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        output: dict[str, Any] = self.student(batch)
        if self.training:
            output["loss"] = output["loss"] + 0.1 * self.projection(batch["feat"]).square().mean()
        return output


def make_config(folder: Path, **changes: Any) -> Config:
    """A config for 8 scans, 2 per batch, 3 evaluation epochs of 4 steps."""
    dataset = {"type": "FakeDataset"}
    tree: dict[str, Any] = dict(
        defaults(),
        save_path=str(folder),
        seed=7,
        num_worker=0,
        batch_size=2,
        epoch=3,
        eval_epoch=3,
        log_freq=2,
        mix_prob=0.5,
        model={"type": "FakeModel"},
        optimizer={"type": "AdamW", "lr": 0.01, "weight_decay": 0.005},
        scheduler={"type": "OneCycleLR", "max_lr": 0.01, "pct_start": 0.3},
        data={
            "num_classes": 3,
            "ignore_index": -1,
            "names": list(NAMES),
            "train": dataset,
            "val": dict(dataset, full_resolution=True),
            "test": dict(dataset, test_mode=True),
        },
        hooks=[
            {"type": "CheckpointLoader"},
            {"type": "IterationTimer"},
            {"type": "InformationWriter"},
            {"type": "SemSegEvaluator"},
            {"type": "CheckpointSaver"},
        ],
    )
    tree.update(changes)
    return Config(tree)
