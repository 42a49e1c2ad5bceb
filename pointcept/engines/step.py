"""What one optimizer step produced, and the check that its numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class StepResult:
    """One optimizer step, as hooks see it.

    Tensors stay on the device; reading them makes the host wait. ``values`` holds the same numbers
    as floats once :meth:`LossMonitor.check` has run, which the trainer does now and then.
    """

    iteration: int
    """Optimizer steps done in the whole run, this one included."""
    epoch: int
    """Number of the current evaluation epoch, from 0."""
    step: int
    """Optimizer steps done in this epoch, this one included."""
    steps: int
    """Optimizer steps of this epoch."""
    loss: torch.Tensor
    """Scalar, detached: the mean over the forward passes of this step, on this process."""
    losses: dict[str, torch.Tensor]
    """The named terms of the loss, scalars, averaged in the same way."""
    lr: dict[str, float]
    """Learning rate that the step used, by parameter group."""
    batch_size: int
    """Scans of this step on this process."""
    data_seconds: float
    """Time that the loop waited for data."""
    step_seconds: float
    """Time of the host from one step's end to the next, data included."""
    grad_norm: torch.Tensor | None = None
    """Norm of the gradient before clipping; ``None`` without clipping."""
    statistics: torch.Tensor | None = None
    """The largest running variance of the network after the step; ``None`` without batch norms."""
    skipped: bool = False
    """The step was left out, see ``skip_nonfinite``: ``loss`` is NaN, and nothing is read of it."""
    values: dict[str, float] = field(default_factory=dict)
    """``loss``, every term, and ``grad_norm``, as floats; empty until they were read."""

    def read(self) -> dict[str, torch.Tensor]:
        """All scalars by name; ``loss`` first."""
        if self.skipped:
            return {}
        scalars = {"loss": self.loss, **self.losses}
        if self.grad_norm is not None:
            scalars["grad_norm"] = self.grad_norm
        return scalars


def is_term(name: str) -> bool:
    """Whether a name in ``losses`` is of a term: behind a slash stand facts, which may be undefined."""
    return "/" not in name


class LossMonitor:
    """Finds numbers that are not finite without making every step wait for the device.

    Results are kept as they are and read together, in one transfer. ``limit`` bounds how many can
    wait, so that a bad loss is noticed at most that many steps later.

    Args:
        explain: called with iteration, reason and whether the step before may be the cause; gives words for the error.
        scaled: a gradient scaler leaves out steps whose gradients are not finite.
        limit: steps after which results are read without being asked.
    """

    def __init__(self, explain: Callable[[int, str, bool], str], scaled: bool = False, limit: int = 50) -> None:
        self.explain = explain
        self.scaled = scaled
        self.limit = limit
        self._pending: list[StepResult] = []

    def add(self, result: StepResult) -> None:
        """Keep a result, and read all of them when ``limit`` have gathered.

        Raises:
            FloatingPointError: see :meth:`check`.
        """
        self._pending.append(result)
        if len(self._pending) >= self.limit:
            self.check()

    def check(self) -> None:
        """Fill ``values`` of all results that wait.

        Raises:
            FloatingPointError: a loss or a term of it, a running variance, or the norm of a gradient that no scaler
                watches was NaN or infinite; the message has its iteration, terms and scans.
        """
        pending, self._pending = [result for result in self._pending if not result.skipped], []
        scalars = [value for result in pending for value in result.read().values()]
        scalars += [result.statistics for result in pending if result.statistics is not None]
        if not scalars:
            return
        numbers = iter(torch.stack([value.detach().float().reshape(()) for value in scalars]).tolist())
        for result in pending:
            result.values = {name: next(numbers) for name in result.read()}
        for result in pending:
            self._check(result, next(numbers) if result.statistics is not None else 0.0)

    def _check(self, result: StepResult, variance: float) -> None:
        # The terms, too: a loss may hide its NaN from the sum.
        watched = {"the loss": result.values["loss"]}
        watched |= {f"the term {name!r} of the loss": result.values[name] for name in result.losses if is_term(name)}
        watched["the largest running variance"] = variance
        if not self.scaled:
            watched["the norm of the gradient"] = result.values.get("grad_norm", 0.0)
        wrong = next((f"{what} is {value}" for what, value in watched.items() if not math.isfinite(value)), None)
        if wrong is None:
            return
        # Without a norm nobody knows whether the gradient before it was finite.
        doubtful = not self.scaled and result.grad_norm is None
        raise FloatingPointError(
            f"{wrong} at iteration {result.iteration} (epoch {result.epoch + 1}, step {result.step}): "
            f"{terms(result.values)}; {self.explain(result.iteration, wrong, doubtful)}. Nothing has been saved since; "
            "look at the term that is not finite and at the scans, lower the learning rate, set clip_grad, or use "
            "amp_dtype='bfloat16'"
        )


def terms(values: Mapping[str, float]) -> str:
    """Name the numbers of one step: ``loss 1.234, ce 0.900``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
