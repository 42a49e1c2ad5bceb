"""Collects placed meshes into the static geometry of a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .plan import Plan
from .shapes import Mesh
from .surfaces import Kind

THINGS = frozenset(
    (Kind.CAR, Kind.TRUCK, Kind.BUS, Kind.CONSTRUCTION_VEHICLE, Kind.TRAILER, Kind.BICYCLE, Kind.MOTORCYCLE,
     Kind.BICYCLIST, Kind.MOTORCYCLIST, Kind.PEDESTRIAN)
)  # fmt: skip


@dataclass
class Builder:
    """Places meshes by street coordinates on the ground of a plan and gives instances their numbers."""

    plan: Plan
    rng: np.random.Generator
    meshes: list[Mesh] = field(default_factory=list)
    instances: list[int] = field(default_factory=list)
    tints: list[float] = field(default_factory=list)
    next_instance: int = 1

    def new_instance(self) -> int:
        """The next free instance number (1-65535; then it starts again)."""
        number = self.next_instance
        self.next_instance = number % 65535 + 1
        return number

    def pose(self, s: float, t: float) -> tuple[np.ndarray, float]:
        """World position (3,) [m] on the ground and street direction [rad] at (s, t)."""
        xy = self.plan.alignment.to_plane(s, t)
        z = self.plan.height(np.array(s), np.array(t))
        return np.array([xy[0], xy[1], float(z)]), float(self.plan.alignment.yaw(s))

    def add(self, mesh: Mesh, s: float, t: float, yaw: float = 0.0, tint: float | None = None) -> None:
        """Put ``mesh`` on the ground at (s, t), turned by ``yaw`` [rad] from the direction of the street."""
        position, along = self.pose(s, t)
        thing = len(mesh.kind) > 0 and Kind(int(mesh.kind[0])) in THINGS
        self.meshes.append(mesh.placed(position, along + yaw))
        self.instances.append(self.new_instance() if thing else 0)
        self.tints.append(float(np.exp(self.rng.normal(0, 0.18))) if tint is None else tint)

    def line(
        self,
        make: Callable[[float], Mesh],
        start: tuple[float, float],
        end: tuple[float, float],
        piece: float = 4.0,
    ) -> None:
        """Lay pieces of ``make(length)`` (a mesh along x from the origin) from one (s, t) to another."""
        a, b = np.array(start), np.array(end)
        count = max(int(np.ceil(np.linalg.norm(b - a) / piece)), 1)
        knots = a + (b - a) * np.linspace(0, 1, count + 1)[:, None]
        tint = float(np.exp(self.rng.normal(0, 0.18)))
        for p, q in pairwise(knots):
            first, _ = self.pose(*p)
            last, _ = self.pose(*q)
            delta = last - first
            span = float(np.hypot(delta[0], delta[1]))
            turned = make(span).placed(first, float(np.arctan2(delta[1], delta[0])))
            along = (turned.triangles[..., :2] - first[:2].astype(np.float32)) @ (delta[:2] / max(span, 1e-6) ** 2)
            turned.triangles[..., 2] += (along * delta[2]).astype(np.float32)
            self.meshes.append(turned)
            self.instances.append(0)
            self.tints.append(tint)
