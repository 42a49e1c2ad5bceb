"""Which sample is drawn when: one endless, seeded stream that can be entered anywhere.

The training set is passed over again and again. Position ``j`` of the stream belongs to pass
``j // N``; each pass is a permutation that depends on ``(seed, pass)`` only, and each draw carries
a seed that depends on ``(seed, pass, index)`` only. So the whole state of the sampling is one
integer, whatever the number of processes, workers or samples per batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from torch.utils.data import Sampler

from pointcept.datasets.base import Draw
from pointcept.utils.errors import ConfigError, DataError


def draw_seed(seed: int, passes: int, index: int) -> int:
    """The seed of one draw, in [0, 2**32).

    Args:
        seed: of the run.
        passes: how many whole passes over the data set came before.
        index: sample number in the data set.
    """
    return int(np.random.SeedSequence([seed % 2**64, passes, index]).generate_state(1)[0])


@dataclass(frozen=True)
class EpochPlan:
    """One evaluation epoch: the samples ``[start, stop)`` of the stream, in ``steps`` optimizer steps."""

    start: int
    stop: int
    steps: int


@dataclass(frozen=True)
class Epochs(Sequence[EpochPlan]):
    """The evaluation epochs of a run, each computed when it is asked for: there may be any number of them.

    Args:
        number: evaluation epochs.
        total_steps: optimizer steps in all of them, spread evenly.
        step_samples: samples of an optimizer step, where an epoch is as many samples as its steps take.
        passes: samples from the beginning of an epoch to that of the next, and those of them that it uses, where
            incomplete batches are dropped.
    """

    number: int
    total_steps: int
    step_samples: int
    passes: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, epoch: int) -> EpochPlan: ...

    @overload
    def __getitem__(self, epoch: slice) -> list[EpochPlan]: ...

    def __getitem__(self, epoch: int | slice) -> EpochPlan | list[EpochPlan]:
        numbers = range(self.number)[epoch]
        return [self._plan(each) for each in numbers] if isinstance(numbers, range) else self._plan(numbers)

    def first_step(self, epoch: int) -> int:
        """Optimizer steps before ``epoch`` begins."""
        return self.total_steps * epoch // self.number

    def _plan(self, epoch: int) -> EpochPlan:
        first, end = self.first_step(epoch), self.first_step(epoch + 1)
        if self.passes is None:
            return EpochPlan(first * self.step_samples, end * self.step_samples, end - first)
        length, used = self.passes
        return EpochPlan(epoch * length, epoch * length + used, end - first)


@dataclass(frozen=True)
class TrainingPlan:
    """The whole run: what each evaluation epoch consumes.

    Attributes:
        epochs: one entry per evaluation epoch.
        batch_size: samples of one forward pass over all processes.
        accumulation: forward passes per optimizer step.
    """

    epochs: Epochs
    batch_size: int
    accumulation: int

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.epochs.total_steps

    def first_step(self, epoch: int) -> int:
        """Optimizer steps before ``epoch`` begins."""
        return self.epochs.first_step(epoch)

    def position(self, epoch: int, iteration: int) -> int:
        """Samples of the stream, over all processes, that ``iteration`` steps have consumed, the last in ``epoch``."""
        if epoch >= len(self.epochs):
            return self.epochs[-1].stop
        plan = self.epochs[epoch]
        done = iteration - self.first_step(epoch)
        return min(plan.start + done * self.batch_size * self.accumulation, plan.stop)

    def samples_of(self, iteration: int) -> range:
        """Places in the stream, over all processes, that optimizer step ``iteration`` (from 1) consumes."""
        epoch = bisect_left(range(len(self.epochs)), iteration, key=self.first_step) - 1
        return range(self.position(epoch, iteration - 1), self.position(epoch, iteration))


def plan_by_epochs(
    samples: int, batch_size: int, epoch: int, eval_epoch: int, accumulation: int = 1, world_size: int = 1
) -> TrainingPlan:
    """Plan ``epoch`` passes over the data, cut into ``eval_epoch`` evaluation epochs.

    An evaluation epoch passes over the data ``epoch // eval_epoch`` times and drops the last
    incomplete batch, unless all of it is less than one batch.

    Args:
        samples: size of the training set.
        batch_size: samples of one forward pass over all processes.
        epoch: passes over the data in the whole run.
        eval_epoch: evaluations in the whole run.
        accumulation: forward passes per optimizer step; the last group of an epoch may be smaller.
        world_size: number of processes.

    Raises:
        ConfigError: ``epoch`` is not a multiple of ``eval_epoch``, or a number is not positive.
        DataError: no samples.
    """
    _check(samples, batch_size=batch_size, epoch=epoch, eval_epoch=eval_epoch, accumulation=accumulation)
    if epoch % eval_epoch:
        raise ConfigError(
            f"epoch={epoch} is not a multiple of eval_epoch={eval_epoch}: the data are passed over "
            "epoch / eval_epoch times between two evaluations"
        )
    length = samples * (epoch // eval_epoch)
    used = length - length % batch_size if length >= batch_size else -(-length // world_size) * world_size
    steps = -(-max(1, used // batch_size) // accumulation)
    epochs = Epochs(eval_epoch, steps * eval_epoch, batch_size * accumulation, (length, used))
    return TrainingPlan(epochs, batch_size, accumulation)


def plan_by_steps(samples: int, batch_size: int, max_iter: int, eval_epoch: int, accumulation: int = 1) -> TrainingPlan:
    """Plan ``max_iter`` optimizer steps with ``eval_epoch`` evaluations evenly spaced over them.

    The stream runs on across evaluations; no sample is dropped.

    Raises:
        ConfigError: fewer steps than evaluations, or a number that is not positive.
        DataError: no samples.
    """
    _check(samples, batch_size=batch_size, max_iter=max_iter, eval_epoch=eval_epoch, accumulation=accumulation)
    if max_iter < eval_epoch:
        raise ConfigError(f"max_iter={max_iter} is less than eval_epoch={eval_epoch}: lower eval_epoch")
    return TrainingPlan(Epochs(eval_epoch, max_iter, batch_size * accumulation), batch_size, accumulation)


def _check(samples: int, **numbers: int) -> None:
    if samples < 1:
        raise DataError("the training set is empty: check data_root and the split in data.train")
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name}={value!r}: expected a positive integer")


class TrainSampler(Sampler[Draw]):
    """Yields this process's share of the draws ``[position, stop)`` of the stream.

    Args:
        samples: size of the training set.
        seed: of the run.
        rank: number of this process.
        world_size: number of processes; neighbouring draws go to different processes.
    """

    def __init__(self, samples: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.samples = samples
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.position = 0
        self.stop = 0

    def set_range(self, position: int, stop: int) -> None:
        """Choose the draws that the next iteration yields (positions in the stream, all processes)."""
        self.position, self.stop = position, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.position) // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        current, order = -1, np.empty(0, np.int64)
        for place in range(self.position + self.rank, self.stop, self.world_size):
            passes, offset = divmod(place, self.samples)
            if passes != current:
                current = passes
                order = np.random.default_rng([self.seed % 2**64, passes]).permutation(self.samples)
            index = int(order[offset])
            yield Draw(index, draw_seed(self.seed, passes, index))


class EvalSampler(Sampler[Draw]):
    """Yields every sample once, in order, split over the processes without padding.

    Args:
        samples: size of the data set.
        seed: of the run; a sample's draw seed depends on it and on the sample only.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(self, samples: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, samples, world_size)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Draw]:
        return (Draw(index, draw_seed(self.seed, 0, index)) for index in self.indices)
