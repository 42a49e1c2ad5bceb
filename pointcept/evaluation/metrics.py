"""Metrics of semantic segmentation out of one confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pointcept.utils import comm


@dataclass(frozen=True)
class Metrics:
    """Results over all evaluated points; fractions in [0, 1], NaN where undefined.

    A class is *present* if it occurs in the ground truth. ``*_present`` is the mean over those
    classes: the figure to compare on a subset that lacks some classes. ``*_all`` is the mean over
    all K classes, absent ones counting 0, as the official SemanticKITTI evaluation has it; the
    two agree where every class is present.

    Args:
        names: class names, K of them.
        iou: TP / (TP + FP + FN) of each class; 0 for a class that is predicted but not present,
            NaN for one that is neither.
        accuracy: TP / (TP + FN) of each class (recall); NaN where not present.
        precision: TP / (TP + FP) of each class; NaN where never predicted.
        target_count: points of each class in the ground truth.
        pred_count: points predicted as each class, among those with a ground truth.
        miou_present: mean IoU over the classes present.
        miou_all: mean IoU over all classes, absent ones counting 0.
        macc_present: mean accuracy over the classes present.
        macc_all: mean accuracy over all classes, absent ones counting 0.
        all_acc: share of the points that are right.
        baseline: what always predicting the most frequent class would get on the same points.
        num_points: evaluated points, the ignored ones left out.
        num_scans: evaluated scans.
    """

    names: tuple[str, ...]
    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    precision: tuple[float, ...]
    target_count: tuple[int, ...]
    pred_count: tuple[int, ...]
    miou_present: float
    miou_all: float
    macc_present: float
    macc_all: float
    all_acc: float
    baseline: MajorityBaseline
    num_points: int
    num_scans: int

    def present(self) -> list[bool]:
        """Which classes occur in the ground truth."""
        return [count > 0 for count in self.target_count]


@dataclass(frozen=True)
class MajorityBaseline:
    """Scores of the constant prediction of the most frequent class.

    Args:
        name: that class; empty without points.
        miou_present: its mean IoU over the classes present.
        miou_all: its mean IoU over all classes.
        all_acc: its share of right points.
    """

    name: str
    miou_present: float
    miou_all: float
    all_acc: float


class ConfusionMatrix:
    """Counts pairs of true and predicted class.

    Args:
        num_classes: K.
        ignore_index: target of the points that do not count.
        names: class names, K of them; numbers by default.
        device: where the counts are kept.

    Raises:
        ValueError: a number of names other than K.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = -1,
        names: Sequence[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        names = [str(i) for i in range(num_classes)] if names is None else names
        if len(names) != num_classes:
            raise ValueError(f"names: got {len(names)}, allowed: one for each of the {num_classes} classes")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.names = tuple(names)
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        self.num_scans = 0

    def update(self, pred: Tensor, target: Tensor, num_scans: int = 1) -> None:
        """Add points.

        Args:
            pred: predicted class, integer of any shape, in [0, K) where the target is not ignored.
            target: true class, integer of the same shape, in [0, K) or ``ignore_index``.
            num_scans: how many scans these points are.

        Raises:
            ValueError: different shapes, floating-point input, or a class outside [0, K).
        """
        if pred.shape != target.shape or pred.is_floating_point() or target.is_floating_point():
            raise ValueError(
                f"pred and target have to be integers of one shape, got {pred.dtype} {tuple(pred.shape)} "
                f"and {target.dtype} {tuple(target.shape)}"
            )
        k = self.num_classes
        pred, target = pred.reshape(-1).long(), target.reshape(-1).long()
        wrong = (pred < 0) | (pred >= k) | (target < 0) | (target >= k)
        # Two bins more than pairs: ignored points and impossible ones. No boolean indexing, which
        # would make a GPU wait once for each mask.
        cell = torch.where(wrong, k * k + 1, target * k + pred)
        cell = torch.where(target == self.ignore_index, k * k, cell)
        counts = torch.bincount(cell, minlength=k * k + 2).to(self.counts.device)
        if counts[-1] > 0:
            raise ValueError(
                f"{int(counts[-1])} points have a class outside 0 to {k - 1}: predictions from {int(pred.min())} to "
                f"{int(pred.max())}, targets from {int(target.min())} to {int(target.max())} "
                f"({self.ignore_index} is ignored)"
            )
        self.counts += counts[: k * k].view(k, k)
        self.num_scans += num_scans

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes.

        Raises:
            ValueError: other classes.
        """
        if (other.names, other.ignore_index) != (self.names, self.ignore_index):
            raise ValueError(f"cannot merge counts of {other.names} into counts of {self.names}")
        self.counts += other.counts.to(self.counts.device)
        self.num_scans += other.num_scans

    def all_reduce(self) -> None:
        """Replace the counts by their sum over all processes; every process has to call it."""
        scans = torch.tensor([self.num_scans], dtype=torch.int64, device=self.counts.device)
        total = comm.all_reduce_sum(torch.cat([self.counts.flatten(), scans]))
        self.counts, self.num_scans = total[:-1].view_as(self.counts), int(total[-1])

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.counts = torch.zeros_like(self.counts)
        self.num_scans = 0

    def compute(self) -> Metrics:
        """The metrics of everything counted so far."""
        counts = self.counts.cpu()
        target, pred, hit = counts.sum(1), counts.sum(0), counts.diagonal()
        present = target > 0
        iou, accuracy = _ratio(hit, target + pred - hit), _ratio(hit, target)
        return Metrics(
            names=self.names,
            iou=tuple(iou.tolist()),
            accuracy=tuple(accuracy.tolist()),
            precision=tuple(_ratio(hit, pred).tolist()),
            target_count=tuple(target.tolist()),
            pred_count=tuple(pred.tolist()),
            miou_present=_mean(iou[present]),
            miou_all=_mean(iou.nan_to_num(0.0)) if present.any() else math.nan,
            macc_present=_mean(accuracy[present]),
            macc_all=_mean(accuracy.nan_to_num(0.0)) if present.any() else math.nan,
            all_acc=_ratio(hit.sum(), target.sum()).item(),
            baseline=majority_baseline(target.tolist(), self.names),
            num_points=int(target.sum()),
            num_scans=self.num_scans,
        )


def majority_baseline(target_count: Sequence[int], names: Sequence[str] | None = None) -> MajorityBaseline:
    """What always predicting the most frequent class would get.

    Its class has IoU n_c / N (every other point is a false positive), the other classes have 0.

    Args:
        target_count: points of each class in the ground truth, K of them.
        names: class names; numbers by default.
    """
    total, present = sum(target_count), sum(count > 0 for count in target_count)
    if total == 0:
        return MajorityBaseline("", math.nan, math.nan, math.nan)
    largest = max(range(len(target_count)), key=lambda i: target_count[i])
    share = target_count[largest] / total
    name = str(largest) if names is None else names[largest]
    return MajorityBaseline(name, share / present, share / len(target_count), share)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole`` in float64, NaN where ``whole`` is 0."""
    return part.double() / whole.double()


def _mean(values: Tensor) -> float:
    """The mean, NaN of nothing."""
    return values.mean().item()
