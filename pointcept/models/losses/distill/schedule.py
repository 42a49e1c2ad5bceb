"""Weights of losses that change over the training."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from pointcept.utils.checks import check_choice, check_number, refused
from pointcept.utils.errors import ConfigError, did_you_mean, inside

SHAPES = ("linear", "cosine")

Weight = float | Mapping[str, Any]
"""What a config gives as ``loss_weight``: a number, or the arguments of a :class:`WeightSchedule`."""


class WeightSchedule:
    """A weight that goes from ``start`` to ``end`` between two moments of the training and stays there.

    It has no state: the trainer says how far the training is, so that a resumed run continues where it was.

    Args:
        start: weight until ``begin``, at least 0.
        end: weight from ``until`` on, at least 0.
        begin: share of all optimizer steps that are done when the change begins.
        until: share that is done when it is over.
        shape: ``"linear"``, or ``"cosine"``: half a period, slow at both ends.

    Raises:
        ConfigError: an argument is out of its range, or ``until`` is not after ``begin``.
    """

    def __init__(self, start: float, end: float, begin: float = 0.0, until: float = 1.0, shape: str = "linear") -> None:
        self.start, self.end = check_number("start", start, 0), check_number("end", end, 0)
        self.begin = check_number("begin", begin, 0, 1, open_high=True)
        self.until = check_number("until", until, 0, 1)
        if self.until <= self.begin:
            raise refused("until", until, f"a number above begin={begin}")
        self.shape = check_choice("shape", shape, SHAPES)

    def at(self, progress: float) -> float:
        """The weight after a share ``progress`` of the training, in [0, 1]."""
        part = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        if self.shape == "cosine":
            part = 0.5 - 0.5 * math.cos(math.pi * part)
        return (1 - part) * self.start + part * self.end


def check_weight(name: str, value: Weight) -> float | WeightSchedule:
    """Return a number of at least 0, or the schedule that a mapping describes.

    Raises:
        ConfigError: neither, or a wrong, unknown or missing argument of the schedule.
    """
    if not isinstance(value, Mapping):
        try:
            return check_number(name, value, 0)
        except ConfigError as error:
            raise ConfigError(f"{error.message}, or dict(start=..., end=...)", name) from None
    arguments = inspect.signature(WeightSchedule).parameters
    with inside(name):
        for key in value:
            if key not in arguments:
                raise ConfigError(f"a changing weight takes no {key!r}: {did_you_mean(str(key), arguments)}")
        for key in ("start", "end"):
            if key not in value:
                raise ConfigError(f"a changing weight needs start and end, {key!r} is missing")
        return WeightSchedule(**value)
