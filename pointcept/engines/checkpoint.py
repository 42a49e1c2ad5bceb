"""What a training run saves, and how it goes on from it.

A run writes ``model_last.pth`` before each evaluation, after it, and every few minutes in between; what was there
becomes ``model_previous.pth`` (``run_folder.kept`` lists both, the newest first). ``model_best.pth`` is written before
the ``model_last.pth`` that knows of it: whenever a run is killed, it goes on from a state that will write the best
again, or from one whose best weights are there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pointcept.engines import run_folder
from pointcept.engines.sampler import draw_seed
from pointcept.models import deployable
from pointcept.utils import comm
from pointcept.utils.checkpoint import (
    damage,
    export_weights,
    extract_state_dict,
    load_state,
    load_weights,
    read_checkpoint,
    save_atomically,
)
from pointcept.utils.device import random_state, seed_everything, set_random_state
from pointcept.utils.env import package_versions
from pointcept.utils.errors import CheckpointError
from pointcept.utils.files import copy_atomically

if TYPE_CHECKING:
    from pointcept.engines.hooks.base import HookBase
    from pointcept.engines.train import DefaultTrainer

__all__ = ["FORMAT", "export_weights", "load_weights", "restore", "save", "snapshot"]

logger = logging.getLogger(__name__)

FORMAT = 1
LOWEST_SCALE = 2.0**-14
"""Of gradients in float16; they would be above 1e9 if they overflowed with it."""
PLAN_KEYS = ("samples", "batch_size", "accumulation", "total_steps", "eval_epoch")


def plan_facts(trainer: DefaultTrainer) -> dict[str, int]:
    """What must be equal for a run to go on: it fixes the order of samples and the schedule."""
    return {
        "samples": trainer.sampler.samples,
        "batch_size": trainer.plan.batch_size,
        "accumulation": trainer.plan.accumulation,
        "total_steps": trainer.plan.total_steps,
        "eval_epoch": len(trainer.plan.epochs),
    }


def snapshot(trainer: DefaultTrainer, epoch_done: bool = False, collective: bool = True) -> dict[str, Any]:
    """Everything needed to go on from here.

    Args:
        trainer: between two optimizer steps.
        epoch_done: the evaluation of the current epoch is over too, so go on with the next one.
        collective: every process takes part and gives its random state; otherwise only this one
            (after an interrupt, when others may be gone).

    Returns:
        ``state_dict`` (the deployable network), ``model_state`` (only when training needs more
        than that, as a distiller does), ``optimizer``, ``scheduler``, ``scaler``, ``random`` (one
        per process), ``sampler``, ``plan``, ``epoch``, ``iteration``, ``best_metric``, ``best_iteration``
        (where it was reached), ``hooks`` (what they carry on, by type), ``files`` (how far the log has come, see
        ``run_folder.extent``), ``config``, ``versions``, ``format``.
    """
    network = trainer.network
    state = random_state()
    trainer.writer.flush()
    content: dict[str, Any] = {
        "format": FORMAT,
        "state_dict": deployable(network).state_dict(),
        "epoch": trainer.epoch + 1 if epoch_done else trainer.epoch,
        "iteration": trainer.iteration,
        "best_metric": trainer.best_metric,
        "best_iteration": trainer.best_iteration,
        "hooks": {name: hook.carried() for name, hook in named_hooks(trainer.hooks)},
        "files": run_folder.extent(Path(trainer.cfg.save_path)),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "random": comm.gather_objects(state) if collective else [state],
        "sampler": {"seed": trainer.sampler.seed, "position": trainer.position()},
        "plan": plan_facts(trainer),
        "config": trainer.config_text,
        "versions": package_versions(),
    }
    if deployable(network) is not network:
        content["model_state"] = network.state_dict()
    return content


def named_hooks(hooks: Sequence[HookBase]) -> list[tuple[str, HookBase]]:
    """Hooks by type; one that occurs again gets a number."""
    seen: Counter[str] = Counter()
    named = []
    for hook in hooks:
        name = type(hook).__name__
        seen[name] += 1
        named.append((name if seen[name] == 1 else f"{name} {seen[name]}", hook))
    return named


def _check_finite(content: Mapping[str, Any]) -> None:
    """Check what :func:`snapshot` returned: the state of the model, the optimizer's, and the scale of gradients.

    Raises:
        FloatingPointError: the names of tensors with NaN or infinity; or gradients have been so in every step.
    """
    model = content.get("model_state", content["state_dict"])
    for what, state in (("model", model), ("optimizer", _moments(content["optimizer"]))):
        found = damage(state)
        if found is not None:
            raise FloatingPointError(
                f"{what}: {found}. Nothing is saved; lower the learning rate, set clip_grad, or use "
                "amp_dtype='bfloat16'"
            )
    # A scaler skips every step whose gradients are not finite, and halves its scale: nothing else shows that.
    scale = content["scaler"].get("scale")
    if scale is not None and scale < LOWEST_SCALE:
        raise FloatingPointError(
            f"the gradients are NaN or infinite in step after step, all of which were skipped: the scale of gradients "
            f"has fallen to {scale:.1e}. Nothing is saved; use amp_dtype='bfloat16' or enable_amp=False"
        )


def _moments(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors in an optimizer's state by name."""
    return {
        f"{parameter}.{name}": value
        for parameter, entry in state["state"].items()
        for name, value in entry.items()
        if isinstance(value, torch.Tensor)
    }


def save(trainer: DefaultTrainer, path: Path, epoch_done: bool = False, collective: bool = True) -> None:
    """Check that losses, weights and moments are finite, and write :func:`snapshot` to ``path`` (rank 0 writes).

    Raises:
        FloatingPointError: a loss since the last check, or a tensor of model or optimizer, is NaN or infinite, or
            every step has been skipped; the file at ``path`` stays as it was.
    """
    trainer.check_losses()
    content = snapshot(trainer, epoch_done, collective)
    _check_finite(content)
    if comm.is_main_process():
        last = path.name == run_folder.LAST
        save_atomically(content, path, run_folder.previous(path.parent, trainer.keep_last) if last else ())
    if collective:
        comm.barrier()


def holds_a_run(path: Path) -> bool:
    """Whether a file holds the state of a training, not weights alone.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return _is_state(read_checkpoint(path))


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and "sampler" in content and "optimizer" in content


def restore(trainer: DefaultTrainer, path: str | Path) -> None:
    """Put ``trainer`` where the run stood that wrote ``path``; it goes on exactly there.

    The order of samples does not depend on the number of processes, so that may differ; the random
    state of dropout and the like is then seeded afresh.

    Raises:
        CheckpointError: the file is missing or damaged, holds weights only or values that are not finite, does not
            fit the model, or belongs to a run with other data or another length.
    """
    try:
        content = read_checkpoint(path, foreign=False)
    except CheckpointError as error:
        raise CheckpointError(f"cannot resume: {error}") from error
    if not _is_state(content):
        raise CheckpointError(
            f"{path} holds no training state of this package (weights only?): leave out resume=True to start from "
            "its weights"
        )
    _check_plan(trainer, content, path)
    _restore_model(trainer.network, content, path)
    damaged = damage(_moments(content["optimizer"]))
    if damaged is not None:
        raise CheckpointError(f"{path}: optimizer: {damaged}")
    try:
        trainer.optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise CheckpointError(f"{path}: its optimizer state does not fit optimizer and param_dicts: {error}") from error
    trainer.scheduler.load_state_dict(content["scheduler"])
    if trainer.scaler.is_enabled() and content["scaler"]:
        trainer.scaler.load_state_dict(content["scaler"])
    if content["sampler"]["seed"] != trainer.sampler.seed:
        logger.info("resume: the order of samples keeps the seed %d of the run", content["sampler"]["seed"])
        trainer.sampler.seed = content["sampler"]["seed"]
    trainer.epoch = content["epoch"]
    trainer.iteration = content["iteration"]
    trainer.best_metric = content["best_metric"]
    trainer.best_iteration = content.get("best_iteration", 0)
    states = content["random"]
    if len(states) == comm.world_size():
        set_random_state(states[comm.rank()])
    else:
        seed_everything(draw_seed(trainer.sampler.seed, trainer.iteration, comm.rank()))
    trainer.carried = content.get("hooks", {})
    own = Path(path).resolve().parent == trainer.folder.resolve()
    if own and comm.is_main_process():
        run_folder.rewind(Path(trainer.cfg.save_path), content.get("files", {}))
    if Path(path).resolve() == (trainer.folder / run_folder.LAST).resolve():
        trainer.saved = trainer.iteration
    else:
        _find_best(trainer, Path(path))
    logger.info("resumed from %s: %d of %d iterations done", path, trainer.iteration, trainer.plan.total_steps)


def _find_best(trainer: DefaultTrainer, path: Path) -> None:
    """Have the best weights in the run's folder as ``path``, which is not its last state, knows them, or say so."""
    best = trainer.folder / run_folder.BEST
    if trainer.best_metric == float("-inf"):
        return
    found = False
    if comm.is_main_process():
        places = [place for place in (best, path, path.with_name(run_folder.BEST)) if place.exists()]
        source = next((p for p in places if read_checkpoint(p).get("iteration") == trainer.best_iteration), None)
        found = source is not None
        if source is not None and source != best:
            copy_atomically(source, best)
    if not comm.broadcast_object(found):
        logger.warning(
            "the weights of the best evaluation so far (iteration %d) are in no file beside %s: the best is looked for "
            "from here on",
            *(trainer.best_iteration, path),
        )
        trainer.best_metric, trainer.best_iteration = float("-inf"), 0


def _check_plan(trainer: DefaultTrainer, content: Mapping[str, Any], path: str | Path) -> None:
    now, then = plan_facts(trainer), content["plan"]
    differences = [f"{key} {then.get(key)} -> {now[key]}" for key in PLAN_KEYS if then.get(key) != now[key]]
    if differences:
        raise CheckpointError(
            f"{path} cannot be resumed, because the run has changed: {', '.join(differences)}; restore these settings, "
            "or start a new run from the weights alone (resume=False)"
        )


def _restore_model(network: nn.Module, content: Mapping[str, Any], path: str | Path) -> None:
    if deployable(network) is network:
        load_state(network, extract_state_dict(content, path), path)
    elif "model_state" in content:
        load_state(network, content["model_state"], path)
    else:
        raise CheckpointError(f"{path} holds the deployable network only, but this model needs all of its state")
