"""From a scan to one prediction for each of its points: the one fragment and test-time loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pointcept.datasets import collate_fn
from pointcept.engines.memory import memory_for
from pointcept.engines.scores import advice, network_name, not_finite, spoiled
from pointcept.utils import device
from pointcept.utils.errors import DataError


@dataclass(frozen=True)
class Precision:
    """The number format of the forward pass; the votes are float32 in any case.

    Attributes:
        enabled: use ``dtype`` where autocast allows it.
        dtype: float16 or bfloat16.
    """

    enabled: bool = False
    dtype: torch.dtype = torch.float16

    @classmethod
    def of(cls, cfg: Any) -> Precision:
        """The precision that ``enable_amp`` and ``amp_dtype`` of a config ask for."""
        return cls(cfg.enable_amp, device.amp_dtype(cfg.amp_dtype))

    @property
    def hint(self) -> str:
        """What to try when scores are not finite."""
        dtype = self.dtype if self.enabled else torch.float32
        return advice(dtype, "enable_amp=False or amp_dtype='bfloat16'")

    def context(self) -> AbstractContextManager[Any]:
        """Autocast, or nothing."""
        return device.autocast(self.enabled, self.dtype)


@torch.no_grad()
def forward(model: nn.Module, batch: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """Run ``model`` in evaluation on a batch, which is moved to the device.

    Returns:
        What the model returns: ``seg_logits`` (N, K) and, with labels, ``loss`` and ``losses``.
    """
    with precision.context():
        output: dict[str, Any] = model(device.move(batch, device.get_device()))
    return output


@torch.no_grad()
def vote(
    model: nn.Module,
    fragments: Sequence[Mapping[str, Tensor]],
    num_points: int,
    batch_size: int = 1,
    precision: Precision | None = None,
    network: str | None = None,
) -> Tensor:
    """Add up the class probabilities that the fragments of one scan give to its points.

    Fragments may overlap and may be several views of the scan (test-time augmentation): each adds
    one vote, its softmax, to each of its points.

    Args:
        model: in evaluation mode, on the device.
        fragments: what the model reads, and ``index`` (M,): for which of the ``num_points`` points
            its rows hold.
        num_points: N.
        batch_size: fragments per forward pass.
        precision: of the forward pass, float32 by default.
        network: what messages call the model.

    Returns:
        (N, K) float32 on the device; row sums are the numbers of votes.

    Raises:
        DataError: a fragment that does not fit the scan, or points that no fragment holds.
        FloatingPointError: scores that are NaN or infinite.
    """
    precision = precision or Precision()
    _check_fragments(fragments, num_points)
    votes: Tensor | None = None
    for start in range(0, len(fragments), batch_size):
        # Labels would only make the model compute a loss that nobody reads.
        chosen = [{k: f[k] for k in f if k != "segment"} for f in fragments[start : start + batch_size]]
        sizes = [len(fragment["index"]) for fragment in chosen]
        index = torch.cat([fragment.pop("index") for fragment in chosen]).to(device.get_device(), non_blocking=True)
        logits = forward(model, collate_fn(chosen), precision)["seg_logits"]
        if votes is None:
            votes = torch.zeros(num_points, logits.shape[1], device=logits.device)
        # Softmax turns a score of -inf into 0; a row that holds one votes NaN, as NaN and +inf do by themselves.
        probabilities = logits.float().softmax(dim=1) + spoiled(logits)[:, None]
        # One fragment at a time: within it a point occurs once, so the sum does not depend on the
        # order in which the GPU adds.
        for rows, values in zip(index.split(sizes), probabilities.split(sizes), strict=True):
            votes.index_add_(0, rows, values)
    assert votes is not None
    sums = votes.sum(dim=1)
    bad, missed = torch.stack([sums.isnan().sum(), (sums < 0.5).sum()]).tolist()
    if bad:
        raise not_finite(bad, f"{num_points} points", network or network_name(model), precision.hint)
    if missed:
        raise DataError(f"{missed} of {num_points} points are in no fragment: check test_cfg.voxelize and crop")
    return votes


def _check_fragments(fragments: Sequence[Mapping[str, Tensor]], num_points: int) -> None:
    if not fragments:
        raise DataError("the scan has no fragments: check test_cfg")
    for number, fragment in enumerate(fragments):
        if "index" not in fragment:
            raise DataError(f"fragment {number} has no 'index': put it among the keys of Collect in post_transform")
        index = fragment["index"]
        if len(index) != len(fragment["feat"]) or (len(index) and int(index.max()) >= num_points):
            raise DataError(
                f"fragment {number}: index has {len(index)} rows up to {int(index.max())}, but there are "
                f"{len(fragment['feat'])} fragment points and {num_points} scan points"
            )


@dataclass(frozen=True)
class ScanPrediction:
    """The prediction of one scan at the finest resolution that its sample knows.

    Attributes:
        name: of the scan.
        pred: int64 (N,) classes, on the device.
        target: int64 (N,) labels or ``None``.
        passes: forward passes that were averaged for a point, on average.
    """

    name: str
    pred: Tensor
    target: Tensor | None
    passes: float


def predict_scan(
    model: nn.Module,
    sample: Mapping[str, Any],
    batch_size: int = 1,
    precision: Precision | None = None,
    network: str | None = None,
) -> ScanPrediction:
    """Predict every point of a test sample.

    Args:
        model: in evaluation mode, on the device.
        sample: what a data set gives in test mode: ``fragment_list``, ``name``, ``num_points``, and
            optionally ``segment``, ``inverse`` (N,) to all points of the scan, ``origin_segment`` (N,).
        batch_size: fragments per forward pass.
        precision: of the forward pass, float32 by default.
        network: what messages call the model.

    Raises:
        DataError: see :func:`vote`, or labels of another length than the prediction.
        FloatingPointError: see :func:`vote`.
        MemoryShortage: there is too little memory for a fragment.
    """
    name = str(sample["name"])
    fragments, points = sample["fragment_list"], int(sample["num_points"])

    def what() -> str:
        largest = max((len(fragment["feat"]) for fragment in fragments), default=0)
        return f"{name} ({points} points in {len(fragments)} fragments of up to {largest} voxels)"

    try:
        with memory_for(what):
            votes = vote(model, fragments, points, batch_size, precision, network)
    except (DataError, FloatingPointError) as error:
        raise type(error)(f"{name}: {error}") from error
    pred = votes.argmax(dim=1)
    passes = float(votes.sum()) / len(pred)
    target = sample.get("segment")
    if "inverse" in sample:
        pred = pred[torch.as_tensor(sample["inverse"]).to(pred.device)]
        # The labels of the transformed scan do not belong to all points.
        target = sample.get("origin_segment")
    elif "origin_segment" in sample:
        target = sample["origin_segment"]
    if target is not None:
        target = torch.as_tensor(target).to(pred.device).long()
        if target.shape != pred.shape:
            raise DataError(f"{name}: {len(target)} labels for {len(pred)} predicted points")
    return ScanPrediction(name, pred, target, passes)
