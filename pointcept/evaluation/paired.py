"""Is the difference between two methods more than chance? Exact permutation tests on paired measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT = 1 << 20  # most outcomes that are listed; beyond that as many draws as in DRAWS
DRAWS = 100_000


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """``Metrics.miou_present`` of many confusion matrices at once.

    Args:
        counts: (..., K, K), true class by predicted class.

    Returns:
        (...) float64: mean IoU over the classes that occur in the ground truth, NaN where none does.
    """
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    target, pred = counts.sum(-1), counts.sum(-2)
    present = target > 0
    iou = np.where(present, hit / np.maximum(target + pred - hit, 1), 0.0)
    number = present.sum(-1)
    return np.where(number > 0, iou.sum(-1) / np.maximum(number, 1), np.nan)


def permutation_p(units: Sequence[np.ndarray]) -> float:
    """Two-sided p of a sum over units that under the null hypothesis take each of their values equally often.

    Every combination is listed where there are no more than ``EXACT``; else ``DRAWS`` random ones, and the
    observed one, stand for them.

    Args:
        units: the possible values of each unit, the observed one first.

    Returns:
        The share of combinations whose sum is at least as far from 0 as the observed one; NaN without units.
    """
    if not units:
        return math.nan
    observed = abs(sum(float(values[0]) for values in units))
    limit = observed - 1e-9 * max(observed, 1e-3)  # equal sums in another order differ in their last digits
    if math.prod(len(values) for values in units) <= EXACT:
        sums = np.zeros(1)
        for values in units:
            sums = (sums[:, None] + values).ravel()
        return float(np.mean(np.abs(sums) >= limit))
    draw = np.random.default_rng(0)
    sums = np.sum([values[draw.integers(len(values), size=DRAWS)] for values in units], axis=0)
    return (1 + int(np.sum(np.abs(sums) >= limit))) / (1 + DRAWS)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of a mean of paired differences whose signs are a coin's under the null hypothesis."""
    return permutation_p([np.array([value, -value]) for value in differences])


def swap_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sided p of a difference of pooled mIoU, averaged over seeds.

    Under the null hypothesis two runs of one seed and one fold may change places: each outcome is the
    difference after some of them have.

    Args:
        ours: (S, F, K, K) confusion matrices of S seeds and F folds.
        theirs: the same of the other method.
    """
    folds = ours.shape[1]
    swapped = (np.arange(1 << folds)[:, None] >> np.arange(folds) & 1).astype(bool)[:, :, None, None]
    units = []
    for a, b in zip(ours, theirs, strict=True):
        pooled = [np.where(mask, y, x).sum(1) for mask, x, y in ((swapped, a, b), (swapped, b, a))]
        units.append(mean_iou(pooled[0]) - mean_iou(pooled[1]))
    return permutation_p(units)


def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t that a Student variable exceeds in absolute value with probability 1 - ``confidence``.

    Args:
        freedom: degrees of freedom, at least 1.
        confidence: in (0, 1).
    """
    # t = sqrt(freedom) tan(a) has a density proportional to cos(a)^(freedom - 1).
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(confidence, share / share[-1], angle)))


@dataclass(frozen=True)
class PairedDifference:
    """A mean of paired differences.

    Attributes:
        n: pairs.
        mean: NaN without pairs.
        half_width: of the 95 % interval of Student's t around the mean; NaN below two pairs.
        positive: how many differences are above 0.
        p: of :func:`sign_flip_p`.
    """

    n: int
    mean: float
    half_width: float
    positive: int
    p: float


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Mean, interval and p of paired differences."""
    n = len(differences)
    width = t_quantile(n - 1) * float(np.std(differences, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    mean = float(np.mean(differences)) if n else math.nan
    return PairedDifference(n, mean, width, sum(value > 0 for value in differences), sign_flip_p(differences))
