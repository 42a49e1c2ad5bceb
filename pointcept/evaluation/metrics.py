"""Metrics of semantic segmentation out of one confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pointcept.utils import comm

RANGES = (10.0, 20.0, 30.0, 40.0, 50.0)
"""Where the horizontal distance from the sensor is cut [m]."""


@dataclass(frozen=True)
class RangeMetrics:
    """Results over the points of one range of distances; fractions in [0, 1], NaN where undefined.

    Args:
        low: nearest distance [m].
        high: farthest distance [m], infinite for the last range.
        iou: of each class, as in :class:`Metrics`.
        miou_present: mean IoU over the classes that occur in this range.
        all_acc: share of the points that are right.
        num_classes: classes that occur.
        num_points: evaluated points.
    """

    low: float
    high: float
    iou: tuple[float, ...]
    miou_present: float
    all_acc: float
    num_classes: int
    num_points: int


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
        confusion: points of each true class (row) by predicted class, K rows of K.
        ranges: the same by distance from the sensor, see ``RANGES``; none where no distance was known.
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
    confusion: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[RangeMetrics, ...] = ()

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
        self.by_range = torch.zeros(len(RANGES) + 1, num_classes, num_classes, dtype=torch.int64, device=device)
        self.num_scans = 0

    def update(self, pred: Tensor, target: Tensor, num_scans: int = 1, distance: Tensor | None = None) -> None:
        """Add points.

        Args:
            pred: predicted class, integer of any shape, in [0, K) where the target is not ignored.
            target: true class, integer of the same shape, in [0, K) or ``ignore_index``.
            num_scans: how many scans these points are.
            distance: horizontal distance from the sensor [m], of the same shape; None if nobody knows.

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
        parts, bins = 1, k * k + 2
        if distance is not None:
            parts = len(self.by_range)
            cuts = torch.tensor(RANGES, dtype=torch.float32, device=cell.device)
            cell = cell + bins * torch.bucketize(distance.reshape(-1).to(cell.device, torch.float32), cuts, right=True)
        by_part = torch.bincount(cell, minlength=parts * bins).view(parts, bins).to(self.counts.device)
        counts = by_part.sum(0)
        if counts[-1] > 0:
            raise ValueError(
                f"{int(counts[-1])} points have a class outside 0 to {k - 1}: predictions from {int(pred.min())} to "
                f"{int(pred.max())}, targets from {int(target.min())} to {int(target.max())} "
                f"({self.ignore_index} is ignored)"
            )
        self.counts += counts[: k * k].view(k, k)
        if distance is not None:
            self.by_range += by_part[:, : k * k].reshape(parts, k, k)
        self.num_scans += num_scans

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of the same classes.

        Raises:
            ValueError: other classes.
        """
        if (other.names, other.ignore_index) != (self.names, self.ignore_index):
            raise ValueError(f"cannot merge counts of {other.names} into counts of {self.names}")
        self.counts += other.counts.to(self.counts.device)
        self.by_range += other.by_range.to(self.counts.device)
        self.num_scans += other.num_scans

    def all_reduce(self) -> None:
        """Replace the counts by their sum over all processes; every process has to call it."""
        scans = torch.tensor([self.num_scans], dtype=torch.int64, device=self.counts.device)
        total = comm.all_reduce_sum(torch.cat([self.counts.flatten(), self.by_range.flatten(), scans]))
        counts, by_range = total[:-1].split([self.counts.numel(), self.by_range.numel()])
        self.counts, self.by_range = counts.view_as(self.counts), by_range.view_as(self.by_range)
        self.num_scans = int(total[-1])

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.counts, self.by_range = torch.zeros_like(self.counts), torch.zeros_like(self.by_range)
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
            confusion=tuple(map(tuple, counts.tolist())),
            ranges=self._ranges(),
        )

    def _ranges(self) -> tuple[RangeMetrics, ...]:
        by_range = self.by_range.cpu()
        if not by_range.any():
            return ()
        return tuple(
            _range_metrics(low, high, counts)
            for low, high, counts in zip((0.0, *RANGES), (*RANGES, math.inf), by_range, strict=True)
        )


def _range_metrics(low: float, high: float, counts: Tensor) -> RangeMetrics:
    target, pred, hit = counts.sum(1), counts.sum(0), counts.diagonal()
    iou, present = _ratio(hit, target + pred - hit), target > 0
    return RangeMetrics(
        low=low,
        high=high,
        iou=tuple(iou.tolist()),
        miou_present=_mean(iou[present]),
        all_acc=_ratio(hit.sum(), target.sum()).item(),
        num_classes=int(present.sum()),
        num_points=int(target.sum()),
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
