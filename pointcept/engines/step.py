"""What one optimizer step produced, and the check that its loss is a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    values: dict[str, float] = field(default_factory=dict)
    """``loss``, every term, and ``grad_norm``, as floats; empty until they were read."""

    def read(self) -> dict[str, torch.Tensor]:
        """All scalars by name; ``loss`` first."""
        scalars = {"loss": self.loss, **self.losses}
        if self.grad_norm is not None:
            scalars["grad_norm"] = self.grad_norm
        return scalars


class LossMonitor:
    """Finds NaN and infinite losses without making every step wait for the device.

    Results are kept as they are and read together, in one transfer. ``limit`` bounds how many can
    wait, so that a bad loss is noticed at most that many steps later.

    Args:
        limit: steps after which results are read without being asked.
    """

    def __init__(self, limit: int = 50) -> None:
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
            FloatingPointError: a loss or a term of it was NaN or infinite; the message has its iteration and terms.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        scalars = [value.detach().float().reshape(()) for result in pending for value in result.read().values()]
        numbers = iter(torch.stack(scalars).tolist())
        for result in pending:
            result.values = {name: next(numbers) for name in result.read()}
        for result in pending:
            # The terms, too: a loss may hide its NaN from the sum. Behind a slash stand facts, which may be undefined.
            names = ("loss", *(name for name in result.losses if "/" not in name))
            wrong = next((name for name in names if not math.isfinite(result.values[name])), None)
            if wrong is not None:
                what = "the loss" if wrong == "loss" else f"the term {wrong!r} of the loss"
                raise FloatingPointError(
                    f"{what} is {result.values[wrong]} at iteration {result.iteration} (epoch {result.epoch + 1}, "
                    f"step {result.step}): {terms(result.values)}. Nothing has been saved since; look at "
                    "the term that is not finite, lower the learning rate, set clip_grad, or use amp_dtype='bfloat16'"
                )


def terms(values: Mapping[str, float]) -> str:
    """Name the numbers of one step: ``loss 1.234, ce 0.900``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
