"""Quick evaluation: one forward pass per batch, no fragments, no test-time augmentation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from pointcept.engines.data import sample_name
from pointcept.engines.inference import Precision, forward
from pointcept.engines.memory import describe_scans, memory_for
from pointcept.engines.scores import network_name, not_finite, spoiled
from pointcept.evaluation import ConfusionMatrix, Metrics
from pointcept.utils import comm, device
from pointcept.utils.checkpoint import some
from pointcept.utils.errors import DataError


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation in the course of training.

    Attributes:
        epoch: number of the evaluation epoch, from 0.
        metric_name: what ``metric`` is, with the way it was measured: ``val_quick/miou_present``.
        metric: the number that decides which checkpoint is best; higher is better.
        metrics: all of them.
        losses: mean of ``loss`` and its terms over the batches; empty without labels for them.
    """

    epoch: int
    metric_name: str
    metric: float
    metrics: Metrics
    losses: dict[str, float] = field(default_factory=dict)


def evaluate_quick(
    model: nn.Module,
    loader: Iterable[Mapping[str, Any]],
    dataset: Any,
    precision: Precision,
    network: str | None = None,
) -> tuple[Metrics, dict[str, float]]:
    """Evaluate ``model`` on every batch of ``loader``, over all processes.

    Predictions are compared with ``segment``; where a batch has ``inverse`` and ``origin_segment``
    they are first led back to all points of the scans. The model's mode is restored afterwards.

    Args:
        model: the network that is deployed, on the device.
        loader: this process's batches, collated by ``collate_val``.
        dataset: gives ``names``, ``num_classes`` and ``ignore_index``.
        precision: of the forward pass.
        network: what messages call the model.

    Returns:
        The metrics, and the mean losses weighted by scans.

    Raises:
        DataError: batches without labels.
        FloatingPointError: scores or losses that are NaN or infinite.
        MemoryShortage: there is too little memory for a batch.
    """
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index, dataset.names, device.get_device())
    sums: dict[str, torch.Tensor] = {}
    scans = 0
    training = model.training
    model.eval()
    try:
        for batch in loader:
            batch = device.move(batch, device.get_device())
            if "segment" not in batch:
                raise DataError("evaluation needs labels: Collect the key 'segment' in data.val, or set evaluate=False")
            with memory_for(partial(_evaluation_of, batch)):
                output = forward(model, batch, precision)
            bad = spoiled(output["seg_logits"]).isnan()
            count = len(batch["offset"])
            rows, target = judged_points(batch)
            matrix.update(output["seg_logits"].argmax(dim=1)[rows], target, count)
            if bad.any():  # the matrix has waited for the device already
                error = not_finite(int(bad.sum()), f"{len(bad)} voxels", network or network_name(model), precision.hint)
                raise FloatingPointError(f"{_name_of_first(bad, batch['offset'], scans, dataset)}: {error}")
            scans += count
            if "loss" in output:
                for name, value in {"loss": output["loss"], **output.get("losses", {})}.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().float() * count
    finally:
        model.train(training)
    matrix.all_reduce()
    return matrix.compute(), _mean_losses(sums, scans)


def _evaluation_of(batch: Mapping[str, Any]) -> str:
    return f"the evaluation of {some(describe_scans(batch))}"


def judged_points(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor | slice, torch.Tensor]:
    """The voxel of each point that counts, and its class: all points of the scans where the batch has them.

    Args:
        batch: collated by ``collate_val``, with ``segment``.
    """
    if "inverse" in batch and "origin_segment" in batch:
        return batch["inverse"], batch["origin_segment"]
    return slice(None), batch["segment"]


def _name_of_first(bad: torch.Tensor, offset: torch.Tensor, scans: int, dataset: Any) -> str:
    """The first scan with a ``bad`` row (N,) in a batch that came after ``scans`` others of this process."""
    place = int(torch.searchsorted(offset, bad.nonzero()[0], right=True))
    return sample_name(dataset, comm.rank() + (scans + place) * comm.world_size())  # as EvalSampler deals them out


def _mean_losses(sums: Mapping[str, torch.Tensor], scans: int) -> dict[str, float]:
    # Objects, not a tensor: a process without scans does not know the names.
    parts = comm.gather_objects(({name: float(value) for name, value in sums.items()}, scans))
    total = sum(count for _, count in parts)
    names = dict.fromkeys(name for part, _ in parts for name in part)
    means = {name: sum(part.get(name, 0.0) for part, _ in parts) / total for name in names}
    wrong = [f"{name} {mean}" for name, mean in means.items() if not math.isfinite(mean)]
    if wrong:
        raise FloatingPointError(f"evaluation: losses are not finite, although all scores are: {', '.join(wrong)}")
    return means
