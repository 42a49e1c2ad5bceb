"""Permutation tests against brute force, pooled mIoU against the evaluation, Student's t by a table."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pointcept.evaluation import ConfusionMatrix, paired
from pointcept.evaluation.paired import mean_iou, paired_difference, permutation_p, sign_flip_p, swap_p, t_quantile


def matrices(*shape: int, seed: int = 0) -> np.ndarray:
    """Confusion matrices of four classes, of which the last never occurs."""
    counts = np.random.default_rng(seed).integers(0, 50, (*shape, 4, 4))
    counts[..., 3, :] = 0
    return counts


def test_mean_iou_by_hand() -> None:
    counts = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert mean_iou(counts) == pytest.approx((6 / 9 + 3 / 6) / 2)  # the third class does not occur
    assert math.isnan(mean_iou(np.zeros((3, 3), int)))


def test_mean_iou_is_that_of_the_evaluation() -> None:
    counts = matrices(3, 2)
    for one, value in zip(counts.reshape(-1, 4, 4), mean_iou(counts).ravel(), strict=True):
        matrix = ConfusionMatrix(4)
        matrix.counts += torch.from_numpy(one)
        assert value == pytest.approx(matrix.compute().miou_present)


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_signs_as_brute_force_has_them(n: int) -> None:
    values = np.random.default_rng(n).normal(0.3, 1, n)
    flips = [abs(np.dot(signs, values)) >= abs(values.sum()) - 1e-12 for signs in itertools.product((1, -1), repeat=n)]
    assert sign_flip_p(values) == pytest.approx(np.mean(flips))
    assert sign_flip_p(-values) == sign_flip_p(values)


def test_the_smallest_p_and_ties() -> None:
    assert sign_flip_p([0.1] * 12) == 2 / 2**12
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1
    # 0.1 + 0.2 and 0.3 are the same sum although their last digits differ
    assert sign_flip_p([0.1, 0.2, -0.3, 0.3]) == sign_flip_p([1, 2, -3, 3])
    assert math.isnan(sign_flip_p([]))


def test_many_pairs_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(3).normal(0.4, 1, 12))
    exact = sign_flip_p(values)
    monkeypatch.setattr(paired, "EXACT", 100)
    drawn = sign_flip_p(values)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.01)
    assert sign_flip_p([1.0] * 40) == 1 / (1 + paired.DRAWS)


def test_swaps_as_brute_force_has_them() -> None:
    ours, theirs = matrices(2, 3, seed=1), matrices(2, 3, seed=2)

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(mean_iou(a.sum(1)) - mean_iou(b.sum(1))))

    observed, as_far = abs(difference(ours, theirs)), []
    for swaps in itertools.product((False, True), repeat=6):
        mask = np.reshape(swaps, (2, 3, 1, 1))
        as_far.append(abs(difference(np.where(mask, theirs, ours), np.where(mask, ours, theirs))) >= observed - 1e-12)
    assert swap_p(ours, theirs) == pytest.approx(np.mean(as_far))
    assert swap_p(ours, ours) == 1


def test_the_null_hypothesis_is_rejected_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    p = [sign_flip_p(rng.normal(0, 1, 8)) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean([sign_flip_p(rng.normal(1.5, 1, 8)) <= 0.05 for _ in range(100)]) > 0.8
    assert permutation_p([np.array([1.0, -1.0, 0.0])]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (11, 2.201), (120, 1.980)])
def test_quantiles_of_student(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=6e-4)


def test_a_paired_difference_by_hand() -> None:
    result = paired_difference([0.01, 0.03, 0.02, -0.01])
    assert (result.n, result.positive) == (4, 3)
    assert result.mean == pytest.approx(0.0125)
    assert result.half_width == pytest.approx(3.182 * 0.01708 / 2, rel=1e-3)
    assert result.p == 6 / 16  # sums of 0.07, 0.05 and again 0.05, and their mirror images
    one, none = paired_difference([0.5]), paired_difference([])
    assert (one.mean, one.p) == (0.5, 1)
    assert math.isnan(one.half_width)
    assert (none.n, math.isnan(none.mean)) == (0, True)
