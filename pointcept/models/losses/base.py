"""What all segmentation losses share: shapes, precision, ignored points, the weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pointcept.utils.checks import check_integer, check_number


class SegmentationLoss(nn.Module):
    """A loss of logits (N, K) and targets (N,); subclasses write :meth:`compute`.

    Half precision is computed in float32. Ignored points neither count nor get a gradient; if all
    are ignored, the loss is 0 and so is its gradient. Nothing waits for the GPU.

    Args:
        loss_weight: factor of the loss, at least 0.
        ignore_index: target of the points that do not count; that of the data set.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(self, loss_weight: float = 1.0, ignore_index: int = -1) -> None:
        super().__init__()
        self.loss_weight = check_number("loss_weight", loss_weight, 0)
        self.ignore_index = check_integer("ignore_index", ignore_index)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return ``loss_weight`` times the loss, a scalar.

        Args:
            pred: logits, (N, K) floating point.
            target: class of each point, (N,) integer in [0, K) or ``ignore_index``.

        Raises:
            ValueError: wrong shapes or types; on the CPU also a target outside [0, K).
        """
        check_shapes(pred, target)
        target = target.long()
        valid = target != self.ignore_index
        check_targets(target, valid, self.num_classes(pred), self.ignore_index)
        if pred.dtype in (torch.float16, torch.bfloat16):
            pred = pred.float()
        # Any class will do for an ignored point, because every term of it is masked.
        return self.loss_weight * self.compute(pred, torch.where(valid, target, 0), valid)

    def check_classes(self, num_classes: int) -> None:
        """Learn how many classes the network tells apart, before the first step.

        Raises:
            ConfigError: an argument does not suit that number.
        """

    def num_classes(self, pred: Tensor) -> int:
        """How many classes logits of this shape tell apart."""
        return pred.shape[1]

    def compute(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The loss without its weight.

        Args:
            pred: logits, (N, K) float32 or float64.
            target: classes, (N,) int64 in [0, K); 0 where not ``valid``.
            valid: (N,) bool, False for ignored points.
        """
        raise NotImplementedError


def check_shapes(pred: Tensor, target: Tensor) -> None:
    """Check what does not depend on values.

    Raises:
        ValueError: shapes or types other than (N, K) floating point and (N,) integer.
    """
    if pred.ndim != 2 or target.ndim != 1 or len(pred) != len(target):
        raise ValueError(
            f"a loss takes pred (N, K) and target (N,), got pred {tuple(pred.shape)} and target {tuple(target.shape)}"
        )
    if not pred.is_floating_point() or target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"a loss takes floating-point pred and integer target, got {pred.dtype} and {target.dtype}")


def check_targets(target: Tensor, valid: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check the values of a CPU tensor; on a GPU looking at them would stop the pipeline.

    Raises:
        ValueError: a target outside [0, num_classes) that is not ``ignore_index``.
    """
    if target.device.type != "cpu":
        return
    wrong = target[valid & ((target < 0) | (target >= num_classes))]
    if len(wrong):
        raise ValueError(
            f"targets have to lie in 0 to {num_classes - 1} or be {ignore_index} (ignored), got {len(wrong)} others "
            f"from {int(wrong.min())} to {int(wrong.max())}"
        )


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of ``values``, 0 where all ``weights`` are 0; both have the same shape."""
    total = weights.sum()
    return (values * weights).sum() / torch.where(total > 0, total, 1)
