"""Lovász losses: convex surrogates of 1 - IoU.

Berman, Rannen Triki, Blaschko, "The Lovász-Softmax loss: a tractable surrogate for the
optimization of the intersection-over-union measure in neural networks", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.losses.base import SegmentationLoss
from pointcept.models.losses.builder import LOSSES
from pointcept.utils.checks import check_choice, check_integers, refused
from pointcept.utils.errors import ConfigError

_SORTED_AT_ONCE = 1 << 21  # errors


@torch.no_grad()
def lovasz_weights(errors: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Gradient of the Lovász extension of 1 - IoU at ``errors``, for C sets at once.

    Definition 2 of the paper: with the points in descending order of error, g_i is what point i
    adds to 1 - IoU when the points before it are mispredicted already. Algorithm 1 subtracts
    neighbouring values of 1 - IoU; here each difference is written in closed form, 1 / U_i for a
    point of the set and I_i / (U_i (U_i - 1)) for another one (I, U: intersection and union after
    point i), because that subtraction loses most digits of float32 once N is large.

    Args:
        errors: (C, N) error of each point, of any sign.
        truth: (C, N) bool, the points that belong to the set; False where not ``valid``.
        valid: (N,) bool, the points that count.

    Returns:
        (C, N) weights in the order of the points, 0 where not ``valid``.
    """
    errors = torch.where(valid, errors, -torch.inf)
    order = errors.argsort(dim=1, descending=True)
    inside = truth.gather(1, order)
    # One scan of all sets: CUDA scans several rows with one block each.
    found = inside.flatten().cumsum(0, dtype=torch.int32).view_as(inside)
    found = found - F.pad(found[:-1, -1:], (0, 0, 1, 0))
    size = truth.sum(1, dtype=torch.int32)[:, None]
    position = torch.arange(1, errors.shape[1] + 1, device=errors.device, dtype=torch.int32)
    # Integers up to here: float32 counts only to 16.7 million.
    intersection = (size - found).to(errors.dtype)
    union = (size + position - found).to(errors.dtype)
    outside = intersection / (union * (union - 1).clamp(min=1))
    # A union of 1 after a point outside: the set is empty, and the first error makes IoU 0.
    outside = torch.where(union == 1, 1, outside)
    step = torch.where(inside, 1 / union, outside)
    weights = torch.empty_like(step).scatter_(1, order, step)
    return torch.where(valid, weights, 0)


@LOSSES.register_module()
class LovaszLoss(SegmentationLoss):
    """Lovász-Softmax (``multiclass``) or Lovász hinge (``binary``) over the whole batch.

    Args:
        mode: ``multiclass``: pred (N, K), the mean over the classes that occur in the target of
            the extension of 1 - IoU at the errors |y - softmax(pred)| (section 2.2 of the paper).
            ``binary``: pred (N, 1), one logit for class 1 against class 0, the extension at the
            hinge errors max(1 - pred * (2 y - 1), 0) (section 2.1).
        class_seen: with ``multiclass``, only these classes count.
        loss_weight: factor of the loss.
        ignore_index: target of the points that do not count.
    """

    seen: Tensor | None

    def __init__(
        self,
        mode: str = "multiclass",
        class_seen: Sequence[int] | None = None,
        loss_weight: float = 1.0,
        ignore_index: int = -1,
    ) -> None:
        super().__init__(loss_weight, ignore_index)
        self.mode = check_choice("mode", mode, ("multiclass", "binary"))
        if class_seen is not None and mode == "binary":
            raise refused("class_seen", class_seen, "None in mode 'binary'")
        seen = None if class_seen is None else torch.tensor(check_integers("class_seen", class_seen, low=0))
        self.register_buffer("seen", seen, persistent=False)
        self._highest = max(class_seen) if class_seen is not None else 0

    def check_classes(self, num_classes: int) -> None:
        if self.mode == "binary" and num_classes != 1:
            raise ConfigError(f"got 'binary' for {num_classes} classes, allowed: 'multiclass', or one logit", "mode")
        if self._highest >= num_classes:
            raise ConfigError(f"got class {self._highest}, allowed: 0 to {num_classes - 1}", "class_seen")

    def num_classes(self, pred: Tensor) -> int:
        if self.mode == "multiclass":
            return pred.shape[1]
        if pred.shape[1] != 1:
            raise ValueError(f"LovaszLoss in mode 'binary' takes pred (N, 1), got {tuple(pred.shape)}")
        return 2

    def compute(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return self._hinge(pred[:, 0], target, valid) if self.mode == "binary" else self._softmax(pred, target, valid)

    def _hinge(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        truth = (target == 1) & valid
        errors = 1 - torch.where(truth, pred, -pred)
        weights = lovasz_weights(errors[None], truth[None], valid)[0]
        return (errors.clamp(min=0) * weights).sum()

    def _softmax(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        classes = torch.arange(pred.shape[1], device=pred.device)
        truth = (target == classes[:, None]) & valid
        # Classes first: one contiguous sort for each.
        prob = pred.softmax(1).t().contiguous()
        errors = torch.where(truth, 1 - prob, prob)
        # Some classes at a time: a sort takes ten times the memory of what it sorts, while the network's is full.
        some = max(1, _SORTED_AT_ONCE // max(1, len(pred)))
        parts = zip(errors.split(some), truth.split(some), strict=True)
        losses = (errors * torch.cat([lovasz_weights(*part, valid) for part in parts])).sum(1)
        counts = truth.any(1)
        if self.seen is not None:
            counts = counts & (classes[:, None] == self.seen).any(1)
        return torch.where(counts, losses, 0).sum() / counts.sum().clamp(min=1)
