"""What a training run saves; :mod:`pointcept.engines.resume` goes on from it.

A run writes ``model_last.pth`` before each evaluation, after it, and every few minutes in between; what was there
becomes ``model_previous.pth`` (``run_folder.kept`` lists both, the newest first). ``model_best.pth`` is written before
the ``model_last.pth`` that knows of it: whenever a run is killed, it goes on from a state that will write the best
again, or from one whose best weights are there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pointcept.engines import run_folder
from pointcept.engines.structure import FORMAT, moments
from pointcept.models import deployable
from pointcept.utils import comm
from pointcept.utils.checkpoint import damage, export_weights, load_weights, save_atomically
from pointcept.utils.device import random_state
from pointcept.utils.env import package_versions

if TYPE_CHECKING:
    from pointcept.engines.hooks.base import HookBase
    from pointcept.engines.train import DefaultTrainer

__all__ = ["FORMAT", "export_weights", "load_weights", "save", "snapshot"]

logger = logging.getLogger(__name__)

LOWEST_SCALE = 2.0**-14
"""Of gradients in float16; they would be above 1e9 if they overflowed with it."""


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
        ``run_folder.extent``), ``config``, ``versions``, ``format``, ``origins`` (see
        :func:`~pointcept.engines.resume.origins`), and ``skipped`` (steps).
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
        "origins": trainer.origins,
        "skipped": dict(trainer.incidents.skipped),
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


def _check_finite(content: Mapping[str, Any], explain: Callable[[int, str], str]) -> None:
    """Check what :func:`snapshot` returned: the state of the model, the optimizer's, and the scale of gradients.

    Args:
        content: of the checkpoint.
        explain: see :meth:`~pointcept.engines.incidents.Incidents.explain`.

    Raises:
        FloatingPointError: the names of tensors with NaN or infinity; or gradients have been so in every step.
    """
    model = content.get("model_state", content["state_dict"])
    for what, state in (("model", model), ("optimizer", moments(content["optimizer"]))):
        found = damage(state)
        if found is not None:
            # The losses so far were finite, so the last gradient was not.
            raise FloatingPointError(
                f"{what}: {found} after iteration {content['iteration']}; {explain(content['iteration'], found)}. "
                "Nothing is saved; lower the learning rate, set clip_grad, or use amp_dtype='bfloat16'"
            )
    # A scaler skips every step whose gradients are not finite, and halves its scale: nothing else shows that.
    scale = content["scaler"].get("scale")
    if scale is not None and scale < LOWEST_SCALE:
        raise FloatingPointError(
            f"the gradients are NaN or infinite in step after step, all of which were skipped: the scale of gradients "
            f"has fallen to {scale:.1e}. Nothing is saved; use amp_dtype='bfloat16' or enable_amp=False"
        )


def save(trainer: DefaultTrainer, path: Path, epoch_done: bool = False, collective: bool = True) -> None:
    """Check that losses, weights and moments are finite, and write :func:`snapshot` to ``path`` (rank 0 writes).

    Raises:
        FloatingPointError: a loss since the last check, or a tensor of model or optimizer, is NaN or infinite, or
            every step has been skipped; the file at ``path`` stays as it was.
    """
    trainer.check_losses()
    content = snapshot(trainer, epoch_done, collective)
    _check_finite(content, trainer.incidents.explain)
    if comm.is_main_process():
        last = path.name == run_folder.LAST
        save_atomically(content, path, run_folder.previous(path.parent, trainer.keep_last) if last else ())
    if collective:
        comm.barrier()
