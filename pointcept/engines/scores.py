"""Class scores that are no numbers: found where scores become labels, since ``argmax`` answers NaN with a class.

An infinite score is refused as NaN is, -inf too: out of half precision both come from numbers that were too large.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn


def network_name(model: nn.Module, weight: str | Path | None = None) -> str:
    """A network in messages: its type, that of its backbone, and the file of its weights."""
    backbone = getattr(model, "backbone", None)
    name = type(model).__name__ + (f" with {type(backbone).__name__}" if backbone is not None else "")
    return f"{name} ({weight})" if weight else name


def spoiled(scores: Tensor) -> Tensor:
    """0 for each row (N,) of ``scores`` (N, K) whose values are all finite, else NaN; nothing waits for the device."""
    return (scores * 0).sum(1)


def advice(dtype: torch.dtype, remedy: str) -> str:
    """What to try, for numbers of this type; ``remedy`` says how to have another one."""
    if dtype == torch.float16:
        return f"float16 ends at 65504: try {remedy}, and look at the weights and at the features of the points"
    return "look at the weights and at the features of the points"


def not_finite(rows: int, of: str, network: str, hint: str) -> FloatingPointError:
    """The error for rows whose scores are not finite.

    Args:
        rows: how many.
        of: of how many and what they are, ``"120 points"``.
        network: see :func:`network_name`.
        hint: see :func:`advice`.
    """
    return FloatingPointError(f"{rows} of {of} have scores that are NaN or infinite from {network}: {hint}")


def check_scores(scores: Tensor, network: str, hint: str) -> Tensor:
    """Return ``scores`` (N, K) of N voxels once they are known to be finite; the host waits for them.

    Raises:
        FloatingPointError: NaN or infinity.
    """
    if math.isnan(float((scores * 0).sum())):  # two kernels and one number
        raise not_finite(int(spoiled(scores).isnan().sum()), f"{len(scores)} voxels", network, hint)
    return scores
