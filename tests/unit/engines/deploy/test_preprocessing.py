"""Voxels on the device are those of the transforms; bad points are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.datasets.transform import Compose
from pointcept.engines.defaults import load_config
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.utils.errors import ConfigError, DataError
from tests.paths import CONFIGS


@pytest.mark.parametrize("config", ["nuscenes/student.py", "waymo/student.py", "semantic_kitti/small_student.py"])
def test_voxels_are_those_of_the_transforms(config, sweep, device):
    cfg = load_config(CONFIGS / config)
    sample = {"coord": sweep[:, :3].copy(), "strength": sweep[:, 3:].copy(), "name": "scan"}
    sample["segment"] = np.zeros(len(sweep), np.int64)
    expected = Compose(cfg.data.val.to_dict()["transform"])(sample)
    voxels = Preprocessing.of_config(cfg)(torch.from_numpy(sweep).to(device))
    assert torch.equal(voxels.grid_coord.cpu(), expected["grid_coord"])
    assert torch.equal(voxels.inverse.cpu(), expected["inverse"])
    first = torch.full((len(voxels.feat),), len(sweep)).scatter_reduce_(
        0, voxels.inverse.cpu(), torch.arange(len(sweep)), "amin"
    )
    clipped = sweep[:, :3] if "waymo" not in config else np.clip(sweep[:, :3], [-75.2, -75.2, -4], [75.2, 75.2, 2])
    assert torch.equal(voxels.feat[:, :3].cpu(), torch.from_numpy(clipped.astype(np.float32))[first])
    assert torch.equal(voxels.feat[:, 3].cpu(), torch.from_numpy(sweep)[first, 3])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(0, 4), "N > 0"),
        (torch.zeros(5, 3), r"\(5, 3\)"),
        (torch.zeros(4), r"must be \(N, 4\)"),
        (torch.tensor([[0.0, 0, 0, 0], [0, float("nan"), 0, 0]]), "1 of 2 points .* not finite"),
        (torch.tensor([[0.0, 0, 0, float("inf")]]), "1 of 1 points"),
        (torch.tensor([[0.0, 0, 0, 0], [1e5, 0, 0, 0]]), "at most 65535 along an axis"),
        (torch.zeros(5, 4).half(), "got torch.float16"),
        (torch.zeros(5, 4).bfloat16(), "got torch.bfloat16"),
        (torch.tensor([[0, 5_412_345.2, 0, 0]]), "float32 resolves 0.5 m.*subtract the place of the sensor first"),
        (torch.tensor([[0, 5_412_345.2, 0, 0]], dtype=torch.float64), "subtract the place of the sensor first"),
        (torch.tensor([[7e4, 0, 0, 0], [7e4, 9, 0, 0]]), "float32 resolves 0.0078 m, coarser than 0.0063 m"),
    ],
)
def test_bad_points(points, message):
    with pytest.raises(DataError, match=message):
        Preprocessing(0.05)(points)


def test_points_that_a_clip_would_gather_on_its_border():
    points = torch.tensor([[0, 5_412_345.2, 0, 0]], dtype=torch.float64).repeat(9, 1)
    with pytest.raises(DataError, match="subtract the place of the sensor"):
        Preprocessing(0.05, clip=(-80, -80, -3, 80, 80, 1))(points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data.val.transform": []}, "needs GridSample"),
        ({"data.val.transform": [{"type": "CenterShift"}]}, "data.val.transform has CenterShift"),
        (
            {
                "data.val.transform": [
                    {"type": "GridSample"},
                    {"type": "Collect", "keys": ("coord",), "feat_keys": ("coord", "normal")},
                ]
            },
            "allowed are coord and strength",
        ),
    ],
)
def test_transforms_that_are_not_supported(options, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing.of_config(load_config(CONFIGS / "nuscenes/student.py", options))


def test_strengths_that_are_not_those_of_the_data_set_are_refused(sweep: np.ndarray) -> None:
    cfg = load_config(CONFIGS / "nuscenes" / "student.py")
    preprocessing = Preprocessing.of_config(cfg)
    preprocessing(torch.from_numpy(sweep))
    for factor in (255, -1):
        with pytest.raises(DataError, match=r"the strength of the points goes from .*, expected 0 to 1"):
            preprocessing(torch.from_numpy(sweep * np.array([1, 1, 1, factor], np.float32)))
    blind = Preprocessing(0.05, ("coord",), strength_range=(0, 1))
    blind(torch.from_numpy(sweep * np.array([1, 1, 1, 255], np.float32)))  # nobody reads it
