"""Wrong values and parts that contradict each other, through the command line: one line with the place in the config,
before any data is read (the data root does not exist) and before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.paths import CONFIGS

SMALL = CONFIGS / "semantic_kitti" / "small_student.py"
DISTILL = CONFIGS / "semantic_kitti" / "small_distill_full.py"
TRAIN = "data.train.transform=[{'type': "
UNET = (
    "model={{'type': 'DefaultSegmentorV2', 'num_classes': 19, 'backbone_out_channels': 8, "
    "'backbone': {{'type': 'SpUNet-v1m1', 'in_channels': 4, {}}}}}"
)

CE = "model.criteria=[{'type': 'CrossEntropyLoss', "
FOCAL = "model.criteria=[{'type': 'FocalLoss', "
LOVASZ = "model.criteria=[{'type': 'LovaszLoss', "
DICE = "model.criteria=[{'type': 'DiceLoss', "
SGD = "optimizer={'type': 'SGD', 'lr': 0.1, "
STEPS = "scheduler={'type': 'MultiStepLR', "
NUSCENES = "{'type': 'NuScenesDataset', 'data_root': 'nowhere', "

# option -> what the message has to say; the place first
LOSSES = {
    CE + "'label_smoothing': 1.5}]": ("model.criteria.0.label_smoothing: got 1.5", "at least 0 and at most 1"),
    CE + "'label_smoothing': True}]": ("model.criteria.0.label_smoothing: got True",),
    CE + "'label_smoothing': 1e999}]": ("model.criteria.0.label_smoothing: got inf",),
    CE + "'weight': [1, 2, 3]}]": ("model.criteria.0.weight: got 3 class weights", "each of the 19 classes"),
    CE + f"'weight': {[-1] + [1] * 18}" + "}]": ("model.criteria.0.weight: got", "at least 0"),
    CE + f"'weight': {['1'] * 19}" + "}]": ("model.criteria.0.weight: got",),
    CE + f"'weight': {[0] * 19}" + "}]": ("model.criteria.0.weight: got", "not all 0"),
    "model.criteria=[{}]": ("model.criteria.0: expected a dict with the key 'type' (registry of losses)",),
    CE + "'loss_weight': -1}]": ("model.criteria.0.loss_weight: got -1", "at least 0"),
    CE + "'ignore_index': 0}]": ("model.criteria.0.ignore_index: got 0, allowed: -1", "data.train"),
    CE + "'ignore_index': -100}]": ("model.criteria.0.ignore_index: got -100, allowed: -1",),
    FOCAL + "'alpha': [0.5, 0.5]}]": ("model.criteria.0.alpha: got 2 values", "19 classes"),
    FOCAL + "'alpha': 2}]": ("model.criteria.0.alpha: got 2",),
    FOCAL + "'gamma': -1}]": ("model.criteria.0.gamma: got -1",),
    LOVASZ + "'mode': 'multi'}]": ("model.criteria.0.mode: got 'multi'", "did you mean 'multiclass'"),
    LOVASZ + "'mode': 'binary'}]": ("model.criteria.0.mode: got 'binary' for 19 classes",),
    LOVASZ + "'class_seen': [19]}]": ("model.criteria.0.class_seen: got class 19, allowed: 0 to 18",),
    LOVASZ + "'class_seen': []}]": ("model.criteria.0.class_seen: got []",),
    DICE + "'smooth': 0}]": ("model.criteria.0.smooth: got 0", "above 0"),
    DICE + "'exponent': 0.5}]": ("model.criteria.0.exponent: got 0.5",),
    "model.criteria=[{'type': 'SmoothCELoss', 'smoothing_ratio': -0.1}]": (
        "model.criteria.0.smoothing_ratio: got -0.1",
    ),
}
NETWORKS = {
    "model.backbone.drop_path=1.2": ("model.backbone.drop_path: got 1.2", "at least 0 and below 1"),
    "model.backbone.drop_path=-0.1": ("model.backbone.drop_path: got -0.1",),
    "model.backbone.attn_drop=1.5": ("model.backbone.attn_drop: got 1.5",),
    "model.backbone.proj_drop=2": ("model.backbone.proj_drop: got 2",),
    "model.backbone.mlp_ratio=0": ("model.backbone.mlp_ratio: got 0", "above 0"),
    "model.backbone.qk_scale=0": ("model.backbone.qk_scale: got 0",),
    "model.backbone.bn_momentum=2": ("model.backbone.bn_momentum: got 2",),
    "model.backbone.enc_num_head=[3,2,2]": ("model.backbone.enc_num_head: got 3 heads", "16 channels"),
    "model.backbone.enc_num_head=[0,2,2]": ("model.backbone.enc_num_head: got [0, 2, 2]", "at least 1"),
    "model.backbone.dec_channels=[-32,32]": ("model.backbone.dec_channels: got [-32, 32]",),
    "model.backbone.enc_depths=[1,-1,1]": ("model.backbone.enc_depths: got [1, -1, 1]",),
    "model.backbone.enc_depths=[1,1]": ("model.backbone.enc_depths: got [1, 1], allowed: 3 values",),
    "model.backbone.enc_patch_size=[0,256,256]": ("model.backbone.enc_patch_size: got",),
    "model.backbone.enc_channels=[16,True,32]": ("model.backbone.enc_channels: got",),
    "model.backbone.stride=[2,3]": ("model.backbone.stride: got [2, 3], allowed: powers of two",),
    "model.backbone.stride=[2,0]": ("model.backbone.stride: got [2, 0]",),
    "model.backbone.order=[]": ("model.backbone.order: got ()",),
    "model.backbone.order=['z','hilber']": ("model.backbone.order: got 'hilber'", "did you mean 'hilbert'"),
    "model.backbone.in_channels=0": ("model.backbone.in_channels: got 0",),
    "model.num_classes=0": ("model.num_classes: got 0",),
    "model.num_classes=18": ("data.train: model.num_classes=18", "19 classes"),
    "model.backbone_out_channels=31": ("model.backbone_out_channels: got 31", "32 channels"),
    UNET.format("'num_classes': -1"): ("model.backbone.num_classes: got -1",),
    UNET.format("'num_classes': 0, 'channels': [8, 8, 8], 'layers': [1, 1, 1]"): (
        "model.backbone.channels: got [8, 8, 8]", "even number",
    ),
    UNET.format("'num_classes': 0, 'channels': [8, 0], 'layers': [1, 1]"): (
        "model.backbone.channels: got [8, 0]",
    ),
    UNET.format("'num_classes': 0, 'base_channels': 0"): (
        "model.backbone.base_channels: got 0",
    ),
}  # fmt: skip
DATA = {
    "data.train.transform.0.p=1.5": ("data.train.transform.0.p: got 1.5", "at least 0 and at most 1"),
    "data.train.transform.0.angle=[1,-1]": ("data.train.transform.0.angle: got", "low not above high"),
    "data.train.transform.0.axis=w": ("data.train.transform.0.axis: got 'w'", "x, y, z"),
    "data.train.transform.0.center=[0,0]": ("data.train.transform.0.center: got",),
    "data.train.transform.1.scale=[1.1,0.9]": ("data.train.transform.1.scale: got",),
    "data.train.transform.1.scale=[0,1]": ("data.train.transform.1.scale: got", "above 0"),
    "data.train.transform.1.scale=['0.9',1]": ("data.train.transform.1.scale: got",),
    "data.train.transform.2.p=-1": ("data.train.transform.2.p: got -1",),
    "data.train.transform.3.grid_size=0": ("data.train.transform.3.grid_size: got 0",),
    "data.train.transform.3.grid_size=[0.1,0.1]": ("data.train.transform.3.grid_size: got", "3 finite numbers above 0"),
    "data.train.transform.3.mode=tets": ("data.train.transform.3.mode: got 'tets'", "did you mean 'test'"),
    "data.train.transform.4.point_max=0": ("data.train.transform.4.point_max: got 0",),
    "data.train.transform.6.keys=[]": ("data.train.transform.6.keys: got []",),
    "data.train.transform.6.feat_keys=[]": ("data.train.transform.6.feat_keys: got []",),
    TRAIN + "'RandomJitter', 'sigma': -1}]": ("data.train.transform.0.sigma: got -1",),
    TRAIN + "'RandomJitter', 'clip': 0}]": ("data.train.transform.0.clip: got 0",),
    TRAIN + "'PointClip', 'point_cloud_range': [0, 0, 0, 1, 1, 0]}]": (
        "data.train.transform.0.point_cloud_range: got", "larger maxima",
    ),
    TRAIN + "'ElasticDistortion', 'distortion_params': [[0.2, 0.4], [0, 1]]}]": (
        "data.train.transform.0.distortion_params.1.0: got 0",
    ),
    TRAIN + "'RandomDropout', 'dropout_ratio': 2}]": ("data.train.transform.0.dropout_ratio: got 2",),
    TRAIN + "'RandomShift', 'shift': [[1, 0], [0, 0], [0, 0]]}]": (
        "data.train.transform.0.shift.0: got",
    ),
    TRAIN + "'RandomRotateTargetAngle', 'angle': []}]": ("data.train.transform.0.angle: got []",),
    "data.train.loop=0": ("data.train.loop: got 0",),
    "data.train.split=trian": ("data.train.split: ", "did you mean 'train'"),
    "data.train.split=[]": ("data.train.split: got []",),
    "data.train.nonfinite=keep": ("data.train.nonfinite: got 'keep'",),
    "data.train.sequences=[-1]": ("data.train.sequences: got [-1]",),
    "data.train.ignore_index=255": ("data.train.ignore_index: got 255",),
    "data.train.ignore_index=-2": ("model.criteria.0.ignore_index: got -1, allowed: -2", "data.train"),
    "data.val.ignore_index=-2": ("model.criteria.0.ignore_index: got -1, allowed: -2, the ignore_index of data.val",),
    "data.test.ignore_index=-2": ("model.criteria.0.ignore_index: got -1, allowed: -2, the ignore_index of data.test",),
    "data.val.transform.1.grid_size=-1": ("data.val.transform.1.grid_size: got -1",),
    "data.val.unlabelled=True": ("data.val: unlabelled: got True", "allowed: False"),
    "data.val.transform.3.keys=['coord','grid_coord']": ("data.val: keys of Collect: got", "with 'segment'"),
    "data.val.test_mode=True": ("data.val", "test_cfg goes with test_mode=True"),
    "data.test.test_cfg.voxelize.grid_size=0": ("data.test.test_cfg.voxelize.grid_size: got 0",),
    "data.test.test_cfg.aug_transform.1.0.p=3": ("data.test.test_cfg.aug_transform.1.0.p: got 3",),
    "data.test.test_cfg.post_transform.1.keys=[]": ("data.test.test_cfg.post_transform.1.keys: got []",),
    "data.test.split=tset": ("data.test.split: ", "did you mean 'test'"),
    "data.test=" + NUSCENES + "'test_mode': True, 'test_cfg': {}}": ("data.test: model.num_classes=19", "16 classes"),
    "data.val=" + NUSCENES + "}": ("data.val: model.num_classes=19", "NuScenesDataset has 16 classes"),
    "data.train=" + NUSCENES + "'sweeps': 0}": ("data.train.sweeps: got 0",),
    "data.train=" + NUSCENES + "'input_sweeps': 11}": ("data.train.input_sweeps: got 11",),
    "data.train={'type': 'ConcatDataset', 'datasets': [" + NUSCENES + "'loop': 0}]}": (
        "data.train.datasets.0.loop: got 0",
    ),
    "data.train={'type': 'ConcatDataset', 'datasets': []}": ("data.train.datasets: got []",),
    "data={'train': {}}": ("data",),
}  # fmt: skip
OPTIMIZATION = {
    "optimizer.lr=-1": ("optimizer.lr: got -1, allowed: a finite number at least 0",),
    "optimizer.lr=1e999": ("optimizer.lr: got inf",),
    "optimizer.lr=fast": ("optimizer.lr: got 'fast'",),
    "optimizer.lr=True": ("optimizer.lr: got True",),
    "optimizer.betas=[0.9,1.0]": ("optimizer.betas: got", "at least 0 and below 1"),
    "optimizer.betas=[0.9]": ("optimizer.betas: got",),
    "optimizer.eps=0": ("optimizer.eps: got 0",),
    "optimizer.weight_decay=-0.1": ("optimizer.weight_decay: got -0.1",),
    SGD + "'momentum': 1.5}": ("optimizer.momentum: got 1.5",),
    SGD + "'nesterov': True}": ("optimizer: SGD cannot be built: ValueError",),
    SGD + "'dampening': -1}": ("optimizer.dampening: got -1",),
    "param_dicts=[{'keyword': 'blok'}]": ("param_dicts.0: keyword 'blok' matches no trainable parameter",),
    "param_dicts=[{'keyword': 'block', 'lr': -1}]": ("param_dicts.0.lr: got -1",),
    "param_dicts=[{'keyword': 'block', 'lr': 'x'}]": ("param_dicts.0.lr: got 'x'",),
    "param_dicts=[{'keyword': 'block', 'momentum': 0.9}]": ("param_dicts.0: AdamW has no 'momentum'",),
    "param_dicts=[{'keyword': ''}]": ("param_dicts.0: got",),
    "param_dicts=[3]": ("param_dicts.0: got 3",),
    "scheduler.pct_start=1.5": ("scheduler.pct_start: got 1.5", "at most 1"),
    "scheduler.anneal_strategy=cosine": ("scheduler.anneal_strategy: got 'cosine'", "did you mean 'cos'"),
    "scheduler.div_factor=0": ("scheduler.div_factor: got 0",),
    "scheduler.final_div_factor=-1": ("scheduler.final_div_factor: got -1",),
    "scheduler.max_lr=-1": ("scheduler.max_lr: got -1",),
    "scheduler.max_lr=[0.1]": ("scheduler.max_lr: ", "2 parameter groups (base, block)"),
    "scheduler.max_lr=[0.1,0.1,0.1]": ("scheduler.max_lr: ", "got 3 values"),
    "scheduler.max_momentum=0.5": ("scheduler.(base_momentum, max_momentum): got (0.85, 0.5)",),
    STEPS + "'milestones': [0.8, 0.5]}": ("scheduler.milestones: got", "rising"),
    STEPS + "'milestones': [5, 8]}": ("scheduler.milestones: got [5, 8]",),
    STEPS + "'milestones': [0.5], 'gamma': -1}": ("scheduler.gamma: got -1",),
    "scheduler={'type': 'PolyLR', 'power': -1}": ("scheduler.power: got -1",),
    "scheduler={'type': 'ExpLR', 'gamma': 0}": ("scheduler.gamma: got 0",),
    "scheduler={'type': 'CosineAnnealingLR', 'eta_min': -1}": ("scheduler.eta_min: got -1",),
    "scheduler={'type': 'MultiStepWithWarmupLR', 'milestones': [0.5], 'warmup_rate': 2}": (
        "scheduler.warmup_rate: got 2",
    ),
}
ENGINE = {
    "hooks.1.warmup_iter=-1": ("hooks.1.warmup_iter: got -1",),
    "hooks.2.log_freq=0": ("hooks.2.log_freq: got 0",),
    "hooks.3.metric=miou": ("hooks.3.metric: got 'miou'", "did you mean 'miou"),
    "hooks.4.save_freq=0": ("hooks.4.save_freq: got 0",),
    "hooks=[{'type': 'PreciseEvaluator'}]": ("hooks.0: PreciseEvaluator needs a hook of the phase SAVE",),
    "eval_epoch=3": ("eval_epoch=3",),
    "train.max_iter=0": ("max_iter=0",),
    "train.max_iter=5": ("max_iter=5 is less than eval_epoch=7",),
    "scheduler.total_steps=7": ("scheduler: 'total_steps' is no matter of the config",),
    "model.criteria=None": ("model: training needs labels and criteria",),
    "model.criteria=[]": ("model: training needs labels and criteria",),
    "clip_grad=1e999": ("clip_grad: got inf",),
    "clip_grad=-1": ("clip_grad: got -1",),
    "mix_prob=1.1": ("mix_prob: got 1.1",),
    "batch_size=0": ("batch_size: got 0",),
    "epoch=True": ("epoch: got True",),
    "test.verbose=3": ("test.verbose: got 3",),
}
DISTILLATION = {
    "model.losses.0.temperature=0": ("model.losses.0.temperature: got 0", "above 0"),
    "model.losses.0.loss_weight=-1": ("model.losses.0.loss_weight: got -1",),
    "model.losses.0.loss_weight={'start': 0.0}": ("model.losses.0.loss_weight: ", "'end' is missing"),
    "model.losses.0.loss_weight={'start': 0.0, 'end': -1.0}": ("model.losses.0.loss_weight.end: got -1.0",),
    "model.losses.0.loss_weight=much": ("model.losses.0.loss_weight: got 'much'",),
    "model.losses.0.sure=1.5": ("model.losses.0.sure: got 1.5", "below 1"),
    "model.gradients_every=0": ("model.gradients_every: got 0", "at least 1"),
    "model.teacher_weight=[]": ("model.teacher_weight: got []", "a file, or a list"),
    "model.losses.1.normalisation=max": ("model.losses.1.normalisation: got 'max'",),
    "model.losses.1.stage=7": ("model.losses.1.stage: got 7", "3 stages"),
    "model.losses.2.dims=[0,3]": ("model.losses.2.dims: got [0, 3]",),
    "model.losses.2.max_points=2": ("model.losses.2.max_points: got 2",),
    "model.losses.2.distance=chamfre": ("model.losses.2.distance: got 'chamfre'", "did you mean 'chamfer'"),
    "model.losses.2.seed=-1": ("model.losses.2.seed: got -1",),
    "model.losses=[{'type': 'AttentionTransferLoss', 'p': 0}]": ("model.losses.0.p: got 0",),
    "model.losses=[{'type': 'SimilarityLoss', 'max_points': 1}]": ("model.losses.0.max_points: got 1",),
    "model.student.backbone.drop_path=2": ("model.student.backbone.drop_path: got 2",),
    "model.teacher.backbone.attn_drop=2": ("model.teacher.backbone.attn_drop: got 2",),
    "model.student.num_classes=18": ("teacher and student must agree in num_classes",),
    "model.teacher.criteria.0.ignore_index=0": ("model.teacher.criteria.0.ignore_index: got 0, allowed: -1",),
    "model.student.criteria.1.ignore_index=3": ("model.student.criteria.1.ignore_index: got 3, allowed: -1",),
    "model.teacher.criteria.0.weight=[1,2]": ("model.teacher.criteria.0.weight: got 2 class weights",),
}


def check(outcome: Any, run: Path, words: tuple[str, ...]) -> None:
    assert outcome.code == 2, outcome.err or outcome.out
    assert outcome.err.startswith("error: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    missing = [word for word in words if word not in outcome.err]
    assert not missing, f"the message does not say {missing}: {outcome.err}"
    assert not run.exists(), "a run that cannot begin leaves the folder of an earlier one alone"


@pytest.mark.parametrize("option", [*LOSSES, *NETWORKS, *DATA, *OPTIMIZATION, *ENGINE])
def test_a_wrong_value_of_a_training(call_tool: Callable[..., Any], tmp_path: Path, option: str) -> None:
    words = {**LOSSES, **NETWORKS, **DATA, **OPTIMIZATION, **ENGINE}[option]
    common = (f"data_root={tmp_path / 'nowhere'}", f"save_path={tmp_path / 'run'}", "epoch=7", "eval_epoch=7")
    check(call_tool("train", "--config", str(SMALL), "--options", *common, option), tmp_path / "run", words)


# text of the section data, merged into that of the base -> what the message has to say
SECTIONS = {
    "num_classes=20": ("data.num_classes: got 20, but SemanticKITTIDataset of data.train has 19 classes",),
    "num_classes=0": ("data.num_classes: got 0",),
    "ignore_index=255": ("data.ignore_index: got 255, allowed: -1, as data.train has it",),
    "names=['car', 'road']": ("data.names: got 2 names, but SemanticKITTIDataset of data.train has 19 classes",),
    "names='car'": ("data.names: got 'car'",),
    "tset=1": ("data: takes no 'tset': did you mean 'test'",),
    "_delete_=True": ("data: there is no data.train, which this run needs",),
    "test=dict(_delete_=True, type='SemanticKITTIDataset', split='val')": ("data.test: test_mode: got False",),
}


@pytest.mark.parametrize(("text", "words"), SECTIONS.items(), ids=SECTIONS)
def test_what_a_config_says_of_its_data(
    call_tool: Callable[..., Any], tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = [{str(SMALL)!r}]\ndata_root = 'nowhere'\ndata = dict({text})\n")
    outcome = call_tool("train", "--config", str(path), "--options", f"save_path={tmp_path / 'run'}")
    check(outcome, tmp_path / "run", (f"{path}: ", *words))


TESTS = {
    "model.backbone.drop_path=2": ("model.backbone.drop_path: got 2",),
    "model.criteria.0.ignore_index=0": ("model.criteria.0.ignore_index: got 0, allowed: -1",),
    "model.num_classes=5": ("data.test: model.num_classes=5", "19 classes"),
    "data.test.test_cfg.voxelize.grid_size=-1": ("data.test.test_cfg.voxelize.grid_size: got -1",),
    "data.test.test_mode=False": ("data.test: ", "test_cfg goes with test_mode=True"),
    "data.test.split=tset": ("data.test.split: ", "did you mean 'test'"),
    "test.save_predictions=2": ("test.save_predictions: got 2",),
}


@pytest.mark.parametrize("option", TESTS)
def test_a_wrong_value_of_a_test(call_tool: Callable[..., Any], tmp_path: Path, option: str) -> None:
    common = (f"data_root={tmp_path / 'nowhere'}", f"save_path={tmp_path / 'run'}", "weight=nowhere.pth")
    check(call_tool("test", "--config", str(SMALL), "--options", *common, option), tmp_path / "run", TESTS[option])


@pytest.mark.parametrize("option", ["data.test.test_cfg.voxelize.grid_size=-1", "model.backbone.drop_path=2"])
@pytest.mark.parametrize("engine", [(), ("--engine",)])
def test_a_wrong_value_of_a_prediction(
    call_tool: Callable[..., Any], tmp_path: Path, option: str, engine: tuple[str, ...]
) -> None:
    place = "model.backbone.drop_path: got 2" if "drop" in option else "data.test.test_cfg.voxelize.grid_size: got -1"
    outcome = call_tool(
        "predict", "--config", str(SMALL), "--scan", "nowhere.bin", "--out", str(tmp_path / "run" / "a.npy"), *engine,
        "--options", "weight=nowhere.pth", option,
    )  # fmt: skip
    check(outcome, tmp_path / "run", (place,))


def test_a_wrong_value_of_an_ablation_is_found_before_its_first_row(
    call_tool: Callable[..., Any], tmp_path: Path
) -> None:
    """The last row alone has the wrong loss."""
    options = (f"save_path={tmp_path / 'run'}", "model.teacher_weight=random", "model.losses.2.max_points=2")
    rows = ("--rows", "kld", "topo", "--options", f"data_root={tmp_path / 'nowhere'}", *options)
    outcome = call_tool("ablation", "--config", str(DISTILL), *rows)
    check(outcome, tmp_path / "run_ablation", ("model.losses.1.max_points: got 2",))


@pytest.mark.parametrize(("option", "words"), DISTILLATION.items(), ids=DISTILLATION)
def test_a_wrong_value_of_a_distillation(
    call_tool: Callable[..., Any], tmp_path: Path, option: str, words: tuple[str, ...]
) -> None:
    common = (f"data_root={tmp_path / 'nowhere'}", f"save_path={tmp_path / 'run'}", "model.teacher_weight=random")
    check(call_tool("train", "--config", str(DISTILL), "--options", *common, option), tmp_path / "run", words)
