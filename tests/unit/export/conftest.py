"""Small networks with weights that tell classes apart, the card of an export, and crops of a real scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pointcept.engines.defaults import load_config
from pointcept.export.facts import card_of
from pointcept.export.graph import Graph
from pointcept.export.networks import describe
from pointcept.models import build_inference_model
from pointcept.utils.config import Config
from pointcept_runtime.card import CARD, Card, read_card
from tests.paths import CONFIGS

SPUNET = {
    "type": "SpUNet-v1m1",
    "in_channels": 4,
    "num_classes": 19,
    "base_channels": 8,
    "channels": (12, 16, 20, 24),
    "layers": (1, 2, 1, 1),
}
PATCHES = {"enc_patch_size": (64,) * 3, "dec_patch_size": (64,) * 2}


def small_config(folder: Path, kind: str, **backbone: Any) -> Config:
    """The config of a small student on SemanticKITTI's scans; ``kind`` is "ptv3" or "spunet"."""
    lines = [f"_base_ = [{str(CONFIGS / 'semantic_kitti' / 'small_student.py')!r}]"]
    if kind == "spunet":
        model = {"_delete_": True, "type": "DefaultSegmentor", "backbone": {**SPUNET, **backbone}}
        lines.append(f"model = {model!r}")
    else:
        lines.append(f"model = dict(backbone={ {**PATCHES, **backbone}!r})")
    path = folder / f"{kind}.py"
    path.write_text("\n".join(lines) + "\n")
    return load_config(path)


def fill(model: nn.Module) -> nn.Module:
    """Weights, biases and statistics away from their defaults, so that leaving one out changes the scores."""
    generator = torch.Generator().manual_seed(5)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif value.is_floating_point() and value.dim() == 1:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
        elif value.dim() > 1:
            value.copy_(1.5 * torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
    return model.eval()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Config, nn.Module, Graph]]:
    """Config, network and graph of a small student."""

    def build(kind: str, **backbone: Any) -> tuple[Config, nn.Module, Graph]:
        cfg = small_config(tmp_path, kind, **backbone)
        torch.manual_seed(3)
        model = fill(build_inference_model(cfg.model))
        return cfg, model, describe(model)

    return build


def save_weights(cfg: Config, model: nn.Module, path: Path) -> Path:
    """A checkpoint that carries its config."""
    torch.save({"state_dict": model.state_dict(), "config": cfg.pretty_text(), "epoch": 2, "iteration": 9}, path)
    return path


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """The card of a folder without programs."""
    folder = tmp_path_factory.mktemp("card")
    cfg = small_config(folder, "ptv3")
    model = fill(build_inference_model(cfg.model))
    cfg.weight = str(save_weights(cfg, model, folder / "model.pth"))
    content = {**card_of(cfg, model, describe(model)), "programs": {}}
    content["files"] = {"a": {"sha256": "0" * 64, "bytes": 0}}
    (folder / CARD).write_text(json.dumps(content, default=str))
    return read_card(folder)


@pytest.fixture(scope="session")
def sweep(shared_dir: Path) -> np.ndarray:
    """A real nuScenes scan, (N, 4) float32 x, y, z [m], strength."""
    points = np.fromfile(shared_dir / "data" / "nuscenes_sweep.pcd.bin", np.float32).reshape(-1, 5)[:, :4].copy()
    points[:, 3] /= 255
    return points


def street(points: int, seed: int = 0) -> np.ndarray:
    """A made-up scan (N, 4): a ground, a wall and clutter, so that all levels are filled unevenly."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, 4, (2, points))
    z = np.where(rng.random(points) < 0.6, 0.02 * x, rng.uniform(0, 3, points))
    y = np.where(rng.random(points) < 0.2, 6.0, y)
    return np.stack([x, y, z, rng.random(points)], 1).astype(np.float32)


def grid_of(points: np.ndarray, size: float) -> np.ndarray:
    """The distinct voxels (M, 3) of points, in a mixed order."""
    grid = np.floor(points[:, :3].astype(np.float64) / size).astype(np.int64)
    return np.random.default_rng(1).permutation(np.unique(grid - grid.min(0), axis=0))
