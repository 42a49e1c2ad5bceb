"""Loading weights before training and saving checkpoints during it."""

from __future__ import annotations

import logging
from pathlib import Path

from pointcept.engines import checkpoint, resume
from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.engines.step import StepResult
from pointcept.models import deployable
from pointcept.utils import comm
from pointcept.utils.checks import check_integer

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class CheckpointLoader(HookBase):
    """Start from ``cfg.weight``, or go on with a run when ``cfg.resume``.

    Args:
        keywords: part of the file's key names to replace; keys are seen with the prefix ``module.``.
        replacement: what to write in its place; None leaves it.
        strict: every weight has to be in the file and fit; otherwise what fits is loaded, and the log names the rest.
    """

    phase = Phase.LOAD

    def __init__(self, keywords: str = "", replacement: str | None = None, strict: bool = True) -> None:
        self.keywords = keywords
        self.replacement = keywords if replacement is None else replacement
        self.strict = strict

    def before_train(self) -> None:
        trainer = self.trainer
        if trainer.cfg.resume:
            resume.restore(trainer, Path(trainer.cfg.weight or trainer.folder / "model_last.pth"))
        elif trainer.cfg.weight:
            network = deployable(trainer.network)
            checkpoint.load_weights(network, trainer.cfg.weight, self.strict, self.keywords, self.replacement)


@HOOKS.register_module()
class CheckpointSaver(HookBase):
    """Write ``model_last.pth`` after each epoch and ``model_best.pth`` when the evaluation has improved.

    Args:
        save_freq: also keep ``epoch_<n>.pth`` every so many evaluation epochs.
        save_iter: also write ``model_last.pth`` every so many optimizer steps.

    Raises:
        ConfigError: a number below 1.
    """

    phase = Phase.SAVE

    def __init__(self, save_freq: int | None = None, save_iter: int | None = None) -> None:
        for name, value in (("save_freq", save_freq), ("save_iter", save_iter)):
            if value is not None:
                check_integer(name, value, 1)
        self.save_freq = save_freq
        self.save_iter = save_iter

    def after_step(self, result: StepResult) -> None:
        if self.save_iter and result.iteration % self.save_iter == 0:
            self.trainer.save("model_last.pth")

    def after_epoch(self) -> None:
        trainer = self.trainer
        evaluation = trainer.evaluation
        fresh = evaluation is not None and evaluation.epoch == trainer.epoch
        # A NaN metric (nothing was labelled) never compares as better.
        better = evaluation is not None and fresh and evaluation.metric > trainer.best_metric
        if evaluation is not None and better:
            trainer.best_metric = evaluation.metric
            logger.info("best %s so far: %.4f", evaluation.metric_name, evaluation.metric)
        names = ["model_last.pth"]
        if better:
            names.append("model_best.pth")
        if self.save_freq and (trainer.epoch + 1) % self.save_freq == 0:
            names.append(f"epoch_{trainer.epoch + 1}.pth")
        for name in names:
            trainer.save(name, epoch_done=True)
        if comm.is_main_process():
            logger.info("saved %s in %s", ", ".join(names), trainer.folder)
