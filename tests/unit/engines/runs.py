"""Running the trainer on the fakes, and writing down what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pointcept.engines.hooks import HookBase, Phase
from pointcept.engines.step import StepResult
from pointcept.engines.train import DefaultTrainer, build_trainer
from pointcept.utils.device import seed_everything


class Recorder(HookBase):
    """Remembers every loss, and may do something after an iteration."""

    phase = Phase.FINISH

    def __init__(self, at: int | None = None, action: Callable[[], None] | None = None) -> None:
        self.at, self.action = at, action
        self.losses: dict[int, float] = {}
        self.lr: dict[int, float] = {}
        self.ended = 0

    def after_step(self, result: StepResult) -> None:
        self.losses[result.iteration] = float(result.loss)
        self.lr[result.iteration] = result.lr["base"]
        if result.iteration == self.at and self.action:
            self.action()

    def after_train(self) -> None:
        self.ended += 1


def interrupt() -> None:
    raise KeyboardInterrupt


def make_trainer(cfg: Any, recorder: Recorder | None = None) -> DefaultTrainer:
    seed_everything(cfg.seed)
    trainer = build_trainer(cfg)
    assert isinstance(trainer, DefaultTrainer)
    if recorder is not None:
        recorder.trainer = trainer
        trainer.hooks = [*trainer.hooks, recorder]
    return trainer


def run(cfg: Any, recorder: Recorder | None = None) -> tuple[DefaultTrainer, Recorder]:
    recorder = recorder or Recorder()
    trainer = make_trainer(cfg, recorder)
    trainer.train()
    return trainer, recorder


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
