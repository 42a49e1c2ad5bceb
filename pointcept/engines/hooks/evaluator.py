"""Evaluation after each epoch (quick) and at the end of training (precise)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from pointcept.datasets import build_dataset
from pointcept.engines.data import check_fit
from pointcept.engines.evaluate import EvaluationResult, evaluate_quick
from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.engines.hooks.progress import describe
from pointcept.engines.inference import Precision
from pointcept.engines.scores import network_name
from pointcept.engines.test import build_tester, tested_section
from pointcept.evaluation import Metrics, format_table
from pointcept.models import deployable
from pointcept.utils import comm, device
from pointcept.utils.checks import check_choice

logger = logging.getLogger(__name__)

MEANS = ("miou_present", "miou_all", "macc_present", "all_acc")


@HOOKS.register_module()
class SemSegEvaluator(HookBase):
    """Evaluates the network that is deployed on ``data.val`` in one pass; every name begins with ``val_quick``.

    Args:
        metric: which mean decides which checkpoint is best.

    Raises:
        ConfigError: another metric than ``MEANS``.
    """

    phase = Phase.EVALUATE

    def __init__(self, metric: str = "miou_present") -> None:
        self.metric = check_choice("metric", metric, MEANS)

    def after_epoch(self) -> None:
        trainer = self.trainer
        if trainer.val_loader is None:
            return
        trainer.check_losses()  # an evaluation of a network that is already lost would only cost time
        network = deployable(trainer.network)
        name = f"{network_name(network)} after iteration {trainer.iteration}"
        metrics, losses = evaluate_quick(network, trainer.val_loader, trainer.val_set, Precision.of(trainer.cfg), name)
        trainer.evaluation = EvaluationResult(
            epoch=trainer.epoch,
            metric_name=f"val_quick/{self.metric}",
            metric=getattr(metrics, self.metric),
            metrics=metrics,
            losses=losses,
        )
        self._report(metrics, losses)

    def _report(self, metrics: Metrics, losses: dict[str, float]) -> None:
        trainer = self.trainer
        shown = f" {describe(losses)}" if losses else ""
        logger.info("Val quick [%d/%d]%s", trainer.epoch + 1, trainer.max_epoch, shown)
        logger.info("%s", format_table(metrics, "quick"))
        step = trainer.epoch + 1
        for name in MEANS:
            trainer.writer.add(f"val_quick/{name}", getattr(metrics, name), step)
        for name, value in losses.items():
            trainer.writer.add(f"val_quick/{name}", value, step)


@HOOKS.register_module()
class PreciseEvaluator(HookBase):
    """Runs the tester once training is complete, on ``model_best.pth`` or the last weights.

    Args:
        test_last: take ``model_last.pth`` even when there is a best one.
    """

    phase = Phase.FINISH
    needs = MappingProxyType({Phase.SAVE: "it tests the weights that CheckpointSaver has written"})

    def __init__(self, test_last: bool = False) -> None:
        self.test_last = test_last

    def sections(self, cfg: Any) -> Sequence[str]:
        return (tested_section(cfg),)

    def before_train(self) -> None:
        """Find out now, not after the training, whether the scans of the tester are there."""
        cfg = self.trainer.cfg
        place = f"data.{tested_section(cfg)}"
        check_fit(cfg, deployable(self.trainer.network), build_dataset(cfg.data[tested_section(cfg)], place), place)

    def after_train(self) -> None:
        trainer = self.trainer
        if not trainer.completed:
            return
        best, last = trainer.folder / "model_best.pth", trainer.folder / "model_last.pth"
        # Without an evaluation there is no best one.
        wanted = trainer.best_metric > float("-inf") and not self.test_last
        if wanted and not best.exists():
            logger.warning("%s has been removed; the last weights are evaluated in its place", best)
        path = best if wanted and best.exists() else last
        logger.info("precise evaluation of %s", path)
        comm.barrier()
        device.empty_cache()
        metrics = build_tester(trainer.cfg, weight=str(path)).test()
        if metrics is not None:
            for name in MEANS:
                trainer.writer.add(f"test_precise/{name}", getattr(metrics, name), trainer.max_epoch)
