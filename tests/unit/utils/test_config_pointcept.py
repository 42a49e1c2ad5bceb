"""A config as users of Pointcept have it: the nuScenes PTv3 one, shortened, with its runtime base."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pointcept.utils.config import Config, parse_options

RUNTIME = """
weight = None
resume = False
evaluate = True
test_only = False
seed = None
save_path = "exp/default"
num_worker = 16
batch_size = 16
batch_size_val = None
batch_size_test = None
epoch = 100
eval_epoch = 100
clip_grad = None
sync_bn = False
enable_amp = False
amp_dtype = "float16"
empty_cache = False
empty_cache_per_epoch = False
find_unused_parameters = False
enable_wandb = True
wandb_project = "pointcept"
wandb_key = None
mix_prob = 0
param_dicts = None
hooks = [dict(type="CheckpointLoader"), dict(type="CheckpointSaver", save_freq=None)]
train = dict(type="DefaultTrainer")
test = dict(type="SemSegTester", verbose=True)
"""

NUSCENES = """
_base_ = ["runtime.py"]
batch_size = 12
mix_prob = 0.8
enable_amp = True
model = dict(
    type="DefaultSegmentorV2", num_classes=16, backbone_out_channels=64,
    backbone=dict(type="PT-v3m1", in_channels=4, order=["z", "z-trans"], enc_depths=(2, 2, 2, 6, 2), qk_scale=None),
    criteria=[
        dict(type="CrossEntropyLoss", loss_weight=1.0, ignore_index=-1),
        dict(type="LovaszLoss", mode="multiclass", loss_weight=1.0, ignore_index=-1),
    ],
)
epoch = 50
eval_epoch = 50
optimizer = dict(type="AdamW", lr=0.002, weight_decay=0.005)
scheduler = dict(type="OneCycleLR", max_lr=[0.002, 0.0002], pct_start=0.04, anneal_strategy="cos")
param_dicts = [dict(keyword="block", lr=0.0002)]
dataset_type = "NuScenesDataset"
data_root = "data/nuscenes"
ignore_index = -1
names = ["barrier", "bicycle"]
data = dict(
    num_classes=16, ignore_index=ignore_index, names=names,
    train=dict(
        type=dataset_type, split="train", data_root=data_root, test_mode=False, ignore_index=ignore_index,
        transform=[dict(type="RandomRotate", angle=[-1, 1], axis="z", center=[0, 0, 0], p=0.5), dict(type="ToTensor")],
    ),
    test=dict(
        type=dataset_type, split="val", data_root=data_root,
        test_cfg=dict(crop=None, aug_transform=[[dict(type="RandomScale", scale=[0.9, 0.9])]]),
    ),
)
"""


def test_pointcept_config_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "runtime.py").write_text(RUNTIME)
    path = tmp_path / "nuscenes.py"
    path.write_text(NUSCENES)
    with caplog.at_level(logging.WARNING, logger="pointcept"):
        cfg = Config.fromfile(path, parse_options(["data_root=/mnt/nuscenes"]))
    assert len(caplog.records) == 4
    assert cfg.data.train.data_root == cfg.data.test.data_root == "/mnt/nuscenes"
    assert cfg.data.test.test_cfg.aug_transform[0][0].scale == [0.9, 0.9]
    assert cfg.num_worker == 16
    assert cfg.batch_size == 12
    assert cfg.train.type == "DefaultTrainer"
    assert not {"dataset_type", "names", "ignore_index", "enable_wandb"} & set(cfg)
    assert Config.fromfile(cfg.dump(tmp_path / "dumped.py")) == cfg
