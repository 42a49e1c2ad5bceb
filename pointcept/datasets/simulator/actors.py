"""Everything that moves: vehicles on the lanes, riders at the kerb, walkers on the sidewalks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import vehicles
from .people import person
from .placement import Builder
from .plan import Plan
from .shapes import Mesh
from .surfaces import Kind

_TRAFFIC: tuple[tuple[Callable[[np.random.Generator], Mesh], float], ...] = (
    (vehicles.car, 0.70),
    (vehicles.truck, 0.09),
    (vehicles.bus, 0.05),
    (lambda rng: vehicles.motorcycle(rng, rider=True), 0.08),
    (lambda rng: vehicles.bicycle(rng, rider=True), 0.08),
)
_SLOW = (Kind.BICYCLIST,)


@dataclass(frozen=True)
class Actor:
    """A thing that moves at a steady speed in street coordinates.

    Attributes:
        mesh: its shape; of walkers, one shape per step phase.
        start: (s, t) at time 0 [m].
        velocity: (ds/dt, dt/dt) [m/s].
        instance: instance number.
        tint: factor on its reflectance.
        stride: length of a step cycle [m] that runs through ``mesh``.
    """

    mesh: tuple[Mesh, ...]
    start: tuple[float, float]
    velocity: tuple[float, float]
    instance: int
    tint: float
    stride: float = 1.4

    def position(self, time: float) -> tuple[float, float]:
        """Street coordinates (s, t) at ``time`` [s]."""
        return self.start[0] + self.velocity[0] * time, self.start[1] + self.velocity[1] * time

    def at(self, plan: Plan, time: float) -> Mesh | None:
        """Its mesh in the world at ``time`` [s]; None once it has left the street."""
        s, t = self.position(time)
        if not 0 <= s <= plan.alignment.length:
            return None
        xy = plan.alignment.to_plane(s, t)
        z = float(plan.height(np.array(s), np.array(t)))
        yaw = float(plan.alignment.yaw(s)) + float(np.arctan2(self.velocity[1], self.velocity[0]))
        walked = np.hypot(*self.velocity) * time / self.stride
        return self.mesh[int(walked * len(self.mesh)) % len(self.mesh)].placed((xy[0], xy[1], z), yaw)


@dataclass(frozen=True)
class Ego:
    """How the sensor vehicle drives: along its lane at a steady speed.

    Attributes:
        start: station at time 0 [m].
        lane: its offset t from the centre line [m].
        speed: [m/s].
    """

    start: float
    lane: float
    speed: float


def _walker(builder: Builder, ego: Ego, horizon: float) -> Actor:
    plan, rng = builder.plan, builder.rng
    side = int(rng.choice([-1, 1]))
    s = float(np.clip(ego.start + rng.uniform(-25, 45 + ego.speed * horizon), 1, plan.alignment.length - 1))
    t = side * (plan.lot_edge(s, side) - rng.uniform(0.3, max(plan.strips_width(side) - 0.3, 0.4)))
    speed = rng.uniform(0.9, 1.7) * rng.choice([-1, 1])
    velocity = (float(speed), 0.0) if rng.uniform() < 0.85 else (0.1, -side * 1.2)
    seed = int(rng.integers(2**31))
    steps = tuple(person(np.random.default_rng(seed), "walking", p) for p in np.arange(6) * np.pi / 3)
    return Actor(steps, (s, t), velocity, builder.new_instance(), float(np.exp(rng.normal(0, 0.2))))


def _vehicle(builder: Builder, ego: Ego, lane_sign: int, s: float, speed: float) -> Actor:
    plan, rng = builder.plan, builder.rng
    make = _TRAFFIC[int(rng.choice(len(_TRAFFIC), p=[share for _, share in _TRAFFIC]))][0]
    if plan.style_name == "highway":
        make = vehicles.car if rng.uniform() < 0.75 else vehicles.truck
    mesh = make(rng)
    t = lane_sign * abs(ego.lane)
    if Kind(int(mesh.kind[0])) in _SLOW:
        t, speed = lane_sign * (plan.half - 0.7), float(rng.uniform(3.0, 6.5))
    velocity = (-lane_sign * speed, 0.0)
    return Actor((mesh,), (s, t), velocity, builder.new_instance(), float(np.exp(rng.normal(0, 0.25))))


def draw_actors(builder: Builder, ego: Ego, horizon: float) -> list[Actor]:
    """Draw the moving actors around the ego vehicle for ``horizon`` seconds."""
    plan, rng = builder.plan, builder.rng
    actors = []
    busy = 1.6 if plan.style_name == "highway" else plan.style.cars
    ahead = ego.start + rng.uniform(12, 50)
    for _ in range(rng.poisson(0.8 * busy)):
        actors.append(_vehicle(builder, ego, -1, ahead, ego.speed * rng.uniform(0.95, 1.1)))
        ahead += rng.uniform(14, 40)
    behind = ego.start - rng.uniform(10, 40)
    for _ in range(rng.poisson(0.5 * busy)):
        actors.append(_vehicle(builder, ego, -1, behind, ego.speed * rng.uniform(0.9, 1.0)))
        behind -= rng.uniform(14, 40)
    oncoming = ego.start - 40 + rng.uniform(0, 40)
    while oncoming < ego.start + 80 + 2 * ego.speed * horizon and oncoming < plan.alignment.length:
        if rng.uniform() < 0.45 * busy:
            actors.append(_vehicle(builder, ego, 1, oncoming, ego.speed * rng.uniform(0.8, 1.2)))
        oncoming += rng.uniform(14, 50)
    for _ in range(rng.poisson(2.2 * plan.style.people)):
        actors.append(_walker(builder, ego, horizon))
    return actors
