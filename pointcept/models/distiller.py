"""Distillation: a frozen teacher, a live student, and the losses between them.

After *Topology-Guided Knowledge Distillation for Efficient Point Cloud Processing* (arXiv 2505.08101):
L = L_seg + Σ weight · loss(student, teacher).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pointcept.models.builder import MODELS
from pointcept.models.losses import DISTILL_LOSSES
from pointcept.models.segmentor import Segmentor
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.errors import ConfigError


@MODELS.register_module()
class Distiller(nn.Module):
    """Train a student with its own segmentation criteria and losses that compare it with a teacher.

    The teacher stays in evaluation mode, gets no gradient and is no part of ``state_dict()``,
    ``parameters()`` or ``modules()``: checkpoints, optimizers and data-parallel wrappers see the
    student and the losses' own weights only.

    Args:
        teacher: config of the teacher's segmentor.
        student: config of the student's segmentor.
        losses: configs out of the registry of distillation losses. Each is called with
            ``(student: Output, teacher: Output, batch)`` and returns an unweighted scalar; its
            ``loss_weight`` is applied here.
        teacher_weight: the teacher's checkpoint; ``"random"`` leaves it untrained, for tests.

    Raises:
        ConfigError: teacher and student have different numbers of classes or input channels, the
            student has no criteria, or no loss is given.
        CheckpointError: the checkpoint is missing, damaged or does not fit the teacher.
    """

    def __init__(
        self,
        teacher: Mapping[str, Any],
        student: Mapping[str, Any],
        losses: Sequence[Mapping[str, Any]],
        teacher_weight: str,
    ) -> None:
        super().__init__()
        student_model: Segmentor = MODELS.build(student)
        teacher_model: Segmentor = MODELS.build({**teacher, "criteria": None})
        _check_pair(teacher_model, student_model)
        if not losses:
            raise ConfigError("a Distiller needs at least one loss, such as dict(type='KLDLoss')")
        if teacher_weight != "random":
            load_weights(teacher_model, teacher_weight)
        self.student = student_model
        self.losses = nn.ModuleList(DISTILL_LOSSES.build(cfg) for cfg in losses)
        self._loss_names = _unique_names([cfg["type"] for cfg in losses])
        teacher_model.eval().requires_grad_(False)
        self._teacher = (teacher_model,)  # inside a tuple, so that nn.Module does not register it

    @staticmethod
    def inference_config(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config of the network that is deployed: the student."""
        return cfg["student"]

    @property
    def teacher(self) -> nn.Module:
        """The frozen network."""
        return self._teacher[0]

    @property
    def deployable(self) -> nn.Module:
        """The network whose weights a checkpoint publishes: the student."""
        return self.student

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        """Move the teacher along with ``.to(...)``."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.teacher._apply(fn)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """A batch -> ``loss`` and ``losses`` in training; the student's predictions in evaluation.

        ``losses`` holds each criterion, each distillation loss as it enters the sum, and as
        ``<name>/raw`` without its weight.
        """
        if not self.training:
            return self.student(batch)
        pyramid = self.teacher.build_pyramid(batch)
        with torch.no_grad():
            teacher = self.teacher.network(batch, pyramid)
        student = self.student.network(batch, pyramid)
        if student.seg_loss is None or student.seg_terms is None:
            raise ConfigError("distillation needs labels: Collect the key 'segment' in the training transforms")
        loss = student.seg_loss
        terms = dict(student.seg_terms)
        for name, module in zip(self._loss_names, self.losses, strict=True):
            raw = module(student, teacher, batch)
            weighted = module.loss_weight * raw
            loss = loss + weighted
            terms[name], terms[f"{name}/raw"] = weighted, raw
        return {"loss": loss, "losses": {name: term.detach() for name, term in terms.items()}}


def _check_pair(teacher: Segmentor, student: Segmentor) -> None:
    for what in ("num_classes",):
        ours, theirs = getattr(student, what), getattr(teacher, what)
        if ours != theirs:
            raise ConfigError(f"teacher and student must agree in {what}: the teacher has {theirs}, the student {ours}")
    ours, theirs = student.backbone.in_channels, teacher.backbone.in_channels
    if ours != theirs:
        raise ConfigError(f"teacher and student read the same features: in_channels are {theirs} and {ours}")
    if student.criteria is None:
        raise ConfigError("the student needs criteria=[...]: distillation adds to its segmentation loss")


def _unique_names(names: list[str]) -> list[str]:
    """Number the names that occur more than once: A, B, A -> A, B, A_2."""
    return [n if names[:i].count(n) == 0 else f"{n}_{names[:i].count(n) + 1}" for i, n in enumerate(names)]
