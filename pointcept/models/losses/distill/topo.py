"""Topological alignment: the shapes of both feature clouds, as persistence diagrams, shall agree."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pointcept.models.losses.builder import DISTILL_LOSSES
from pointcept.models.losses.distill.base import OwnGenerator, StageLoss, full_precision, mean_over_clouds, wide
from pointcept.models.losses.distill.schedule import Weight
from pointcept.models.output import Output
from pointcept.structures import VoxelGrid
from pointcept.topology import (
    Diagram,
    PendingDiagram,
    critical_edges,
    diagram_distance,
    normalise,
    published_diagram,
    published_distance,
    submit_persistence,
)
from pointcept.topology.distances import KINDS
from pointcept.topology.rips import ENGINES
from pointcept.topology.subsample import METHODS
from pointcept.utils.checks import check_choice, check_integer, check_integers
from pointcept.utils.errors import ConfigError

NORMALISATIONS = ("rms", "none")
logger = logging.getLogger(__name__)

_Pending = list[PendingDiagram | None]


@DISTILL_LOSSES.register_module()
class TopoLoss(OwnGenerator, StageLoss):
    """Distance between the Vietoris-Rips persistence diagrams of both latents: L_topo of arXiv 2505.08101.

    Per scan, the sum over the homology dimensions of the distance of teacher's and student's diagram of the
    same voxels; then the mean over the scans with at least two common voxels. H0 is exact on all voxels, H1 and
    H2 on a subsample, the same rows for both networks. The teacher's diagram starts in a thread before the
    student runs. The global random state is not used.

    Args:
        loss_weight: β.
        dims: homology dimensions, out of 0, 1, 2; the paper's are 0 and 1.
        distance: ``"chamfer"`` (the paper's), ``"wasserstein"`` (sees how many points there are; above
            dimension 0 by assignment on the CPU) or ``"sliced_wasserstein"``.
        normalisation: ``"rms"`` divides each cloud by its root mean square distance, because the two networks
            differ in dimension and scale; ``"none"`` compares absolute lengths.
        max_points: size of the subsample above dimension 0, None for all voxels; the time grows steeply.
        subsample: ``"farthest"`` points of the teacher's cloud, or ``"random"`` rows.
        engine: ``"redzed"`` or ``"gudhi"``, for the dimensions above 0.
        stage: encoder stage, counted from the finest; -1 is the deepest, the paper's.
        seed: of the random subsample.
        published: compute what the code published with the paper does instead, see
            :func:`pointcept.topology.published_diagram` and ``published_distance``: short edges, squared twice, and
            0 with a gradient of 0 where a diagram is empty. Only ``loss_weight``, ``stage`` and ``seed`` then apply.

    Raises:
        ConfigError: an unknown option, an engine that is not installed, or ``published`` with another option.
    """

    waits = True

    def __init__(
        self,
        loss_weight: Weight = 0.1,
        dims: Sequence[int] = (0, 1),
        distance: str = "chamfer",
        normalisation: str = "rms",
        max_points: int | None = 256,
        subsample: str = "farthest",
        engine: str = "redzed",
        stage: int = -1,
        seed: int = 0,
        published: bool = False,
    ) -> None:
        super().__init__(loss_weight, stage)
        for key, value, allowed in (
            ("distance", distance, KINDS),
            ("normalisation", normalisation, NORMALISATIONS),
            ("subsample", subsample, METHODS),
            ("engine", engine, tuple(ENGINES)),
        ):
            check_choice(key, value, allowed)
        self.dims = tuple(sorted(set(check_integers("dims", dims, low=0, high=2))))
        if max_points is not None:
            check_integer("max_points", max_points, 4)  # four points make the smallest loop
        given = (self.dims, distance, normalisation, max_points, subsample, engine)
        if published and given != ((0, 1), "chamfer", "rms", 256, "farthest", "redzed"):
            raise ConfigError("True fixes dims, distance, normalisation and subsample: leave them out", "published")
        if self.dims[-1] > 0 and not published:
            _check_engine(engine)
        self.distance, self.normalisation, self.published = distance, normalisation, published
        self.max_points, self.subsample, self.engine = max_points, subsample, engine
        self._warned = False
        self.seed(seed)

    def begin(self, teacher: Output, student_grids: Sequence[VoxelGrid]) -> None:
        common = self.match(student_grids[self.stage], teacher)
        if self.published:
            return
        rows = common.teacher(wide(teacher.stages[self.stage].feat.detach()))
        pending = [self._start(cloud, "teacher", None) for cloud in rows.split(common.counts)]
        teacher.shared[self] = pending

    def submit(self, student: Output, teacher: Output) -> None:
        latent = student.stages[self.stage]
        if self.published:
            return
        if self not in teacher.shared:
            self.begin(teacher, [s.grid for s in student.stages])
        common = self.match(latent.grid, teacher)
        clouds = common.student(wide(latent.feat)).split(common.counts)
        theirs: _Pending = teacher.shared[self]
        student.shared[self] = [self._start(c, "student", t) for c, t in zip(clouds, theirs, strict=True)]

    def forward(self, student: Output, teacher: Output, batch: Mapping[str, Tensor]) -> Tensor:
        feat = student.stages[self.stage].feat
        with full_precision(feat):
            if self.published:
                pairs = self._published_pairs(student, teacher)
                # without an edge to follow it is a constant, of which no backward pass could start
                terms = [published_distance(t.detach(), s) + 0.0 * wide(feat).sum() for t, s in pairs]
            else:
                pairs = self._pairs(student, teacher)
                distances = [diagram_distance(t.detach(), s, self.distance) for t, s in pairs]
                terms = [torch.stack(list(term.values())).sum() for term in distances]
        for dim in self.dims:
            points = [len(s[dim]) for _, s in pairs]
            self.report[f"points_h{dim}"] = sum(points) / max(len(points), 1)
        return mean_over_clouds(terms, feat)

    def _pairs(self, student: Output, teacher: Output) -> list[tuple[Diagram, Diagram]]:
        if self not in student.shared:
            self.submit(student, teacher)
        waiting = zip(teacher.shared.pop(self), student.shared.pop(self), strict=True)
        return [(t.result(), s.result()) for t, s in waiting if t is not None]

    def _start(self, cloud: Tensor, network: str, partner: PendingDiagram | None) -> PendingDiagram | None:
        """Submit one cloud; a student's uses the rows of its teacher's. None if there is nothing to compare."""
        if len(cloud) < 2:
            return None
        random = self.subsample == "random"
        try:
            return submit_persistence(
                normalise(cloud) if self.normalisation == "rms" else cloud,
                self.dims,
                # where the teacher used all rows, its index is None, and so is the student's
                max_points=self.max_points,
                subsample=self.subsample,
                generator=self.generator if random else None,
                index=None if partner is None else partner.index,
                engine=self.engine,
            )
        except ValueError:
            # Looking at the values makes the host wait, so it is done when something is known to be wrong.
            self.check_finite(cloud, network)
            raise

    def _published_pairs(self, student: Output, teacher: Output) -> list[tuple[Diagram, Diagram]]:
        ours, theirs, counts = self.matched_features(student, teacher)
        for cloud, network in ((theirs, "teacher"), (ours, "student")):
            self.check_finite(cloud, network)  # one NaN among the distances would empty the diagram silently
        clouds = zip(theirs.split(counts), ours.split(counts), strict=True)
        diagram = partial(published_diagram, generator=self.generator)
        pairs = [(diagram(t), diagram(s)) for t, s in clouds if len(t) > 1]
        sides = [(name, d) for pair in pairs for name, d in zip(("teacher", "student"), pair, strict=True)]
        empty = [name for name, side in sides if len(side[0]) + len(side[1]) == 0]
        self.report["empty"] = len(empty) / max(len(sides), 1)
        if empty and not self._warned:
            self._warned = True
            logger.warning(
                "TopoLoss: the published diagram of a %s's features is empty: no edge passes the published cap. "
                "L_topo is then 0 and has no gradient; the log shows the share of 'empty' ones from now on",
                empty[0],
            )
        return pairs


def _check_engine(engine: str) -> None:
    """Find out now, not in a thread of the first step, whether the engine can be imported."""
    try:
        critical_edges(np.zeros((3, 3), dtype=np.float32), engine=engine)
    except ImportError as error:
        raise ConfigError(str(error), "engine") from error
