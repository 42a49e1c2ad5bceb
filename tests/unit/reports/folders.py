"""A run's folder as a training leaves it, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointcept.evaluation import ConfusionMatrix, report_file, write_report
from pointcept.evaluation.worst import POINTS, WorstScans
from pointcept.utils.events import ScalarWriter

NAMES = ("road", "car", "traffic-sign", "bus")
CONFIG = """model = dict(type='Distiller', teacher=dict(type='T'), teacher_weight='nowhere/model/model_last.pth')
seed = 3
wandb_key = 'secret'
"""


def result(run: Path, right: float, seed: int = 0) -> None:
    """A precise result of three scans of which so many points are right, as a share; nothing is a bus."""
    rng = np.random.default_rng(seed)
    target = np.random.default_rng(9).integers(0, 3, (3, 400))
    pred = np.where(rng.uniform(size=target.shape) < right, target, rng.integers(0, 3, target.shape))
    coord = np.random.default_rng(7).normal(size=(3, 400, 3)) * [20, 20, 1]
    matrix, worst = ConfusionMatrix(len(NAMES), names=NAMES), WorstScans()
    for number in range(3):
        parts = torch.tensor(pred[number]), torch.tensor(target[number])
        matrix.update(*parts, distance=torch.tensor(coord[number, :, :2]).norm(dim=1))
        worst.add(f"scan <{number}>", *parts, coord[number])
    extra = {"parameters": 1_234_567, "weight": "model_best.pth", "worst_scans": worst.report()}
    write_report(run / report_file("precise"), matrix.compute(), "precise", extra)
    worst.write(run / POINTS)


def write_run(run: Path, right: float = 0.8, seed: int = 0) -> Path:
    """Scalars of 40 iterations and 2 evaluations, a result, config and environment."""
    writer = ScalarWriter(run)
    for iteration in range(1, 41):
        terms = {"train/loss": 4 / iteration, "train/kld": 1 / iteration, "train/kld/raw": 3 / iteration}
        writer.add_all(
            {**terms, "train/grad_norm": 1.0, "lr/base": 0.01, "time/step": 0.5, "time/data": 0.1}, iteration
        )
        if iteration % 20 == 0:
            means = {"val_quick/miou_present": iteration / 100, "val_quick/all_acc": 0.7}
            writer.add_all({**means, "val_quick_iou/road": 0.9, "val_quick_iou/car": iteration / 50}, iteration)
    writer.close()
    result(run, right, seed)
    (run / "config.py").write_text(CONFIG)
    facts: dict[str, Any] = {
        "torch": "2.6",
        "git": {"commit": "abc123", "dirty": True},
        "command": ["tools/train.py", "a b"],
    }
    (run / "environment.json").write_text(json.dumps(facts))
    return run
