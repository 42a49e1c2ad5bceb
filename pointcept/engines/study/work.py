"""One run of a study in a process of its own: train, predict the scenes left out, write down what came out.

``python -m pointcept.engines.study.work`` reads the :class:`Run` as a pickle from its standard input.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pointcept.datasets import build_dataset
from pointcept.engines.data import eval_loader
from pointcept.engines.defaults import default_setup
from pointcept.engines.evaluate import judged_points
from pointcept.engines.inference import Precision, forward
from pointcept.engines.launch import exit_code
from pointcept.engines.run_folder import kept
from pointcept.engines.scores import check_scores, network_name
from pointcept.engines.study.plan import Run
from pointcept.engines.train import DefaultTrainer, build_trainer
from pointcept.evaluation import ConfusionMatrix, format_table
from pointcept.models import deployable
from pointcept.utils import device, lock
from pointcept.utils.checkpoint import save_atomically
from pointcept.utils.config_options import apply_options
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import write_text_atomic

logger = logging.getLogger(__name__)

MARK = "fingerprint"


def work(run: Run) -> None:
    """Train, or go on with, a run and write its log, weights and result, the result last.

    Raises:
        ConfigError, DataError, CheckpointError, FloatingPointError: of a training.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the training has been saved.
    """
    cfg, start = run.config, time.perf_counter()
    states = run.folder / "model"
    try:
        lock.hold(run.folder)
        cfg.resume = bool(kept(states)) and _mark(run.folder) == run.fingerprint
        if not cfg.resume:  # of another recipe, or of a result that was deleted to have it anew
            for folder in (states, run.folder / "result"):
                shutil.rmtree(folder, ignore_errors=True)
        default_setup(cfg, "train")
        write_text_atomic(run.folder / MARK, run.fingerprint)
        trainer = build_trainer(cfg)
        assert isinstance(trainer, DefaultTrainer)
        datasets = {scene: build_scene(run, scene) for scene in run.scenes}
        _check_unseen(trainer.train_set, datasets)
        trainer.train()
        network = deployable(trainer.network)
        matrices = {str(scene): predict(run, dataset, network) for scene, dataset in datasets.items()}
        save_atomically({"state_dict": compact(deployable(trainer.network).state_dict())}, run.weights)
        record(run, matrices, trainer.iteration, time.perf_counter() - start)
        shutil.rmtree(states)  # nobody goes on from there
    finally:
        lock.let_go(run.folder)


def _mark(folder: Path) -> str | None:
    path = folder / MARK
    return path.read_text(encoding="utf-8") if path.exists() else None


def build_scene(run: Run, scene: Any) -> Any:
    """The data set of one scene to predict: ``data.val`` with that scene alone."""
    return build_dataset(apply_options(run.config.to_dict(), {run.val_scenes: [scene]})["data"]["val"])


def _check_unseen(train_set: Any, datasets: Mapping[Any, Any]) -> None:
    """Check that no scan to predict is one to train on.

    Raises:
        ConfigError: a scene shares scans with the training data.
    """
    seen = _scans(train_set)
    for scene, dataset in datasets.items():
        shared = seen & _scans(dataset)
        if shared:
            raise ConfigError(
                f"{len(shared)} scans of scene {scene}, which is to be predicted, are in the training data: check "
                "train_scenes and val_scenes of the row"
            )


def _scans(dataset: Any) -> set[str]:
    """What a data set reads, in words; of a joint one what its parts read."""
    if hasattr(dataset, "datasets"):
        return set().union(*map(_scans, dataset.datasets))
    return {str(entry) for entry in dataset.data_list}


def predict(run: Run, dataset: Any, model: nn.Module) -> list[ConfusionMatrix]:
    """Quick evaluation of one scene.

    Args:
        run: gives the ranges, and the config for precision and loading.
        dataset: of the scene.
        model: on the device.

    Returns:
        One matrix per range. The distance of a point is that of its voxel from the sensor, in the horizontal plane.

    Raises:
        DataError: the scene has no labels.
        FloatingPointError: scores are NaN or infinite.
    """
    precision = Precision.of(run.config)
    cuts = torch.tensor(run.ranges, dtype=torch.float32, device=device.get_device())
    matrices = [
        ConfusionMatrix(dataset.num_classes, dataset.ignore_index, dataset.names, device.get_device())
        for _ in range(len(run.ranges) + 1)
    ]
    model.eval()
    with closing(eval_loader(dataset, run.config)) as loader:
        for batch in loader:
            batch = device.move(batch, device.get_device())
            if "segment" not in batch:
                raise DataError("a scene to predict has no labels: Collect the key 'segment' in data.val")
            rows, target = judged_points(batch)
            scores = forward(model, batch, precision)["seg_logits"]
            pred = check_scores(scores, network_name(model), precision.hint).argmax(dim=1)[rows]
            part = torch.bucketize(batch["coord"][rows][:, :2].norm(dim=1), cuts)
            for number, matrix in enumerate(matrices):
                matrix.update(pred, torch.where(part == number, target, dataset.ignore_index), len(batch["offset"]))
    return matrices


def compact(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of half the size: matrices in half precision, vectors and what it cannot hold as they are."""
    small = {}
    for name, value in state.items():
        half = value.half() if value.is_floating_point() and value.dim() > 1 else value
        small[name] = half.cpu() if bool(half.isfinite().all()) else value.cpu()
    return small


def record(run: Run, matrices: Mapping[str, list[ConfusionMatrix]], iterations: int, seconds: float) -> None:
    """Write the log and the result of a finished run.

    Args:
        run: the run.
        matrices: scene -> one matrix per range.
        iterations: optimizer steps.
        seconds: of this process; a run that was interrupted has had others.
    """
    first = next(iter(matrices.values()))[0]
    pooled = ConfusionMatrix(first.num_classes, first.ignore_index, first.names)
    for parts in matrices.values():
        for part in parts:
            pooled.counts += part.counts.cpu()
        pooled.num_scans += parts[0].num_scans
    metrics = pooled.compute()
    logger.info("scenes %s\n%s", ", ".join(matrices), format_table(metrics, "quick"))
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    result = {
        "row": run.row,
        "fold": run.fold,
        "seed": run.seed,
        "fingerprint": run.fingerprint,
        "miou_present": metrics.miou_present,
        "iterations": iterations,
        "seconds": round(seconds, 1),
        "resumed": run.config.resume,
        "scans": {scene: parts[0].num_scans for scene, parts in matrices.items()},
        "commit": environment["git"]["commit"],
        "torch": environment["torch"],
        "device": environment.get("device"),
        "names": list(first.names),
        "ranges": list(run.ranges),
        "matrices": {scene: [part.counts.tolist() for part in parts] for scene, parts in matrices.items()},
    }
    run.result.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run.folder / "train.log", run.result.with_suffix(".log"))
    write_text_atomic(run.result, json.dumps(result, separators=(",", ":")) + "\n")
    logger.info("wrote %s", run.result)


def main() -> int:
    """Read a run from standard input and do it; returns the exit code."""
    run = pickle.load(sys.stdin.buffer)
    return exit_code(lambda: work(run))


if __name__ == "__main__":
    sys.exit(main())
