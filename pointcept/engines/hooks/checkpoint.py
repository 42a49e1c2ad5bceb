"""Loading weights before training and saving checkpoints during it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from pointcept.engines import checkpoint, run_folder
from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.engines.step import StepResult
from pointcept.models import deployable
from pointcept.utils import comm
from pointcept.utils.checks import check_integer, check_number

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class CheckpointLoader(HookBase):
    """Start from ``cfg.weight``, or go on with a run when ``cfg.resume`` (see ``run_folder.resume_point``).

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
        cfg, weight = trainer.cfg, trainer.cfg.weight
        if cfg.resume:
            point = comm.broadcast_object(run_folder.resume_point(cfg))
            if point is not None and (self._is_own(point) or checkpoint.holds_a_run(point)):
                if weight and point != Path(weight):
                    logger.info("resume: the run has come to %s; weight=%s was for its first start", point, weight)
                checkpoint.restore(trainer, point)
                self._record()
                return
            start = f"the weights of {weight}" if weight else "the beginning"
            logger.info("resume: %s has no checkpoint yet, so the run starts from %s", cfg.save_path, start)
        if weight:
            network = deployable(trainer.network)
            checkpoint.load_weights(network, weight, self.strict, self.keywords, self.replacement)
        if cfg.resume:
            self._record()

    def _is_own(self, point: Path) -> bool:
        return point.resolve().parent == self.trainer.folder.resolve()

    def _record(self) -> None:
        """Say what the run is made of, now that it is known to go on with that."""
        cfg = self.trainer.cfg
        if comm.is_main_process() and run_folder.is_claimed(cfg):
            run_folder.write_record(cfg, Path(cfg.save_path))


@HOOKS.register_module()
class CheckpointSaver(HookBase):
    """Write ``model_last.pth`` before and after each evaluation, and ``model_best.pth`` when that has improved.

    Args:
        save_freq: also keep ``epoch_<n>.pth`` every so many evaluation epochs.
        save_iter: also write ``model_last.pth`` every so many optimizer steps.
        save_minutes: also write it when this time has passed since it was written; None never does.
        keep_last: how many of the last states are kept, ``model_previous.pth`` being the second one.

    Raises:
        ConfigError: a number below 1, or minutes that are not above 0.
    """

    phase = Phase.SAVE

    def __init__(
        self,
        save_freq: int | None = None,
        save_iter: int | None = None,
        save_minutes: float | None = 15,
        keep_last: int = 2,
    ) -> None:
        for name, value in (("save_freq", save_freq), ("save_iter", save_iter)):
            if value is not None:
                check_integer(name, value, 1)
        self.save_freq = save_freq
        self.save_iter = save_iter
        if save_minutes is not None:
            check_number("save_minutes", save_minutes, 0, open_low=True)
        self.seconds = None if save_minutes is None else 60 * save_minutes
        self.keep_last = check_integer("keep_last", keep_last, 1)

    def before_train(self) -> None:
        self.trainer.keep_last = self.keep_last
        self._begin = self._written = time.monotonic()
        self._first = self.trainer.iteration
        self._look = self._first + 1

    def after_step(self, result: StepResult) -> None:
        if (self.save_iter and result.iteration % self.save_iter == 0) or self._time_is_over(result.iteration):
            self._save(run_folder.LAST)

    def _save(self, name: str, epoch_done: bool = False) -> None:
        self.trainer.save(name, epoch_done)
        self._written = time.monotonic()

    def _time_is_over(self, iteration: int) -> bool:
        """Whether ``save_minutes`` have passed, by the clock of process 0.

        Processes wait for each other only where it looks at the clock: at half of the steps that seem to be left.
        """
        if self.seconds is None or iteration < self._look:
            return False
        now = time.monotonic()
        left = self.seconds - (now - self._written)
        per_step = (now - self._begin) / (iteration - self._first)
        steps = max(1, int(0.5 * (left if left > 0 else self.seconds) / max(per_step, 1e-6)))
        over, steps = comm.broadcast_object((left <= 0, steps))
        self._look = iteration + steps
        return over

    def after_steps(self) -> None:
        """Before the evaluation, which may fail or be cut."""
        trainer = self.trainer
        evaluates = trainer.cfg.evaluate and any(hook.phase == Phase.EVALUATE for hook in trainer.hooks)
        if evaluates and trainer.saved != trainer.iteration:
            self._save(run_folder.LAST)

    def after_epoch(self) -> None:
        trainer = self.trainer
        evaluation = trainer.evaluation
        fresh = evaluation is not None and evaluation.epoch == trainer.epoch
        # A NaN metric (nothing was labelled) never compares as better.
        better = evaluation is not None and fresh and evaluation.metric > trainer.best_metric
        if evaluation is not None and better:
            trainer.best_metric, trainer.best_iteration = evaluation.metric, trainer.iteration
            logger.info("best %s so far: %.4f", evaluation.metric_name, evaluation.metric)
        # The last one is written last: only when the others are there the epoch is done.
        names = [run_folder.BEST] if better else []
        if self.save_freq and (trainer.epoch + 1) % self.save_freq == 0:
            names.append(f"epoch_{trainer.epoch + 1}.pth")
        names.append(run_folder.LAST)
        if comm.is_main_process():
            logger.info("saving %s in %s", ", ".join(names), trainer.folder)
        with trainer.interrupts.hold():
            for name in names:
                self._save(name, epoch_done=True)
