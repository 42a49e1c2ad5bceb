"""Evaluation after each epoch (quick) and at the end of training (precise)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from pointcept.datasets import build_dataset
from pointcept.engines.data import check_fit
from pointcept.engines.evaluate import EvaluationResult, evaluate_quick
from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.engines.hooks.pictures import ScanPictures
from pointcept.engines.hooks.progress import describe
from pointcept.engines.inference import Precision
from pointcept.engines.scores import network_name
from pointcept.engines.test import build_tester, tested_section
from pointcept.evaluation import Metrics, format_table
from pointcept.models import deployable
from pointcept.utils import comm, device
from pointcept.utils.checks import check_choice, check_integer

logger = logging.getLogger(__name__)

MEANS = ("miou_present", "miou_all", "macc_present", "all_acc")


def named_scores(metrics: Metrics, prefix: str) -> dict[str, float]:
    """The scalars of one evaluation: its means, and the IoU of each class that occurs or is predicted.

    Args:
        metrics: of the evaluation.
        prefix: how it was made, ``val_quick`` or ``test_precise``.
    """
    means = {f"{prefix}/{name}": getattr(metrics, name) for name in MEANS}
    classes = zip(metrics.names, metrics.iou, strict=True)
    return means | {f"{prefix}_iou/{name}": iou for name, iou in classes if not math.isnan(iou)}


@HOOKS.register_module()
class SemSegEvaluator(HookBase):
    """Evaluates the network that is deployed on ``data.val`` in one pass; every name begins with ``val_quick``.

    Args:
        metric: which mean decides which checkpoint is best.
        pictures: scans that TensorBoard shows from above after each evaluation, the first ones of ``data.val``.

    Raises:
        ConfigError: another metric than ``MEANS``, or a negative number.
    """

    phase = Phase.EVALUATE

    def __init__(self, metric: str = "miou_present", pictures: int = 2) -> None:
        self.metric = check_choice("metric", metric, MEANS)
        self.pictures = check_integer("pictures", pictures, 0)

    def after_epoch(self) -> None:
        trainer = self.trainer
        if trainer.val_loader is None:
            return
        trainer.check_losses()  # an evaluation of a network that is already lost would only cost time
        network = deployable(trainer.network)
        name = f"{network_name(network)} after iteration {trainer.iteration}"
        pictures = ScanPictures(self.pictures, trainer.writer, trainer.val_set, trainer.iteration)
        start = time.perf_counter()
        metrics, losses = evaluate_quick(
            network, trainer.val_loader, trainer.val_set, Precision.of(trainer.cfg), name, pictures.watch
        )
        trainer.writer.add("time/evaluation", time.perf_counter() - start, trainer.iteration)
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
        scalars = named_scores(metrics, "val_quick") | {f"val_quick/{name}": value for name, value in losses.items()}
        trainer.writer.add_all(scalars, trainer.iteration)


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
        tester = build_tester(trainer.cfg, weight=str(path))
        metrics = tester.test()
        if metrics is not None:
            trainer.writer.add_all(named_scores(metrics, f"test_{tester.kind}"), trainer.iteration)
