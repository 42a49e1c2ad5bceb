"""What the losses between student and teacher share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from pointcept.models.losses.distill.matching import Correspondence, match_voxels
from pointcept.models.losses.distill.schedule import Weight, WeightSchedule, check_weight
from pointcept.models.output import Output
from pointcept.structures import VoxelGrid
from pointcept.utils.checks import check_integer
from pointcept.utils.errors import ConfigError


class DistillationLoss(nn.Module):
    """A scalar from the outputs of both networks for one batch.

    The distiller calls, in every step, :meth:`begin` once the teacher is known, :meth:`submit` once the
    student is known too, and then ``forward``, which also works on its own.

    Args:
        loss_weight: factor that the distiller applies to the returned value, at least 0; or one that changes over
            the training, ``dict(start=0.0, end=1.0)``, see :class:`WeightSchedule`.

    Raises:
        ConfigError: an argument is out of its range.

    Attributes:
        needs_gradients: the loss reads ``Output.gradient(self.stage)`` of both networks.
        waits: ``forward`` waits for something that runs elsewhere, so the other losses come first.
        stage: encoder stage whose features it reads; None if it reads logits only.
        report: numbers of the last call for the log, such as the share of matched voxels; what is known on the device
            only stays there, as a scalar tensor.
    """

    needs_gradients = False
    waits = False
    stage: int | None = None

    def __init__(self, loss_weight: Weight) -> None:
        super().__init__()
        self.loss_weight = check_weight("loss_weight", loss_weight)
        self.report: dict[str, float | Tensor] = {}

    @property
    def name(self) -> str:
        """The name in configs and messages."""
        return type(self).__name__

    def weight(self, progress: float) -> float:
        """The factor after a share ``progress`` of the training, in [0, 1]."""
        own = self.loss_weight
        return own.at(progress) if isinstance(own, WeightSchedule) else own

    def connect(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        """Learn the channels of every encoder stage of both networks, before the first step.

        Raises:
            ConfigError: one of them has no stage of this number.
        """

    def begin(self, teacher: Output, student_grids: Sequence[VoxelGrid]) -> None:
        """Start what depends on the teacher alone, while the student has not run yet."""

    def submit(self, student: Output, teacher: Output) -> None:
        """Start what does not run on the device, so that other losses are computed meanwhile."""

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss without its weight; the teacher's tensors carry no gradient.

        Args:
            student: output of the network that learns.
            teacher: output of the frozen network for the same rows.
            batch: the collated samples.
        """
        raise NotImplementedError


class StageLoss(DistillationLoss):
    """A loss on the features of one encoder stage, matched by voxel.

    Args:
        loss_weight: factor that the distiller applies.
        stage: which one, counted from the finest; negative numbers count from the deepest.
    """

    stage: int

    def __init__(self, loss_weight: Weight, stage: int) -> None:
        super().__init__(loss_weight)
        self.stage = check_integer("stage", stage)

    def connect(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        for network, channels in (("student", student_channels), ("teacher", teacher_channels)):
            if not -len(channels) <= self.stage < len(channels):
                raise ConfigError(
                    f"got {self.stage}, but the {network}'s encoder has {len(channels)} stages: "
                    f"allowed are {-len(channels)} to {len(channels) - 1}",
                    "stage",
                )

    def match(self, student_grid: VoxelGrid, teacher: Output) -> Correspondence:
        """The common voxels of this stage; losses on the same pair of grids share the work.

        Raises:
            DataError: there are none.
        """
        grid = teacher.stages[self.stage].grid
        key = (student_grid, grid)  # the objects, not their ids: an id may come back
        if key not in teacher.shared:
            teacher.shared[key] = match_voxels(student_grid, grid, self.name)
        found: Correspondence = teacher.shared[key]
        self.report["matched"] = found.share
        return found

    def matched_features(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor, list[int]]:
        """Features (M, C) and (M, D) of the common voxels, the teacher's without gradient, and M per scan."""
        ours, theirs = student.stages[self.stage], teacher.stages[self.stage]
        common = self.match(ours.grid, teacher)
        return common.student(wide(ours.feat)), common.teacher(wide(theirs.feat.detach())), common.counts

    def check_finite(self, cloud: Tensor, network: str) -> None:
        """Look at the features (M, C) of a network; on a GPU the host waits.

        Raises:
            FloatingPointError: some are NaN or infinite.
        """
        bad = int((~torch.isfinite(cloud.detach())).any(dim=1).sum())
        if bad:
            raise FloatingPointError(
                f"{self.name}: {bad} of {len(cloud)} rows of the {network}'s features at stage {self.stage} are NaN "
                "or infinite"
            )


class OwnGenerator:
    """Random draws that leave torch's global state alone and go on where a checkpoint stopped.

    A mixin for modules; its state is an entry ``_extra_state`` of the state dict.
    """

    generator: torch.Generator

    def seed(self, seed: int) -> None:
        """Start the draws.

        Raises:
            ConfigError: ``seed`` is no integer in [0, 2^63).
        """
        self.generator = torch.Generator().manual_seed(check_integer("seed", seed, 0, 2**63 - 1))

    def get_extra_state(self) -> Tensor:
        """State of the generator, (S,) uint8."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Put :meth:`get_extra_state` back."""
        self.generator.set_state(state.cpu())


def wide(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is where it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocasting on the device of ``x``."""
    return torch.autocast(x.device.type, enabled=False)  # type: ignore[return-value]


def labels_of(batch: Mapping[str, Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The labels of a batch as classes (N,) int64, and which points have one, (N,) bool.

    Data sets ignore a negative label; whatever is no class of ``logits`` (N, K) is none here.
    """
    segment = batch.get("segment")
    if segment is None:
        return logits.new_zeros(len(logits), dtype=torch.int64), logits.new_zeros(len(logits), dtype=torch.bool)
    return segment.long(), (segment >= 0) & (segment < logits.shape[1])


def mean_over_clouds(values: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean of scalars, one per scan that has something to compare; 0 with a zero gradient to ``like`` without any.

    Args:
        values: scalars.
        like: features that the loss was computed from.
    """
    return torch.stack(list(values)).mean() if values else 0.0 * wide(like).sum()
