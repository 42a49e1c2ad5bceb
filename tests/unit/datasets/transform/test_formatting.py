"""Copies, updates, tensors, collection and chains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointcept.datasets import TRANSFORMS
from pointcept.datasets.transform import Collect, Compose, Copy, GridSample, ToTensor, Update
from pointcept.utils.errors import ConfigError, DataError

POINTCEPT_NAMES = [
    "RandomDropout",
    "RandomRotate",
    "RandomRotateTargetAngle",
    "RandomScale",
    "RandomShift",
    "RandomFlip",
    "RandomJitter",
    "ElasticDistortion",
    "GridSample",
    "SphereCrop",
    "PointClip",
    "CenterShift",
    "ToTensor",
    "Collect",
    "Copy",
    "Update",
    "ShufflePoint",
]

CHAIN = [
    {"type": "RandomRotate", "angle": [-1, 1], "axis": "z", "center": [0, 0, 0], "p": 0.5},
    {"type": "RandomScale", "scale": [0.9, 1.1]},
    {"type": "RandomFlip", "p": 0.5},
    {"type": "RandomJitter", "sigma": 0.005, "clip": 0.02},
    {
        "type": "GridSample",
        "grid_size": 0.5,
        "hash_type": "fnv",
        "mode": "train",
        "keys": ("coord", "strength", "segment"),
        "return_grid_coord": True,
    },
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord", "grid_coord", "segment"), "feat_keys": ("coord", "strength")},
]


@pytest.mark.parametrize("name", POINTCEPT_NAMES)
def test_names_of_pointcept_are_registered(name):
    assert name in TRANSFORMS


@pytest.mark.parametrize("n", [1, 200])
def test_chain_of_a_pointcept_config(n, make_sample):
    result = Compose(CHAIN)(make_sample(n))
    m = len(result["coord"])
    assert 1 <= m <= n
    kinds = {key: (value.dtype, tuple(value.shape)) for key, value in result.items() if key != "name"}
    assert kinds == {
        "coord": (torch.float32, (m, 3)),
        "grid_coord": (torch.int64, (m, 3)),
        "segment": (torch.int64, (m,)),
        "offset": (torch.int64, (1,)),
        "feat": (torch.float32, (m, 4)),
    }
    assert result["name"] == "sample"
    assert result["offset"].item() == m
    torch.testing.assert_close(result["feat"][:, :3], result["coord"])
    torch.testing.assert_close(result["feat"][:, 3].long(), result["segment"])


def test_to_tensor():
    read_only = np.arange(3)
    read_only.flags.writeable = False
    sample = {
        "i32": np.arange(3, dtype=np.int32),
        "u32": np.array([2**32 - 1], np.uint32),
        "f64": np.zeros((2, 3)),
        "bool": np.array([True]),
        "reversed": np.arange(3)[::-1],
        "read_only": read_only,
        "int": 3,
        "float": 0.5,
        "text": "a",
        "none": None,
        "nested": {"list": [np.zeros(1), "b"]},
        "tensor": torch.zeros(1, dtype=torch.float16),
    }
    result = ToTensor()(sample)
    dtypes = {key: value.dtype for key, value in result.items() if isinstance(value, torch.Tensor)}
    assert dtypes == {
        "i32": torch.int64,
        "u32": torch.int64,
        "f64": torch.float32,
        "bool": torch.bool,
        "reversed": torch.int64,
        "read_only": torch.int64,
        "int": torch.int64,
        "float": torch.float32,
        "tensor": torch.float16,
    }
    assert result["u32"].item() == 2**32 - 1
    assert result["reversed"].tolist() == [2, 1, 0]
    assert result["int"].shape == (1,)
    assert result["text"] == "a"
    assert result["none"] is None
    assert result["nested"]["list"][0].dtype == torch.float32
    assert result["nested"]["list"][1] == "b"
    with pytest.raises(DataError, match=r"poses\[1\] is a object"):
        ToTensor()({"poses": [1, object()]})
    with pytest.raises(DataError, match="text is a <U1 array"):
        ToTensor()({"text": np.array(["a"])})


def test_copy_is_whole_after_sampling(make_sample):
    sample = make_sample(100, extent=1.0)
    result = Compose([Copy({"segment": "origin_segment"}), GridSample(1.0)])(sample)
    assert len(result["origin_segment"]) == 100 > len(result["segment"])
    copied = Copy()(sample)
    copied["origin_coord"][:] = 0
    copied["origin_segment"][:] = 0
    assert sample["coord"].any()
    assert sample["segment"].any()
    del sample["segment"]
    assert "origin_segment" not in Copy({"segment": "origin_segment"})(sample)
    with pytest.raises(ConfigError, match="no 'colour', only coord, strength, name"):
        Copy({"colour": "x"})(sample)


def test_update_gives_each_sample_its_own_value(make_sample):
    update = Update({"index_valid_keys": ["coord"], "condition": "SemanticKITTI"})
    first, second = (GridSample(1.0, return_grid_coord=True)(update(make_sample(9))) for _ in range(2))
    assert first["index_valid_keys"] == second["index_valid_keys"] == ["coord", "grid_coord"]
    assert first["condition"] == "SemanticKITTI"
    first["index_valid_keys"].append("x")
    assert update.keys_dict["index_valid_keys"] == ["coord"]


def test_collect_options(make_sample):
    sample = ToTensor()({**make_sample(4), "height": np.arange(4)})
    result = Collect("coord", {"offset": "coord", "other_offset": "height"}, feat_keys="height", aux_keys=["coord"])(
        sample
    )
    assert set(result) == {"coord", "name", "offset", "other_offset", "feat", "aux"}
    assert result["feat"].shape == (4, 1)
    assert result["other_offset"].tolist() == [4]


def test_collect_errors(make_sample):
    sample = ToTensor()(make_sample(4))
    with pytest.raises(ConfigError, match="no 'grid_coord', only coord, strength, segment, name"):
        Collect(("coord", "grid_coord"))(sample)
    with pytest.raises(ConfigError, match="takes no 'feats'"):
        Collect(("coord",), feats=("coord",))
    with pytest.raises(ConfigError, match="put ToTensor before Collect"):
        Collect(("coord",))(make_sample(4))
    with pytest.raises(ConfigError, match="'name' must be a tensor"):
        Collect(("coord",), feat_keys=("name",))(sample)
    sample["segment"] = sample["segment"][:3]
    with pytest.raises(DataError, match=r"not aligned.*'segment': 3"):
        Collect(("coord", "segment"))(sample)


def test_compose_errors(make_sample):
    with pytest.raises(ConfigError, match=r"transform\.1.*RandomFlip"):
        Compose([{"type": "ToTensor"}, {"type": "RandomFlop"}])
    with pytest.raises(ConfigError, match=r"transform\.0.*sigma"):
        Compose([{"type": "RandomJitter", "sigm": 0.1}])
    with pytest.raises(ConfigError, match="transform: got a dict, allowed: a list of transforms"):
        Compose({"type": "ToTensor"})
    with pytest.raises(ConfigError, match=r"transform\.0 \(GridSample\) returned a list.*test_cfg.voxelize"):
        Compose([{"type": "GridSample", "mode": "test"}])(make_sample(3))


def test_compose_takes_callables_and_nothing(make_sample):
    sample = make_sample(3)
    assert Compose(None)(sample) is sample
    assert Compose([lambda s: {**s, "extra": 1}])(sample)["extra"] == 1
