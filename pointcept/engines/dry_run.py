"""A rehearsal of a training: ``python tools/train.py --dry-run --config CONFIG``.

It makes every check, two iterations, an evaluation of a few scans and a checkpoint, and estimates what the whole run
takes. What it writes lies in a temporary folder, which is gone afterwards; ``save_path`` is only looked at.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from pointcept.datasets import build_dataset
from pointcept.engines import checkpoint, run_folder
from pointcept.engines.data import per_process, scan_loader
from pointcept.engines.defaults import default_setup
from pointcept.engines.evaluate import evaluate_quick
from pointcept.engines.hooks.checkpoint import CheckpointSaver
from pointcept.engines.hooks.evaluator import PreciseEvaluator
from pointcept.engines.hooks.progress import clock
from pointcept.engines.inference import Precision, predict_scan
from pointcept.engines.interrupt import Interrupts
from pointcept.engines.test import tested_section
from pointcept.engines.train import DefaultTrainer, build_trainer
from pointcept.models import deployable
from pointcept.utils import comm, device
from pointcept.utils.errors import ConfigError
from pointcept.utils.logging import setup_logging

logger = logging.getLogger(__name__)

STEPS, BATCHES = 2, 3
"""Iterations, and batches of the evaluation on each process."""
GB = 1e9


def dry_main(cfg: Any) -> None:
    """Rehearse the training of ``cfg`` in this process.

    Raises:
        ConfigError, DataError, CheckpointError, FloatingPointError, MachineError: the training would end so.
    """
    if cfg.test_only:
        raise ConfigError("test_only=True trains nothing that could be rehearsed: leave --dry-run out")
    place = _look_at(cfg)
    with _elsewhere(cfg):
        default_setup(cfg, "train")
        trainer = build_trainer(cfg)
        if not isinstance(trainer, DefaultTrainer):
            raise ConfigError(f"--dry-run needs a DefaultTrainer, got {type(trainer).__name__}", "train")
        try:
            with Interrupts() as trainer.interrupts:
                _rehearse(trainer, place)
        finally:
            trainer.release()
            trainer.writer.close()
            run_folder.release(cfg)


def _look_at(cfg: Any) -> Path:
    """The folder in which ``save_path`` is, or would be made.

    Raises:
        ConfigError: it holds a run that the training would refuse, or nothing can be written there.
    """
    folder = Path(cfg.save_path)
    held = run_folder.what_it_holds(folder)
    if held and not cfg.resume:
        raise ConfigError(
            f"save_path={folder} holds a run already ({held}): give another save_path, or go on with it (resume=True)"
        )
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"save_path={folder}: {place} is no folder in which this user can write")
    return place


@contextmanager
def _elsewhere(cfg: Any) -> Iterator[None]:
    """Have everything written in a temporary folder, also what several processes share; a run's state is only read."""
    point = run_folder.resume_point(cfg) if cfg.resume else None
    cfg.weight = str(point) if point is not None else None if cfg.resume else cfg.weight
    cfg.resume = False  # a damaged state would be set aside
    cfg.miou_result_path = None
    if "teacher_cache" in cfg.model:
        cfg.model.teacher_cache = None
    own = tempfile.mkdtemp(prefix="pointcept-dry-run-") if comm.is_main_process() else ""
    cfg.save_path = comm.broadcast_object(own)
    try:
        yield
    finally:
        setup_logging()  # closes the file
        if own:
            shutil.rmtree(own, ignore_errors=True)


def _rehearse(trainer: DefaultTrainer, place: Path) -> None:
    trainer.model.train()
    trainer.before_train()
    device.reset_peak_memory()
    step = _steps(trainer)
    trainer.settle()
    begin = time.perf_counter()
    path = trainer.folder / run_folder.LAST
    checkpoint.save(trainer, path)
    saving = time.perf_counter() - begin
    size = comm.broadcast_object(path.stat().st_size if comm.is_main_process() else 0)
    evaluation, precise = _evaluation(trainer), _precise(trainer)
    _tell_memory()
    _tell_disk(trainer, size, place)
    plan, evaluations = trainer.plan, trainer.max_epoch
    parts = {
        f"{plan.total_steps} iterations of {step:.3f} s": plan.total_steps * step,
        f"{evaluations} evaluations of {evaluation:.1f} s": evaluations * evaluation,
        f"{2 * evaluations} checkpoints of {saving:.1f} s": 2 * evaluations * saving,
        "the precise test": precise,
    }
    told = ", ".join(f"{name} {clock(seconds)}" for name, seconds in parts.items() if seconds)
    logger.info("dry run: the whole training would take about %s: %s", clock(sum(parts.values())), told)
    logger.info("dry run: nothing was written; the first iterations are slower than later ones, above all on a GPU")


def _steps(trainer: DefaultTrainer) -> float:
    """Train for two iterations; returns the seconds of the last one."""
    seconds = 0.0
    trainer.epoch = min(trainer.epoch, trainer.max_epoch - 1)
    with closing(trainer.groups()) as groups:  # type: ignore[type-var]
        begin = time.perf_counter()
        for batches in islice(groups, STEPS):
            result = trainer.run_step(batches)
            trainer.check_losses()
            device.synchronize()
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            logger.info(
                "dry run: iteration %d: loss %.4f, %.3f s, %d scans on this process",
                *(result.iteration, float(result.loss), seconds, result.batch_size),
            )
    return seconds


def _evaluation(trainer: DefaultTrainer) -> float:
    """Evaluate a few scans; returns the seconds that all of them would take."""
    if trainer.val_loader is None:
        return 0.0
    begin = time.perf_counter()
    network, loader = deployable(trainer.network), trainer.val_loader
    batches = min(BATCHES, len(loader))
    metrics, _ = evaluate_quick(network, islice(loader, batches), trainer.val_set, Precision.of(trainer.cfg))
    seconds = (time.perf_counter() - begin) / max(batches, 1)
    logger.info("dry run: evaluated %d scans, %.3f s a batch", metrics.num_scans, seconds)
    return seconds * len(loader)


def _precise(trainer: DefaultTrainer) -> float:
    """Test one scan as the end of the training does; returns the seconds that all of them would take."""
    if not any(isinstance(hook, PreciseEvaluator) for hook in trainer.hooks):
        return 0.0
    cfg, section = trainer.cfg, tested_section(trainer.cfg)
    if section != "test":
        return 0.0
    dataset = build_dataset(cfg.data[section], f"data.{section}")
    network = deployable(trainer.network)
    training = network.training
    network.eval()
    try:
        with closing(scan_loader(dataset, cfg)) as loader:
            begin = time.perf_counter()
            for sample in islice(loader, 1):
                predict_scan(network, sample, per_process(cfg.batch_size_test, "batch_size_test"), Precision.of(cfg))
            seconds = time.perf_counter() - begin
    finally:
        network.train(training)
    logger.info("dry run: tested a scan with all fragments and views, %.2f s", seconds)
    return seconds * math.ceil(len(dataset) / comm.world_size())


def _tell_memory() -> None:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    logger.info("dry run: peak memory of this process %.2f GB, without loading processes", 1024 * kilobytes / GB)
    if device.device_count():
        logger.info(
            "dry run: peak GPU memory %.2f GB in tensors, %.2f GB held",
            *(device.peak_memory() / GB, device.peak_reserved_memory() / GB),
        )


def _tell_disk(trainer: DefaultTrainer, size: int, place: Path) -> None:
    savers = [hook for hook in trainer.hooks if isinstance(hook, CheckpointSaver)]
    kept = sum(saver.keep_last + (trainer.max_epoch // saver.save_freq if saver.save_freq else 0) for saver in savers)
    files = kept + 2 * bool(savers)  # the best one, and the one that is being written
    need, free = files * size, shutil.disk_usage(place).free
    logger.info(
        "dry run: %d checkpoints of %.3f GB: %.3f GB on the disk, of which %.1f GB are free",
        *(files, size / GB, need / GB, free / GB),
    )
    if need > free:
        raise ConfigError(
            f"{need / GB:.1f} GB of checkpoints do not fit on the disk of {place}, where {free / GB:.1f} GB are free: "
            "free some space, or keep fewer (keep_last, save_freq of CheckpointSaver)",
            "save_path",
        )
