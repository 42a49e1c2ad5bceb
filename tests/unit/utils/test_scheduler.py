"""Learning rates over a whole run, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pointcept.utils.errors import ConfigError
from pointcept.utils.scheduler import SCHEDULERS, build_scheduler, learning_rates


def make_optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate, "name": f"g{rate}"} for rate in rates]
    return torch.optim.AdamW(groups)


def rates(cfg: dict[str, Any], steps: int, rate: float = 0.1) -> list[float]:
    """The rate that each of ``steps`` optimizer steps uses."""
    optimizer = make_optimizer(rate)
    scheduler = build_scheduler(cfg, optimizer, steps)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


def test_one_cycle_rises_and_falls() -> None:
    cfg = {"type": "OneCycleLR", "max_lr": 0.002, "pct_start": 0.1, "div_factor": 10.0, "final_div_factor": 1000.0}
    used = rates(cfg, 101)
    peak = used.index(max(used))
    assert used[0] == pytest.approx(0.0002)
    assert used[-1] == pytest.approx(2e-7)
    assert peak in (9, 10)
    assert used[: peak + 1] == sorted(used[: peak + 1])
    assert used[peak:] == sorted(used[peak:], reverse=True)
    assert max(used) == pytest.approx(0.002, rel=1e-2)


def course(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[tuple[float, float]]:
    """Rate and momentum that each of ``steps`` optimizer steps uses."""
    used = []
    for _ in range(steps):
        group = scheduler.optimizer.param_groups[0]
        used.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        scheduler.optimizer.step()
        scheduler.step()
    return used


ONE_CYCLES: list[dict[str, Any]] = [
    {},
    {"pct_start": 0.1, "anneal_strategy": "linear", "div_factor": 10.0, "final_div_factor": 1000.0},
    {"cycle_momentum": False},
    {"base_momentum": 0.8, "max_momentum": 0.9, "three_phase": True},
]


@pytest.mark.parametrize("options", ONE_CYCLES, ids=str)
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_one_cycle_is_that_of_torch_with_its_momentum(kind: str, options: dict[str, Any]) -> None:
    """Rate and momentum, the latter falling from 0.95 to 0.85 and rising again by default."""
    optimizers = []
    for _ in range(2):
        group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}
        optimizers.append(torch.optim.AdamW([group]) if kind == "AdamW" else torch.optim.SGD([group], momentum=0.7))
    ours = build_scheduler({"type": "OneCycleLR", "max_lr": 0.02, **options}, optimizers[0], 50)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizers[1], max_lr=0.02, total_steps=50, **options)
    found = course(ours, 50)
    assert found == course(theirs, 50)
    momenta = [momentum for _, momentum in found]
    if not options:
        assert (momenta[0], min(momenta), momenta[-1]) == pytest.approx((0.95, 0.85, 0.95))
    assert (len(set(momenta)) == 1) is ("cycle_momentum" in options)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 24, 25, 26])
def test_one_cycle_of_a_short_run(steps: int) -> None:
    used = rates({"type": "OneCycleLR", "max_lr": 0.01, "pct_start": 0.04}, steps, 0.01)
    assert len(used) == steps
    assert all(0 < rate <= 0.01 for rate in used)


def test_one_cycle_with_a_rate_for_each_group() -> None:
    optimizer = make_optimizer(0.1, 0.2)
    build_scheduler({"type": "OneCycleLR", "max_lr": [0.002, 0.0002], "div_factor": 10.0}, optimizer, 100)
    assert learning_rates(optimizer) == pytest.approx({"g0.1": 0.0002, "g0.2": 0.00002})
    with pytest.raises(ConfigError, match=r"max_lr: got 3 values, but the optimizer has 2 .*\(g0.1, g0.2\)"):
        build_scheduler({"type": "OneCycleLR", "max_lr": [0.1, 0.2, 0.3]}, optimizer, 100)


def test_multi_step() -> None:
    used = rates({"type": "MultiStepLR", "milestones": [0.5, 0.8], "gamma": 0.1}, 10)
    assert used == pytest.approx([0.1] * 5 + [0.01] * 3 + [0.001] * 2)


def test_multi_step_with_warmup() -> None:
    cfg = {"type": "MultiStepWithWarmupLR", "milestones": [0.5], "warmup_rate": 0.2, "warmup_scale": 0.5}
    assert rates(cfg, 10) == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.1] + [0.01] * 5)
    assert rates({**cfg, "warmup_rate": 0.0}, 4) == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert rates({**cfg, "warmup_rate": 0.1}, 4) == pytest.approx([0.05, 0.1, 0.01, 0.01])  # 0.4 of a step


def test_smooth_schedules_have_their_closed_forms() -> None:
    steps = range(20)
    assert rates({"type": "PolyLR", "power": 0.9}, 20) == pytest.approx([0.1 * (1 - s / 21) ** 0.9 for s in steps])
    assert rates({"type": "ExpLR", "gamma": 0.5}, 20) == pytest.approx([0.1 * 0.5 ** (s / 20) for s in steps])
    cosine = [0.01 + 0.09 * (1 + math.cos(math.pi * s / 20)) / 2 for s in steps]
    assert rates({"type": "CosineAnnealingLR", "eta_min": 0.01}, 20) == pytest.approx(cosine)
    assert rates({"type": "ConstantLR"}, 20) == [0.1] * 20


@pytest.mark.parametrize("milestones", [[0.8, 0.5], [5, 8], [0.0]])
def test_bad_milestones(milestones: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.milestones: got \["):
        build_scheduler({"type": "MultiStepLR", "milestones": milestones}, make_optimizer(0.1), 10)


EXTRA: dict[str, dict[str, Any]] = {
    "OneCycleLR": {"max_lr": 0.1},
    "MultiStepLR": {"milestones": [0.5]},
    "MultiStepWithWarmupLR": {"milestones": [0.5]},
}


@pytest.mark.parametrize("kind", SCHEDULERS.names())
def test_each_schedule_goes_on_from_its_state(kind: str) -> None:
    cfg = dict(type=kind, **EXTRA.get(kind, {}))
    whole = rates(cfg, 10)
    first = make_optimizer(0.1)
    scheduler = build_scheduler(cfg, first, 10)
    for _ in range(4):
        first.step()
        scheduler.step()
    second = make_optimizer(0.1)
    resumed = build_scheduler(cfg, second, 10)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    used = []
    for _ in range(6):
        used.append(second.param_groups[0]["lr"])
        second.step()
        resumed.step()
    assert used == pytest.approx(whole[4:])


def test_unknown_argument() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pct_start'"):
        build_scheduler({"type": "OneCycleLR", "max_lr": 0.1, "pctstart": 0.1}, make_optimizer(0.1), 10)
