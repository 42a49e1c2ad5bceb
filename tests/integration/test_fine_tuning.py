"""Weights of other networks: the recipe of the docs, and what the log says about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from pointcept.engines.defaults import load_config
from pointcept.models import build_model
from pointcept.utils.checkpoint import read_checkpoint
from tests.integration.scans import write_scan
from tests.integration.test_bad_input import cloud
from tests.paths import CONFIGS, REPO

SMALLER = {
    "../_base_/": f"{CONFIGS}/_base_/",
    "runtime.py": "runtime_cpu.py",
    "semantic_kitti.py": "semantic_kitti_small.py",
    "ptv3_teacher.py": "ptv3_small_teacher.py",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two small scans of sequence 00, one of 08."""
    path = tmp_path / "data"
    for sequence, frame in (("00", 0), ("00", 1), ("08", 0)):
        write_scan(path, sequence, frame, cloud(600, frame))
    return path


def published(
    path: Path, num_classes: int, in_channels: int, config: str = "small_teacher.py"
) -> dict[str, torch.Tensor]:
    """Write weights for other classes and channels as Pointcept does, beside a function of the scheduler."""
    model = load_config(CONFIGS / "semantic_kitti" / config).to_dict()["model"]
    model["backbone"]["in_channels"] = in_channels
    torch.manual_seed(3)
    state = build_model({**model, "num_classes": num_classes}).state_dict()
    content = {
        "epoch": 50,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "scheduler": {"total_steps": 100, "anneal_func": OneCycleLR._annealing_cos},
        "best_metric_value": 0.8,
    }
    torch.save(content, path)
    return state


def test_the_recipe_of_the_docs(call_tool: Callable[..., Any], root: Path, tmp_path: Path) -> None:
    docs = (REPO / "docs" / "configs.md").read_text()
    recipe = re.search(r"## Fine-tuning\n.*?```python\n(.*?)```", docs, re.DOTALL)
    assert recipe is not None
    text = recipe[1]
    for word, smaller in SMALLER.items():
        assert word in text
        text = text.replace(word, smaller)
    config, weight = tmp_path / "finetune_teacher.py", tmp_path / "model_best.pth"
    config.write_text(text)
    state = published(weight, num_classes=16, in_channels=5)
    options = (
        f"data_root={root}", f"save_path={tmp_path / 'run'}", f"weight={weight}", "num_worker=0", "epoch=2",
        "train.max_iter=2", "data.train.sequences=[0]", "eval_epoch=1", "log_freq=1", "param_dicts.0.lr=1e-9",
        "scheduler.max_lr.1=1e-9",
    )  # fmt: skip
    outcome = call_tool("train", "--config", str(config), "--options", *options)
    assert outcome.code == 0, outcome.err
    assert "left out what is neither a tensor nor a plain value: " in outcome.out
    assert "fits the model in " in outcome.out
    trained = read_checkpoint(tmp_path / "run" / "model" / "model_last.pth", foreign=False)["state_dict"]
    for name in ("seg_head.weight", "seg_head.bias", "backbone.embedding.stem.conv.weight"):
        assert trained[name].shape != state[name].shape
        assert f"{name} (file {tuple(state[name].shape)}, model {tuple(trained[name].shape)})" in outcome.out
    form = "PT-v3m1 with cpe_input='residual', for weights trained here or with Pointcept since 1.5.2"
    assert f"loaded weights from {weight}; {form}\n" in outcome.out
    for name in ("backbone.enc.enc0.block0.attn.qkv.weight", "backbone.dec.dec0.block0.mlp.0.fc1.weight"):
        torch.testing.assert_close(trained[name], state[name], rtol=0, atol=1e-6)


def test_every_door_says_which_form_it_has(call_tool: Callable[..., Any], root: Path, tmp_path: Path) -> None:
    weight, scan = tmp_path / "model_best.pth", next((root / "dataset").rglob("*.bin"))
    published(weight, num_classes=19, in_channels=4)
    config = str(CONFIGS / "semantic_kitti" / "small_teacher.py")
    form = "PT-v3m1 with cpe_input='mlp_branch', for weights trained with Pointcept up to 1.5.1"
    options = ("--options", f"weight={weight}", "model.backbone.cpe_input=mlp_branch")
    run = (f"data_root={root}", f"save_path={tmp_path / 'run'}", "num_worker=0")
    predict = ("predict", "--config", config, *options, "--scan", str(scan), "--out", str(tmp_path / "a.label"))
    for arguments in (("test", "--config", config, *options, *run), predict, (*predict, "--engine")):
        outcome = call_tool(*arguments)
        assert outcome.code == 0, outcome.err
        assert outcome.out.count(f"loaded weights from {weight}; {form}\n") == 1
    student = tmp_path / "student.pth"
    published(student, num_classes=16, in_channels=4, config="small_student.py")
    distill = str(CONFIGS / "semantic_kitti" / "small_distill_kld.py")
    outcome = call_tool(
        "train", "--config", distill, "--options", *run, f"model.teacher_weight={weight}", "train.max_iter=1",
        "model.teacher.backbone.cpe_input=mlp_branch", "data.train.sequences=[0]", "epoch=1", "eval_epoch=1",
        'hooks=[{"type": "CheckpointLoader"}]', "hooks.0.strict=False", f"weight={student}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert f"{student} fits the model in " in outcome.out
    assert "seg_head.bias (file (16,), model (19,))" in outcome.out
    assert outcome.out.count(f"loaded weights from {weight}; {form}\n") == 1
