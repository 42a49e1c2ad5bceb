"""Learning-rate schedules; all are stepped once per optimizer step.

``total_steps`` is supplied by the trainer, so that configs speak in fractions of a run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pointcept.utils.checks import check_choice, check_number, check_numbers, check_range, refused
from pointcept.utils.errors import ConfigError
from pointcept.utils.registry import Registry

SCHEDULERS = Registry("schedulers")


def build_scheduler(cfg: Mapping[str, Any], optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Build the schedule of a run.

    Args:
        cfg: ``dict(type="OneCycleLR", max_lr=[0.002, 0.0002], ...)``.
        optimizer: its parameter groups are the ones that ``max_lr`` counts.
        total_steps: optimizer steps in the whole run.

    Raises:
        ConfigError: an unknown type or argument, or as many rates as there are not groups.
    """
    return SCHEDULERS.build(cfg, "scheduler", optimizer=optimizer, total_steps=total_steps)  # type: ignore[no-any-return]


@SCHEDULERS.register_module("OneCycleLR")
def one_cycle_lr(
    optimizer: Optimizer,
    max_lr: float | Sequence[float],
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> LRScheduler:
    """Rise to ``max_lr`` and fall to almost nothing (arXiv 1708.07120); arguments as in torch.

    Raises:
        ConfigError: an argument is out of its range, or ``max_lr`` is a list of another length than the parameter
            groups.
    """
    groups = optimizer.param_groups
    if isinstance(max_lr, (list, tuple)) and len(max_lr) != len(groups):
        names = ", ".join(str(group.get("name", number)) for number, group in enumerate(groups))
        raise ConfigError(
            f"got {len(max_lr)} values, but the optimizer has {len(groups)} parameter groups "
            f"({names}): give one number, or one for each group (see param_dicts)",
            "max_lr",
        )
    if isinstance(max_lr, (list, tuple)):
        check_numbers("max_lr", max_lr, low=0, open_low=True)
    else:
        check_number("max_lr", max_lr, 0, open_low=True)
    check_number("pct_start", pct_start, 0, 0.5 if three_phase else 1)
    check_choice("anneal_strategy", anneal_strategy, ("cos", "linear"))
    check_range("(base_momentum, max_momentum)", (base_momentum, max_momentum), 0, 1)
    check_number("div_factor", div_factor, 1)
    check_number("final_div_factor", final_div_factor, 1)
    if total_steps == 1:
        return constant_lr(optimizer, total_steps)  # one step has neither rise nor fall
    # torch divides by zero when the rise ends exactly at step 0, which short smoke runs meet
    pct_start = max(pct_start, 1.5 / total_steps)
    return torch_schedulers.OneCycleLR(
        optimizer,
        max_lr=list(max_lr) if isinstance(max_lr, (list, tuple)) else float(max_lr),  # type: ignore[arg-type]
        total_steps=total_steps,
        pct_start=pct_start,
        anneal_strategy=anneal_strategy,  # type: ignore[arg-type]
        cycle_momentum=cycle_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        three_phase=three_phase,
    )


def _milestone_steps(milestones: Sequence[float], total_steps: int) -> list[int]:
    check_numbers("milestones", milestones, low=0, high=1, open_low=True, open_high=True)
    if list(milestones) != sorted(set(milestones)):
        raise refused("milestones", milestones, "rising fractions of the run")
    return [round(m * total_steps) for m in milestones]


@SCHEDULERS.register_module("MultiStepLR")
def multi_step_lr(
    optimizer: Optimizer, milestones: Sequence[float], total_steps: int, gamma: float = 0.1
) -> LRScheduler:
    """Multiply the rate by ``gamma`` at each milestone (a fraction of the run).

    Raises:
        ConfigError: milestones outside (0, 1) or not rising, or a negative ``gamma``.
    """
    check_number("gamma", gamma, 0)
    steps = _milestone_steps(milestones, total_steps)
    return LambdaLR(optimizer, lambda step: gamma ** bisect_right(steps, step))


@SCHEDULERS.register_module("MultiStepWithWarmupLR")
def multi_step_with_warmup_lr(
    optimizer: Optimizer,
    milestones: Sequence[float],
    total_steps: int,
    gamma: float = 0.1,
    warmup_rate: float = 0.05,
    warmup_scale: float = 1e-6,
) -> LRScheduler:
    """:func:`multi_step_lr` after a linear rise.

    Args:
        warmup_rate: fraction of the run that the rise takes.
        warmup_scale: the rate at step 0, relative to the optimizer's.

    Raises:
        ConfigError: milestones outside (0, 1) or not rising, or another number out of its range.
    """
    check_number("gamma", gamma, 0)
    check_number("warmup_rate", warmup_rate, 0, 1)
    check_number("warmup_scale", warmup_scale, 0, 1)
    steps = _milestone_steps(milestones, total_steps)
    rise = warmup_rate * total_steps

    def factor(step: int) -> float:
        warm = warmup_scale + (1 - warmup_scale) * min(1.0, step / rise) if rise > 0 else 1.0
        return warm * gamma ** bisect_right(steps, step)

    return LambdaLR(optimizer, factor)


@SCHEDULERS.register_module("PolyLR")
def poly_lr(optimizer: Optimizer, total_steps: int, power: float = 0.9) -> LRScheduler:
    """Fall as ``(1 - step / (total_steps + 1)) ** power``.

    Raises:
        ConfigError: a negative ``power``.
    """
    check_number("power", power, 0)
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / (total_steps + 1)) ** power)


@SCHEDULERS.register_module("ExpLR")
def exp_lr(optimizer: Optimizer, total_steps: int, gamma: float = 0.9) -> LRScheduler:
    """Fall as ``gamma ** (step / total_steps)``: by the factor ``gamma`` over the whole run.

    Raises:
        ConfigError: ``gamma`` is not positive.
    """
    check_number("gamma", gamma, 0, open_low=True)
    return LambdaLR(optimizer, lambda step: gamma ** (step / total_steps))


@SCHEDULERS.register_module("CosineAnnealingLR")
def cosine_annealing_lr(optimizer: Optimizer, total_steps: int, eta_min: float = 0.0) -> LRScheduler:
    """Fall along half a cosine to ``eta_min`` at the end of the run.

    Raises:
        ConfigError: a negative ``eta_min``.
    """
    check_number("eta_min", eta_min, 0)
    return torch_schedulers.CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=eta_min)


@SCHEDULERS.register_module("ConstantLR")
def constant_lr(optimizer: Optimizer, total_steps: int) -> LRScheduler:
    """Keep the optimizer's rate for all ``total_steps``."""
    del total_steps  # part of the interface; a constant does not depend on it
    return LambdaLR(optimizer, lambda step: 1.0)


def learning_rates(optimizer: Optimizer) -> dict[str, Any]:
    """The current rate of each parameter group, by the group's name."""
    return {str(group.get("name", number)): group["lr"] for number, group in enumerate(optimizer.param_groups)}
