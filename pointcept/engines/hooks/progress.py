"""How far the run is, and what the log and TensorBoard say about it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.engines.step import StepResult
from pointcept.utils import device
from pointcept.utils.checks import check_integer

logger = logging.getLogger(__name__)

CARRIED = 20
"""Steps of earlier starts of a run that count for the estimate of the time left."""


def clock(seconds: float) -> str:
    """A duration as ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def mean_values(steps: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over steps that have it."""
    columns: dict[str, list[float]] = {}
    for values in steps:
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: math.fsum(column) / len(column) for name, column in columns.items()}


def number(value: float) -> str:
    """Four decimals, or two digits of what is too small for them."""
    return f"{value:.4f}" if value == 0 or not abs(value) < 1e-3 else f"{value:.1e}"


def describe(values: dict[str, float]) -> str:
    """``loss 1.234 (ce 0.900, kld 0.334 [raw 1.113])``: what belongs to a term (``kld/raw``) stands behind it."""
    details: dict[str, list[str]] = {name: [] for name in values if name not in ("loss", "grad_norm")}
    for name in list(details):
        term, _, detail = name.rpartition("/")
        if term in details:
            details[term].append(f"{detail} {number(values[name])}")
            del details[name]
    shown = [
        f"{name} {number(values[name])}" + (f" [{', '.join(own)}]" if own else "") for name, own in details.items()
    ]
    text = f"loss {values['loss']:.4f}" + (f" ({', '.join(shown)})" if shown else "")
    return text + (f" grad norm {values['grad_norm']:.2f}" if "grad_norm" in values else "")


@HOOKS.register_module()
class IterationTimer(HookBase):
    """Estimates the time left, evaluations included once one has been seen, as ``trainer.eta``.

    Args:
        warmup_iter: first steps of this start that are not counted; they compile and cache.
    """

    phase = Phase.MEASURE

    def __init__(self, warmup_iter: int = 1) -> None:
        self.warmup_iter = check_integer("warmup_iter", warmup_iter, 0)

    def before_train(self) -> None:
        self._seen = 0
        self._counted = 0
        self._seconds = 0.0
        self._pauses: list[float] = []
        self._epoch_end: float | None = None

    def carried(self) -> dict[str, Any]:
        return {"counted": self._counted, "seconds": self._seconds, "pauses": self._pauses}

    def carry_on(self, carried: Mapping[str, Any]) -> None:
        # Not more than a few steps: the machine may be another one now.
        self._counted = min(carried["counted"], CARRIED)
        self._seconds = carried["seconds"] * self._counted / max(carried["counted"], 1)
        self._pauses = carried["pauses"][-1:]

    def before_epoch(self) -> None:
        if self._epoch_end is not None:
            self._pauses.append(time.perf_counter() - self._epoch_end)

    def after_step(self, result: StepResult) -> None:
        self._seen += 1
        if self._seen > self.warmup_iter:
            self._counted += 1
            self._seconds += result.step_seconds
        if self._counted:
            trainer = self.trainer
            left = (trainer.plan.total_steps - trainer.iteration) * self._seconds / self._counted
            pause = sum(self._pauses) / len(self._pauses) if self._pauses else 0.0
            trainer.eta = left + pause * (trainer.max_epoch - trainer.epoch)

    def after_epoch(self) -> None:
        self._epoch_end = time.perf_counter()


@HOOKS.register_module()
class InformationWriter(HookBase):
    """Writes a line to the log, and scalars for TensorBoard, every ``log_freq`` steps.

    The numbers are means over the steps since the last line. With several processes they are those
    of rank 0, on its share of each batch: adding them up would make the processes wait for each other.
    Reading them is the only moment at which the loop waits for the device.

    Args:
        log_freq: steps between two lines; ``cfg.log_freq`` by default.

    Raises:
        ConfigError: a number below 1.
    """

    phase = Phase.LOG

    def __init__(self, log_freq: int | None = None) -> None:
        self.log_freq = None if log_freq is None else check_integer("log_freq", log_freq, 1)

    def before_train(self) -> None:
        self._every = self.log_freq or self.trainer.cfg.log_freq
        self._recent: list[StepResult] = []
        self._earlier: list[tuple[dict[str, float], float, float]] = []
        self._begin_epoch()
        device.reset_peak_memory()

    def _begin_epoch(self) -> None:
        self._start = time.perf_counter()
        self._steps = 0
        self._seconds = 0.0
        self._lines: list[tuple[dict[str, float], int]] = []

    def carried(self) -> dict[str, Any]:
        return {"recent": self._unwritten(), "steps": self._steps, "seconds": self._elapsed(), "lines": self._lines}

    def carry_on(self, carried: Mapping[str, Any]) -> None:
        self._earlier = [tuple(step) for step in carried["recent"]]
        self._steps, self._seconds = carried["steps"], carried["seconds"]
        self._lines = [tuple(line) for line in carried["lines"]]

    def before_epoch(self) -> None:
        self._start = time.perf_counter()

    def _elapsed(self) -> float:
        """Seconds that the steps of this epoch have taken, in all starts of the run."""
        return self._seconds + time.perf_counter() - self._start

    def _unwritten(self) -> list[tuple[dict[str, float], float, float]]:
        """Values, seconds, and seconds of waiting for data of the steps since the last line; they have been read."""
        return [*self._earlier, *((r.values, r.step_seconds, r.data_seconds) for r in self._recent)]

    def after_step(self, result: StepResult) -> None:
        if not result.skipped:
            self._recent.append(result)
        self._steps += 1
        # The first step too: whoever starts a run wants to see that it runs.
        due = result.step % self._every == 0 or result.step == result.steps or result.iteration == 1
        if due and self._recent:
            self._write(result)

    def _write(self, last: StepResult) -> None:
        trainer = self.trainer
        trainer.check_losses()
        steps = self._unwritten()
        self._recent, self._earlier = [], []
        values = mean_values(step[0] for step in steps)
        self._lines.append((values, len(steps)))
        seconds = sum(step[1] for step in steps) / len(steps)
        waiting = sum(step[2] for step in steps) / len(steps)
        memory = device.peak_memory() / 2**30
        logger.info(
            "Train [%d/%d][%d/%d] %.3f s (data %.3f)%s lr %s %s%s",
            *(last.epoch + 1, trainer.max_epoch, last.step, last.steps, seconds, waiting),
            f" ETA {clock(trainer.eta)}" if trainer.eta is not None else "",
            "/".join(f"{rate:.2e}" for rate in last.lr.values()),
            describe(values),
            f" mem {memory:.1f} GiB" if memory else "",
        )
        for name, value in values.items():
            trainer.writer.add(f"train/{name}", value, last.iteration)
        for name, rate in last.lr.items():
            trainer.writer.add(f"lr/{name}", rate, last.iteration)
        trainer.writer.add("time/step", seconds, last.iteration)
        trainer.writer.add("time/data", waiting, last.iteration)
        if memory:
            trainer.writer.add("memory/peak_gib", memory, last.iteration)

    def after_epoch(self) -> None:
        if not self._lines:
            return
        trainer, steps, seconds, lines = self.trainer, self._steps, self._elapsed(), self._lines
        self._begin_epoch()
        names = dict.fromkeys(name for values, _ in lines for name in values)
        having = {name: [(v[name], w) for v, w in lines if name in v] for name in names}  # not every step has every one
        means = {name: sum(v * w for v, w in own) / sum(w for _, w in own) for name, own in having.items()}
        logger.info(
            "Train [%d/%d] done: %d steps in %s (%.3f s each), mean %s",
            *(trainer.epoch + 1, trainer.max_epoch, steps, clock(seconds), seconds / steps, describe(means)),
        )
        for name, value in means.items():
            trainer.writer.add(f"epoch/{name}", value, trainer.epoch + 1)
