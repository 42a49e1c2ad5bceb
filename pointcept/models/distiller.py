"""Distillation: a frozen teacher, a live student, and the losses between them.

After *Topology-Guided Knowledge Distillation for Efficient Point Cloud Processing* (arXiv 2505.08101):
L = L_seg + Σ weight · loss(student, teacher), in full L_seg + γ L_KLD + λ L_grad + β L_topo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from pointcept.models.builder import MODELS
from pointcept.models.fixed_batch import FixedBatch
from pointcept.models.gradient_norms import gradient_norms
from pointcept.models.losses import DISTILL_LOSSES
from pointcept.models.losses.distill.base import DistillationLoss, wide
from pointcept.models.losses.distill.schedule import WeightSchedule
from pointcept.models.output import Latent, Output
from pointcept.models.segmentor import Segmentor
from pointcept.models.teacher_cache import TeacherCache, digest
from pointcept.structures import GridPyramid
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.checks import check_integer, refused
from pointcept.utils.device import Stopwatch
from pointcept.utils.errors import ConfigError, inside


@MODELS.register_module()
class Distiller(nn.Module):
    """Train a student with its own segmentation criteria and losses that compare it with a teacher.

    The teacher stays in evaluation mode, gets no gradient and is no part of ``state_dict()``,
    ``parameters()`` or ``modules()``: checkpoints, optimizers and data-parallel wrappers see the
    student and the losses' own weights only. It has a graph only above the deepest features, and only if
    a loss asks for their gradient; its criteria are then its own or, if it has none, the student's.

    Args:
        teacher: config of the teacher's segmentor.
        student: config of the student's segmentor.
        losses: configs out of the registry of distillation losses. Each is called with
            ``(student: Output, teacher: Output, batch)`` and returns an unweighted scalar; its
            ``loss_weight`` is applied here.
        teacher_weight: the teacher's checkpoint; ``"random"`` leaves it untrained, for tests. Several, such as those of
            different seeds, make a teacher whose probabilities are the mean of theirs, for losses on scores; features
            and their gradients are those of the first. Each costs a forward pass and memory for its weights.
        teacher_cache: folder that keeps the teacher's outputs per scan, for training without random
            augmentation; see :class:`TeacherCache`.
        unlabelled: take batches without the key ``segment``, too. Data sets fill it in for scans without labels
            (``unlabelled=True``), so that its absence is an error otherwise.
        gradients_every: optimizer steps from one look at the gradients of the terms to the next, see
            :func:`gradient_norms`; None for no looks. Such a step runs without CUDA graphs and has a backward pass of
            the decoder for each term.

    Raises:
        ConfigError: teacher and student have different numbers of classes or input channels, the
            student has no criteria, or no loss is given.
        CheckpointError: the checkpoint is missing, damaged or does not fit the teacher.
    """

    built_from: ClassVar = {"teacher": "models", "student": "models", "losses": "distillation losses"}

    def __init__(
        self,
        teacher: Mapping[str, Any],
        student: Mapping[str, Any],
        losses: Sequence[Mapping[str, Any]],
        teacher_weight: str | Sequence[str],
        teacher_cache: str | None = None,
        unlabelled: bool = False,
        gradients_every: int | None = None,
    ) -> None:
        super().__init__()
        if not losses:
            raise ConfigError("a Distiller needs at least one loss, such as dict(type='KLDLoss')")
        if gradients_every is not None:
            check_integer("gradients_every", gradients_every, 1)
        student_model: Segmentor = MODELS.build(student, "student")
        modules: list[DistillationLoss] = [DISTILL_LOSSES.build(cfg, f"losses.{i}") for i, cfg in enumerate(losses)]
        guided = any(module.needs_gradients for module in modules)
        criteria = (teacher.get("criteria") or student.get("criteria")) if guided else None
        weights = _weight_files(teacher_weight)
        built = [{**teacher, "criteria": None if i else criteria} for i in range(len(weights))]
        teachers: list[Segmentor] = [MODELS.build(cfg, "teacher") for cfg in built]
        teacher_model = teachers[0]
        _check_pair(teacher_model, student_model)
        channels = student_model.backbone.stage_channels, teacher_model.backbone.stage_channels
        for i, module in enumerate(modules):
            with inside(f"losses.{i}"):
                module.connect(*channels)
        for model, weight in zip(teachers, weights, strict=True):
            if weight != "random":
                load_weights(model, weight)
            model.eval().requires_grad_(False)
        self.student = student_model
        self.losses = nn.ModuleList(modules)
        self._loss_names = _unique_names([cfg["type"] for cfg in losses])
        self._watches = [Stopwatch() for _ in modules]
        self._unlabelled, self._gradients_every = unlabelled, gradients_every
        self._done, self._steps = 0, 1
        self._guided = sorted({m.stage for m in modules if m.needs_gradients and m.stage is not None})
        self._teachers = tuple(teachers)  # inside a tuple, so that nn.Module does not register them
        depth = len(teacher_model.backbone.stage_channels)
        self._teacher_guided = [stage % depth for stage in self._guided]
        student_depth = len(student_model.backbone.stage_channels)
        self._student_guided = [stage % student_depth for stage in self._guided]
        self._stages = sorted({student_depth - 1, *(m.stage % student_depth for m in modules if m.stage is not None)})
        read = [m.stage % depth for m in modules if m.stage is not None]
        self._cache = TeacherCache(teacher_cache, teachers, read, self._teacher_guided) if teacher_cache else None

    @staticmethod
    def inference_config(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
        """The config of the network that is deployed: the student."""
        return cfg["student"]

    @property
    def teacher(self) -> Segmentor:
        """The frozen network, of several the one whose features count."""
        return self._teachers[0]

    @property
    def deployable(self) -> nn.Module:
        """The network whose weights a checkpoint publishes: the student."""
        return self.student

    def fingerprint(self) -> str:
        """Digest of the weights of all teachers."""
        return digest([value for teacher in self._teachers for value in teacher.state_dict().values()])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Distiller:
        """Move the teacher along with ``.to(...)``."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self._teachers:
            teacher._apply(fn)
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """A batch -> ``loss`` and ``losses`` in training; the student's predictions in evaluation.

        Points without a label count in distillation losses only; if all are, the criteria give 0 without a gradient.

        ``losses`` holds each criterion, each distillation loss as it enters the sum, and of the latter
        ``<name>/raw`` (without its weight), ``<name>/weight`` if that changes, ``<name>/ms`` (see :class:`Stopwatch`)
        and what else it reports, such as ``<name>/matched`` (common voxels / voxels of either network).

        Every ``gradients_every`` steps it also has the rows of :func:`gradient_norms`: for ``seg``, the sum of all
        criteria, and each distillation loss with its weight; at the student's ``logits`` and at the features of
        ``stage<n>``, the deepest one and those that losses read.
        """
        if not self.training:
            return self.student(batch)
        if "segment" not in batch:
            batch = self._with_ignored_labels(batch)
        look = self._gradients_every is not None and self._done % self._gradients_every == 0
        student, teacher = self.outputs(batch, graphs=not look)
        assert student.seg_loss is not None
        assert student.seg_terms is not None
        self._each(lambda module: module.submit(student, teacher))
        terms = dict(student.seg_terms)
        loss = student.seg_loss
        compared = self._compare(student, teacher, batch)
        for name, (raw, weighted, facts) in compared.items():
            loss = loss + weighted
            terms[name], terms[f"{name}/raw"] = weighted, raw
            for fact, value in facts.items():
                # filled on the device: a copy from the host would make it wait
                filled = value if isinstance(value, Tensor) else torch.full_like(raw, value, requires_grad=False)
                terms[f"{name}/{fact}"] = filled
        if look:
            places = {"logits": student.logits, **{f"stage{i}": student.stages[i].feat for i in self._stages}}
            weighed = {name: weighted for name, (_, weighted, _) in compared.items()}
            terms |= gradient_norms({"seg": student.seg_loss, **weighed}, places)
        return {"loss": loss, "losses": {name: term.detach() for name, term in terms.items()}}

    def set_progress(self, done: int, steps: int) -> None:
        """Learn how far the training is: weights of losses may depend on it. Until then it begins.

        Args:
            done: optimizer steps that are done.
            steps: those of the whole training.
        """
        self._done, self._steps = done, steps

    def use_graphs(self, where: torch.device) -> str | None:
        """Run both networks as CUDA graphs in training; returns None, or the reason why it cannot be done."""
        if self._cache is not None:
            return "teacher_cache keeps batches of varying shapes"
        for name, network in (*(("teacher", teacher) for teacher in self._teachers), ("student", self.student)):
            reason = network.why_not_graphed(where)
            if reason is not None:
                return f"the {name}: {reason}"
        ours, theirs = self.student.criteria, self.teacher.criteria
        assert ours is not None
        if theirs is not None and theirs.ignore_index != ours.ignore_index:
            return "the criteria of teacher and student have different ignore_index"
        layouts = self.teacher.layouts(where, ours.ignore_index)
        for teacher in self._teachers:
            teacher.use_graphs(where, layouts)
        self.student.use_graphs(where, layouts if self.student.backbone.serves(layouts) else None)
        return None

    def outputs(self, batch: Mapping[str, Tensor], graphs: bool = True) -> tuple[Output, Output]:
        """What student and teacher make of a batch; losses have begun with what the teacher alone decides.

        Args:
            batch: the collated samples.
            graphs: use CUDA graphs, where :meth:`use_graphs` has succeeded. Autograd then sees no more of a network
                than its outputs.
        """
        pyramid = self.teacher.lay_out(batch) if graphs else self.teacher.build_pyramid(batch)
        if self._cache is None:
            teacher = self._run_teacher(batch, pyramid)
        else:
            teacher = self._cache.fetch(batch, lambda: self._run_teacher(batch, pyramid))
        backbone = self.student.backbone
        if not backbone.serves(pyramid):
            pyramid = self.student.lay_out(batch) if graphs else self.student.build_pyramid(batch)
        self._each(lambda module: module.begin(teacher, backbone.stage_grids(pyramid)))
        return self.student.network(batch, pyramid, guided=self._student_guided), teacher

    def distillation_loss(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the distillation losses alone, for given outputs that no loss has seen."""
        self._each(lambda module: module.begin(teacher, [stage.grid for stage in student.stages]))
        self._each(lambda module: module.submit(student, teacher))
        return torch.stack([weighted for _, weighted, _ in self._compare(student, teacher, batch).values()]).sum()

    def student_leaves(self, student: Output) -> Output:
        """The same output, cut off from the network: logits and features are leaves that ask for gradients."""
        student.compute_gradients(self._guided)
        stages = [Latent(latent.feat.detach().requires_grad_(), latent.grid) for latent in student.stages]
        return replace(student.detached(), logits=student.logits.detach().requires_grad_(), stages=stages, shared={})

    def _with_ignored_labels(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        assert self.student.criteria is not None
        ignored = self.student.criteria.ignore_index
        if not self._unlabelled or ignored is None:
            raise ConfigError(
                "distillation needs labels: Collect the key 'segment' in the training transforms (data sets of scans "
                "without labels take unlabelled=True), or give the Distiller unlabelled=True and criteria with one "
                "ignore_index"
            )
        offset, rows = batch["offset"], len(batch["feat"])
        return {**batch, "segment": torch.full((rows,), ignored, dtype=torch.int64, device=offset.device)}

    def _run_teacher(self, batch: Mapping[str, Tensor], pyramid: GridPyramid | FixedBatch) -> Output:
        """The teacher's output without a graph, with the gradients that losses ask for."""
        output = self._run_first(batch, pyramid)
        if len(self._teachers) > 1:
            with torch.no_grad():
                scores = [output.logits, *(other.network(batch, pyramid).logits for other in self._teachers[1:])]
                output = replace(output, logits=mean_scores(scores))
        return output

    def _run_first(self, batch: Mapping[str, Tensor], pyramid: GridPyramid | FixedBatch) -> Output:
        if not self._guided:
            with torch.no_grad():
                return self.teacher.network(batch, pyramid)
        # No weight asks for a gradient, so the graph begins at the watched features.
        watch = min(self._teacher_guided)
        output: Output = self.teacher.network(batch, pyramid, watch, self._teacher_guided)
        output.compute_gradients(self._teacher_guided, retain_graph=False)
        return output.detached()

    def _entries(self) -> list[tuple[str, DistillationLoss, Stopwatch]]:
        modules = cast("Iterable[DistillationLoss]", self.losses)
        return list(zip(self._loss_names, modules, self._watches, strict=True))

    def _each(self, action: Callable[[DistillationLoss], None]) -> None:
        for _, module, watch in self._entries():
            with watch.section():
                action(module)

    def _compare(
        self, student: Output, teacher: Output, batch: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor, dict[str, float | Tensor]]]:
        """Name -> loss, weighted loss and facts for the log, in the order of the config."""
        found = {}
        for name, module, watch in sorted(self._entries(), key=lambda entry: entry[1].waits):
            with watch.section():
                if module.needs_gradients:
                    student.compute_gradients(self._guided)  # of all stages at once, whoever asks first
                raw = module(student, teacher, batch)
            weight = module.weight(self._done / self._steps)
            facts: dict[str, float | Tensor] = {**module.report, "ms": watch.lap()}
            if isinstance(module.loss_weight, WeightSchedule):
                facts["weight"] = weight
            found[name] = (raw, weight * raw, facts)
        return {name: found[name] for name in self._loss_names}


def mean_scores(scores: Sequence[Tensor]) -> Tensor:
    """Scores (N, K) of several networks -> logarithms of the mean of their probabilities, in at least float32."""
    logs = torch.stack([wide(x).log_softmax(1) for x in scores])
    return logs.logsumexp(0) - math.log(len(scores))


def _weight_files(given: str | Sequence[str]) -> list[str]:
    weights = [given] if isinstance(given, str) else list(given)
    if not weights or not all(isinstance(weight, str) and weight for weight in weights):
        raise refused("teacher_weight", given, "a file, or a list of one or more files")
    return weights


def _check_pair(teacher: Segmentor, student: Segmentor) -> None:
    ours, theirs = student.num_classes, teacher.num_classes
    if ours != theirs:
        raise ConfigError(
            f"teacher and student must agree in num_classes: the teacher has {theirs}, the student {ours}"
        )
    ours, theirs = student.backbone.in_channels, teacher.backbone.in_channels
    if ours != theirs:
        raise ConfigError(f"teacher and student read the same features: in_channels are {theirs} and {ours}")
    if student.criteria is None:
        raise ConfigError("the student needs criteria=[...]: distillation adds to its segmentation loss")


def _unique_names(names: list[str]) -> list[str]:
    """Number the names that occur more than once: A, B, A -> A, B, A_2."""
    return [n if names[:i].count(n) == 0 else f"{n}_{names[:i].count(n) + 1}" for i, n in enumerate(names)]
