"""The stream of draws: permutations, reproducible entry points, shares of the processes."""

from __future__ import annotations

from typing import Any

import pytest

from pointcept.engines.sampler import EvalSampler, TrainSampler, draw_seed, plan_by_epochs, plan_by_steps
from pointcept.utils.errors import ConfigError, DataError


def draws(sampler: TrainSampler, start: int, stop: int) -> list[tuple[int, int]]:
    sampler.set_range(start, stop)
    result = list(sampler)
    assert len(result) == len(sampler)
    return [tuple(draw) for draw in result]


def test_each_pass_is_another_permutation_with_other_seeds() -> None:
    stream = draws(TrainSampler(10, seed=1), 0, 30)
    passes = [stream[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(index for index, _ in part) == list(range(10)) for part in passes)
    assert len({tuple(index for index, _ in part) for part in passes}) == 3
    assert len({seed for _, seed in stream}) == 30


def test_the_stream_can_be_entered_anywhere() -> None:
    whole = draws(TrainSampler(7, seed=3), 0, 40)
    assert draws(TrainSampler(7, seed=3), 12, 33) == whole[12:33]
    assert draws(TrainSampler(7, seed=4), 0, 40) != whole


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_same_stream(world_size: int) -> None:
    whole = draws(TrainSampler(9, seed=0), 4, 24)
    shares = [draws(TrainSampler(9, 0, rank, world_size), 4, 24) for rank in range(world_size)]
    assert [draw for group in zip(*shares, strict=True) for draw in group] == whole


def test_draw_seed_depends_on_everything_and_fits_numpy() -> None:
    seeds = {draw_seed(s, p, i) for s in range(5) for p in range(5) for i in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert draw_seed(-1, 0, 0) != draw_seed(1, 0, 0)


def test_plan_by_epochs_passes_over_the_data_between_evaluations() -> None:
    plan = plan_by_epochs(samples=10, batch_size=4, epoch=6, eval_epoch=3)
    assert [(e.start, e.stop, e.steps) for e in plan.epochs] == [(0, 20, 5), (20, 40, 5), (40, 60, 5)]
    assert plan.total_steps == 15
    assert plan.first_step(2) == 10


def test_plan_drops_only_an_incomplete_last_batch_and_keeps_a_small_data_set() -> None:
    assert [(e.start, e.stop) for e in plan_by_epochs(10, 4, 2, 2).epochs] == [(0, 8), (10, 18)]
    small = plan_by_epochs(3, 8, 2, 2, world_size=2)
    assert [(e.start, e.stop, e.steps) for e in small.epochs] == [(0, 4, 1), (3, 7, 1)]  # filled up for two processes


def test_a_training_set_of_one_scan() -> None:
    assert [(e.start, e.stop, e.steps) for e in plan_by_epochs(1, 1, 2, 2).epochs] == [(0, 1, 1), (1, 2, 1)]
    assert [(e.start, e.stop, e.steps) for e in plan_by_epochs(1, 4, 1, 1).epochs] == [(0, 1, 1)]
    assert [(e.start, e.stop, e.steps) for e in plan_by_steps(1, 1, 1, 1).epochs] == [(0, 1, 1)]
    stream = draws(TrainSampler(1, seed=2), 0, 5)
    assert [index for index, _ in stream] == [0] * 5
    assert len({seed for _, seed in stream}) == 5


def test_accumulation_rounds_the_last_group_up() -> None:
    plan = plan_by_epochs(10, 2, 1, 1, accumulation=3)
    assert plan.total_steps == 2  # 5 batches: 3 + 2


def test_a_plan_of_any_length_takes_no_time() -> None:
    many = 10**18
    plan = plan_by_steps(10, batch_size=4, max_iter=3 * many, eval_epoch=many, accumulation=2)
    last = plan.epochs[-1]
    assert (len(plan.epochs), plan.total_steps, plan.first_step(many - 1)) == (many, 3 * many, 3 * many - 3)
    assert (last.start, last.stop, last.steps) == ((3 * many - 3) * 8, 3 * many * 8, 3)
    plan = plan_by_epochs(10, batch_size=4, epoch=2 * many, eval_epoch=many)
    assert (plan.total_steps, plan.epochs[-1].start, plan.epochs[-1].stop) == (5 * many, 20 * many - 20, 20 * many)
    assert [epoch.start for epoch in plan.epochs[1:3]] == [20, 40]
    with pytest.raises(IndexError):
        plan.epochs[many]


def test_plan_by_steps_runs_on_without_dropping() -> None:
    plan = plan_by_steps(10, batch_size=4, max_iter=7, eval_epoch=3)
    assert [(e.start, e.stop, e.steps) for e in plan.epochs] == [(0, 8, 2), (8, 16, 2), (16, 28, 3)]
    assert plan.total_steps == 7


def test_bad_plans_name_the_setting() -> None:
    with pytest.raises(ConfigError, match="epoch=5 is not a multiple of eval_epoch=2"):
        plan_by_epochs(10, 2, 5, 2)
    with pytest.raises(ConfigError, match="max_iter=3 is less than eval_epoch=4"):
        plan_by_steps(10, 2, 3, 4)
    with pytest.raises(ConfigError, match="batch_size=0"):
        plan_by_epochs(10, 0, 2, 2)
    with pytest.raises(DataError, match="training set is empty"):
        plan_by_epochs(0, 2, 2, 2)


@pytest.mark.parametrize("value", [0, -1, True, 2.0])
@pytest.mark.parametrize("name", ["batch_size", "epoch", "max_iter", "eval_epoch", "accumulation"])
def test_numbers_of_a_plan_are_positive_integers(name: str, value: Any) -> None:
    numbers = {"samples": 10, "batch_size": 2, "epoch": 2, "max_iter": 4, "eval_epoch": 2, "accumulation": 1}
    numbers[name] = value
    for planner, other in ((plan_by_epochs, "max_iter"), (plan_by_steps, "epoch")):
        if name != other:
            with pytest.raises(ConfigError, match=f"{name}={value!r}: expected a positive integer"):
                planner(**{key: number for key, number in numbers.items() if key != other})
    with pytest.raises(DataError, match="training set is empty"):
        plan_by_steps(0, 2, 2, 2)


def test_an_empty_range_yields_nothing() -> None:
    sampler = TrainSampler(4, seed=0)
    for start, stop in ((0, 0), (3, 3), (4, 3)):
        assert draws(sampler, start, stop) == []


def test_evaluation_visits_each_sample_once_over_all_processes() -> None:
    shares = [[draw.index for draw in EvalSampler(7, rank=rank, world_size=3)] for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert list(EvalSampler(7)) == list(EvalSampler(7))
