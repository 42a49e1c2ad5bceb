"""Confusion-matrix metrics against naive loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pointcept.evaluation import ConfusionMatrix, majority_baseline
from pointcept.utils import comm


def points(seed: int, n: int = 500, k: int = 6) -> tuple[Tensor, Tensor]:
    """Predictions and targets: class 4 is never true, class 5 never occurs, some points are ignored."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, 4, (n,), generator=generator)
    pred = torch.where(torch.rand(n, generator=generator) < 0.6, target.clamp(min=0), target.new_tensor(4))
    return pred, target


def naive(pred: list[int], target: list[int], c: int) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of class c, point by point."""
    tp = fp = fn = 0
    for p, t in zip(pred, target, strict=True):
        if t == -1:
            continue
        tp += p == c and t == c
        fp += p == c and t != c
        fn += p != c and t == c
    return tp, fp, fn


def test_metrics_equal_naive_loops() -> None:
    pred, target = points(0)
    matrix = ConfusionMatrix(6, names=list("abcdef"))
    matrix.update(pred, target)
    m = matrix.compute()
    ious, accs = [], []
    for c in range(6):
        tp, fp, fn = naive(pred.tolist(), target.tolist(), c)
        assert m.target_count[c] == tp + fn
        assert m.pred_count[c] == tp + fp
        ious.append(tp / (tp + fp + fn) if tp + fp + fn else 0.0)
        accs.append(tp / (tp + fn) if tp + fn else 0.0)
        assert m.iou[c] == pytest.approx(ious[c]) if c != 5 else math.isnan(m.iou[c])
        assert m.accuracy[c] == pytest.approx(accs[c]) if c < 4 else math.isnan(m.accuracy[c])
        assert m.precision[c] == pytest.approx(tp / (tp + fp)) if c != 5 else math.isnan(m.precision[c])
    kept = target != -1
    assert m.all_acc == pytest.approx((pred == target)[kept].double().mean().item())
    assert m.miou_present == pytest.approx(sum(ious[:4]) / 4)
    assert m.macc_present == pytest.approx(sum(accs[:4]) / 4)
    assert m.miou_all == pytest.approx(sum(ious) / 6)
    assert m.macc_all == pytest.approx(sum(accs) / 6)
    assert m.present() == [True] * 4 + [False] * 2
    assert m.num_points == int(kept.sum())
    assert m.num_scans == 1
    assert m.names == tuple("abcdef")


def test_closed_form() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, -1]), num_scans=2)
    m = matrix.compute()
    assert m.iou[:2] == pytest.approx((2 / 3, 1 / 2))
    assert m.precision[:2] == pytest.approx((1, 1 / 2))
    assert (m.miou_present, m.miou_all, m.all_acc) == pytest.approx((7 / 12, 7 / 18, 3 / 4))
    assert m.num_scans == 2
    assert m.present() == [True, True, False]  # one point is enough
    assert matrix.counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_perfect_prediction_is_one_and_all_classes_agree_with_present() -> None:
    target = torch.arange(4).repeat(3)
    matrix = ConfusionMatrix(4)
    matrix.update(target, target)
    m = matrix.compute()
    assert m.miou_present == m.miou_all == m.macc_present == m.macc_all == m.all_acc == 1


def test_updates_merges_and_shapes_add_up() -> None:
    whole, parts, other = ConfusionMatrix(6), ConfusionMatrix(6), ConfusionMatrix(6)
    for seed in range(4):
        pred, target = points(seed)
        whole.update(pred, target)
        (parts if seed < 2 else other).update(pred.view(20, 25).int(), target.view(20, 25).to(torch.int16))
    parts.merge(other)
    assert torch.equal(parts.counts, whole.counts)
    assert parts.num_scans == whole.num_scans == 4
    parts.reset()
    assert parts.counts.sum() == 0
    assert parts.num_scans == 0
    assert other.num_scans == 2


def test_any_ignore_index() -> None:
    pred, target = points(1)
    expected, got = ConfusionMatrix(6), ConfusionMatrix(6, ignore_index=255)
    expected.update(pred, target)
    got.update(torch.where(target == -1, 77, pred), torch.where(target == -1, 255, target))
    assert torch.equal(got.counts, expected.counts)
    inside = ConfusionMatrix(3, ignore_index=0)
    inside.update(torch.tensor([1, 2, 2]), torch.tensor([0, 1, 2]))
    assert inside.counts.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("n", [0, 5])
def test_nothing_to_evaluate_is_nan(n: int) -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(n, dtype=torch.long), torch.full((n,), -1))
    m = matrix.compute()
    assert m.num_points == 0
    for value in (m.miou_present, m.miou_all, m.macc_present, m.macc_all, m.all_acc, m.baseline.miou_all, *m.iou):
        assert math.isnan(value)


@pytest.mark.parametrize(
    ("pred", "target"),
    [([3], [0]), ([-1], [0]), ([0], [3]), ([0], [-2]), ([0, 1], [0])],
)
def test_wrong_points_are_named_and_not_counted(pred: list[int], target: list[int]) -> None:
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=r"integers of one shape, got|^1 points have a class outside 0 to 2"):
        matrix.update(torch.tensor(pred), torch.tensor(target))
    assert matrix.counts.sum() == 0
    assert matrix.num_scans == 0


def test_logits_instead_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="integers"):
        ConfusionMatrix(3).update(torch.zeros(4), torch.zeros(4, dtype=torch.long))


def test_names_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"got 2.*3 classes"):
        ConfusionMatrix(3, names=["a", "b"])
    with pytest.raises(ValueError, match="merge"):
        ConfusionMatrix(2, names=["a", "b"]).merge(ConfusionMatrix(2, names=["b", "a"]))


def test_all_reduce_sums_counts_and_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = ConfusionMatrix(6)
    matrix.update(*points(2), num_scans=3)
    before = matrix.counts.clone()
    matrix.all_reduce()
    assert torch.equal(matrix.counts, before)
    assert matrix.num_scans == 3
    monkeypatch.setattr(comm, "all_reduce_sum", lambda tensor: 4 * tensor)
    matrix.all_reduce()
    assert torch.equal(matrix.counts, 4 * before)
    assert matrix.num_scans == 12


def test_majority_baseline_is_what_the_constant_prediction_gets() -> None:
    _, target = points(3)
    target[:200] = 2
    matrix = ConfusionMatrix(6, names=list("abcdef"))
    matrix.update(torch.full_like(target, 2), target)
    m = matrix.compute()
    assert m.baseline.name == "c"
    assert m.baseline.miou_present == pytest.approx(m.miou_present)
    assert m.baseline.miou_all == pytest.approx(m.miou_all)
    assert m.baseline.all_acc == pytest.approx(m.all_acc)
    assert majority_baseline([1, 3, 0]).miou_present == pytest.approx(3 / 8)
    assert majority_baseline([1, 3, 0]).miou_all == pytest.approx(1 / 4)
    assert majority_baseline([0, 0]).name == ""
