"""Networks with known weights, real scans, and what the plain model says about them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pointcept.datasets.transform.sampling import group_by_voxel
from pointcept.engines.defaults import load_config
from pointcept.models import build_inference_model
from tests.paths import CONFIGS


@pytest.fixture(scope="session")
def fill(golden_dir: Path) -> Callable[[nn.Module], nn.Module]:
    """The function that sets the deterministic weights."""
    spec = importlib.util.spec_from_file_location("fill_weights", golden_dir / "fill_weights.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module.fill


@pytest.fixture(scope="session")
def make_model(fill: Callable[[nn.Module], nn.Module]) -> Callable[..., nn.Module]:
    """The network of a config, with known weights and other options of the backbone."""

    def make(config: str, patch_size: int | None = None, **backbone: Any) -> nn.Module:
        model = load_config(CONFIGS / config).to_dict()["model"]
        model = model.get("student", model)
        if patch_size is not None:
            for side in ("enc", "dec"):
                key = f"{side}_patch_size"
                model["backbone"][key] = (patch_size,) * len(model["backbone"][key])
        model["backbone"].update(backbone)
        return fill(build_inference_model(model)).eval()

    return make


@pytest.fixture(scope="session")
def sweep(shared_dir: Path) -> np.ndarray:
    """The points of a real nuScenes scan, (N, 4) float32 x, y, z [m], strength."""
    points = np.fromfile(shared_dir / "data" / "nuscenes_sweep.pcd.bin", np.float32).reshape(-1, 5)[:, :4].copy()
    points[:, 3] /= 255
    return points


def voxelize(points: np.ndarray, grid_size: float = 0.05) -> tuple[dict[str, Tensor], np.ndarray]:
    """The first point of each voxel as a batch, and the voxel of every point."""
    voxels = group_by_voxel(points[:, :3], grid_size)
    first = voxels.order[voxels.starts]
    batch = {
        "grid_coord": torch.from_numpy(np.ascontiguousarray(voxels.grid.T[first])),
        "feat": torch.from_numpy(points[first]),
        "offset": torch.tensor([len(first)]),
    }
    return batch, voxels.inverse()


def plain_logits(model: nn.Module, batch: dict[str, Tensor], device: torch.device) -> Tensor:
    """What the model itself gives, in float32."""
    model = model.to(device)
    with torch.no_grad():
        return model({key: value.to(device) for key, value in batch.items()})["seg_logits"]
