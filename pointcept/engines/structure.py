"""What a checkpoint of this package consists of, and whether a file does.

One table names the entries; below it stands what each must hold to fit a run. All is checked before anything of a run
is changed, so that a file is taken as a whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pointcept.models import deployable
from pointcept.utils.checkpoint import damage, dtype_name, some
from pointcept.utils.errors import CheckpointError

if TYPE_CHECKING:
    from pointcept.engines.train import DefaultTrainer

FORMAT = 1

ENTRIES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "state_dict": (Mapping,),
    "epoch": (int,),
    "iteration": (int,),
    "best_metric": (float, int),
    "optimizer": (Mapping,),
    "scheduler": (Mapping,),
    "scaler": (Mapping,),
    "random": (list,),
    "sampler": (Mapping,),
    "plan": (Mapping,),
    "config": (str,),
    "versions": (Mapping,),
}
OPTIONAL: dict[str, tuple[type, ...]] = {
    "model_state": (Mapping,),
    "origins": (Mapping,),
    "skipped": (Mapping,),
    "best_iteration": (int,),
    "hooks": (Mapping,),
    "files": (Mapping,),
}
"""Entries that not every run or not every version writes."""
# What an optimizer keeps of each parameter, of its shape and type, under the names that torch gives them.
MOMENTS = {
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "acc_delta"),
    *("exp_inf", "sum", "prev", "step_size", "ax"),
}
GROUP_NUMBERS = ("lr", "initial_lr", "weight_decay", "momentum", "eps", "betas")


def is_state(content: Any) -> bool:
    """Whether a file means to be the state of a training, not weights alone."""
    return isinstance(content, Mapping) and bool({"sampler", "optimizer", "format"} & content.keys())


def check_entries(content: Any, path: object) -> None:
    """Check that a file holds all that a run goes on from, each of its type.

    Raises:
        CheckpointError: it does not, or has another format.
    """
    if not is_state(content):
        raise CheckpointError(
            f"{path} holds no training state of this package (weights only?): leave out resume=True to start from "
            "its weights"
        )
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {content.get('format')!r} of checkpoints, this version of the package reads {FORMAT}: "
            "resume with the version that wrote it, or leave out resume=True to start from its weights"
        )
    faults = [
        f"no {key!r}" if key not in content else f"{key!r} is {type(content[key]).__name__}"
        for key, types in {**ENTRIES, **OPTIONAL}.items()
        if (key in ENTRIES or key in content) and not _is_a(content.get(key), types)
    ]
    _refuse(faults, path)


def check_state(trainer: DefaultTrainer, content: Mapping[str, Any], path: object, same_schedule: bool = True) -> None:
    """Check every entry of a file against the parts of a run whose plan is that of the file.

    Args:
        trainer: the run.
        content: of the file, see :func:`check_entries`.
        path: only for the message.
        same_schedule: the schedule goes on, so its state has to fit, too.

    Raises:
        CheckpointError: something is missing, of another type or shape, not finite, or contradicts the rest.
    """
    faults = [
        *_position(trainer, content),
        *_weights(trainer.network, content),
        *_optimizer(content["optimizer"], trainer.optimizer, trainer.network),
        *(_scheduler(content["scheduler"], trainer.scheduler, content["iteration"]) if same_schedule else []),
        *_scaler(content["scaler"]),
        *([] if content["random"] else ["'random' is empty"]),
        *(f"skipped: {key} is {n!r}" for key, n in content.get("skipped", {}).items() if not _is_a(n, (int,))),
    ]
    stepped = content["iteration"] > 0 and not content["scaler"]  # a scaler may have skipped all steps
    keeps = any(_kept(group, trainer.optimizer) for group in trainer.optimizer.param_groups)
    if not faults and stepped and keeps and not content["optimizer"]["state"]:
        faults = [f"optimizer: no moments after {content['iteration']} steps"]
    _refuse(faults, path)


def moments(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in an optimizer's state by name."""
    return {
        f"{parameter}.{name}": value
        for parameter, entry in state["state"].items()
        for name, value in entry.items()
        if isinstance(value, Tensor)
    }


def _refuse(faults: Sequence[str], path: object) -> None:
    if faults:
        raise CheckpointError(f"{path} cannot be resumed: {some(list(faults))}")


def _is_a(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    """Whether a value is one finite number, in a tensor or not."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and bool(value.isfinite())
    return _is_a(value, (int, float)) and math.isfinite(value)


def _position(trainer: DefaultTrainer, content: Mapping[str, Any]) -> Iterator[str]:
    """Epoch, iteration and place in the stream of samples follow from each other."""
    plan, sampler = trainer.plan, content["sampler"]
    epoch, iteration = content["epoch"], content["iteration"]
    wrong = [key for key in ("seed", "position") if not _is_a(sampler.get(key), (int,))]
    yield from (f"sampler: {key} is {sampler.get(key)!r}" for key in wrong)
    if math.isnan(content["best_metric"]):
        yield "best_metric is nan"
    if not 0 <= epoch <= len(plan.epochs):
        yield f"epoch {epoch} of {len(plan.epochs)}"
        return
    first = plan.first_step(epoch)
    last = first + (plan.epochs[epoch].steps if epoch < len(plan.epochs) else 0)
    if not first <= iteration <= last:
        yield f"iteration {iteration}, but epoch {epoch} has {first} to {last}"
        return
    position = plan.position(epoch, iteration)
    if not wrong and sampler["position"] != position:
        yield f"sampler: position {sampler['position']}, but after {iteration} steps it is {position}"


def _weights(network: nn.Module, content: Mapping[str, Any]) -> Iterator[str]:
    """Weights have the names, shapes and types of the network's."""
    key = "state_dict" if deployable(network) is network else "model_state"
    state, own = content.get(key), network.state_dict()
    if not isinstance(state, Mapping) or not state:
        what = "is missing or empty" if not state else f"is {type(state).__name__}"
        yield f"{key!r} {what}" + (", and this model needs all of its state" if key == "model_state" else "")
        return
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    for word, names in (("missing", missing), ("unknown", unknown)):
        if names:
            yield f"{len(names)} weights are {word}: {some(sorted(map(str, names)))}"
    wrong = [n for n in own if n not in missing and _form(state[n]) != _form(own[n])]
    if wrong:
        forms = [f"{n} (file {_form(state[n])}, model {_form(own[n])})" for n in wrong]
        yield f"{len(wrong)} weights of another form: {some(forms)}"


def _form(value: Any) -> str:
    """``float32 (16, 3)``, or what is no tensor."""
    return f"{dtype_name(value)} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, network: nn.Module) -> Iterator[str]:
    """Groups and moments are those that this optimizer has of these parameters."""
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, Mapping):
        yield "optimizer: no 'param_groups' or no 'state'"
        return
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    lists = [group.get("params") if isinstance(group, Mapping) else None for group in groups]
    got = [len(numbers) if isinstance(numbers, list) else None for numbers in lists]
    if got != sizes or [number for numbers in lists for number in numbers or ()] != list(range(sum(sizes))):
        yield f"optimizer: groups of {got} parameters, the run has {sizes}"
        return
    for number, (group, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        yield from _group(group, own, f"optimizer: group {own.get('name', number)}")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    owned = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    unknown = [key for key in state if not _is_a(key, (int,)) or not 0 <= key < len(owned)]
    if unknown:
        yield f"optimizer: state of unknown parameters {some([repr(key) for key in unknown])}"
        return
    for number, entry in state.items():
        parameter, group = owned[number]
        place = f"optimizer: {names.get(id(parameter), number)}"
        yield from _entry(entry, parameter, _kept(group, optimizer), place)
    damaged = damage(moments(saved))
    if damaged is not None:
        yield f"optimizer: {damaged}"


def _group(group: Mapping[str, Any], own: Mapping[str, Any], place: str) -> Iterator[str]:
    if group.get("name") != own.get("name"):
        yield f"{place} is called {group.get('name')!r}"
    for key in GROUP_NUMBERS:
        values = group.get(key)
        numbers = values if isinstance(values, (list, tuple)) else [values]
        if key in own and not (
            all(map(_number, numbers)) and isinstance(own[key], (list, tuple)) == (len(numbers) == 2)
        ):
            yield f"{place}: {key} is {values!r}"


def _kept(group: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> set[str]:
    """What an optimizer of torch keeps of each parameter that it has stepped; nothing is known of others."""
    if isinstance(optimizer, torch.optim.Adam):  # AdamW, too
        return {"step", "exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])}
    return {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) and group["momentum"] else set()


def _entry(entry: Any, parameter: Tensor, kept: set[str], place: str) -> Iterator[str]:
    if not isinstance(entry, Mapping) or not kept <= entry.keys():
        got = sorted(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        yield f"{place}: got {got}, expected {sorted(kept)}"
        return
    for key, value in entry.items():
        if key in MOMENTS and value is not None:
            if _form(value) != _form(parameter):
                yield f"{place}: {key} is {_form(value)}, not {_form(parameter)}"
        elif key == "step" and not (_number(value) and value >= 0):
            yield f"{place}: step is {value!r}"


def _scheduler(saved: Mapping[str, Any], own: LRScheduler, iteration: int) -> Iterator[str]:
    """The schedule has the same parts, and has made as many steps as the run."""
    for key, value in own.state_dict().items():
        if key.startswith("_"):  # torch's own affair
            continue
        got = saved.get(key)
        same = len(got) == len(value) if isinstance(value, list) and isinstance(got, list) else type(got) is type(value)
        if isinstance(value, float) or value is None:
            same = got is None if value is None else _number(got)
        if key not in saved or not same:
            yield f"scheduler: {key} is " + (repr(got)[:60] if key in saved else "missing")
        elif key == "last_epoch" and got != iteration:
            yield f"scheduler: {got} steps, but {iteration} in the run"


def _scaler(saved: Mapping[str, Any]) -> Iterator[str]:
    """Empty without a scaler; otherwise positive numbers."""
    for key in ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker") if saved else ():
        if not _number(saved.get(key)) or saved[key] < 0 or (key == "scale" and saved[key] == 0):
            yield f"scaler: {key} is {saved.get(key)!r}"
