"""Fills a planned street: lots along it and along its side streets, street furniture, parked vehicles."""

from __future__ import annotations

import numpy as np

from . import buildings, furniture, plants, vehicles
from .ground import Raster, paint_streets
from .lots import LOTS, Lot
from .people import person
from .placement import Builder
from .plan import Plan
from .surfaces import Kind


def _fill_lots(builder: Builder, raster: Raster) -> None:
    """Cut both sides of the street into lots between the side streets and fill each."""
    plan, rng = builder.plan, builder.rng
    names = list(plan.style.lots)
    weights = np.array([plan.style.lots[n] for n in names])
    for side in (-1, 1):
        margin = plan.strips_width(side) + 0.5
        blocked = sorted(
            (j.s - j.half - margin, j.s + j.half + margin) for j in plan.junctions if (j.left if side > 0 else j.right)
        )
        s = 0.0
        for start, end in [*blocked, (plan.alignment.length, plan.alignment.length)]:
            while start - s > 9.0:
                width = min(rng.uniform(13, 24), start - s)
                if start - s - width < 9.0:
                    width = start - s
                LOTS[str(rng.choice(names, p=weights / weights.sum()))](Lot(builder, raster, s, s + width, side))
                s += width
            s = max(s, end)


def _line_side_streets(builder: Builder, raster: Raster) -> None:
    """Boundaries, parked cars and trees along the side streets, and something that closes their view."""
    plan, rng = builder.plan, builder.rng
    for j in plan.junctions:
        for side in [k for k, there in ((1, j.left), (-1, j.right)) if there]:
            for edge in (-1, 1):
                walk = plan.strips_width(side)
                s = j.s + edge * (j.half + walk + 0.3)
                lot = Lot(builder, raster, min(s, s + edge * 4), max(s, s + edge * 4), side)
                style = lot.border_style()
                if style != "none" and plan.style_name not in ("country", "highway"):
                    lot.boundary((s, j.radius), (s, rng.uniform(20, 50)), style)
                for beyond in np.arange(j.radius + 3, 45, 6.5):
                    if rng.uniform() < 0.3 * plan.style.cars and rng.uniform() < 0.5:
                        lot.put(vehicles.car(rng), j.s + edge * (j.half - 1.0), beyond)
                    if rng.uniform() < 0.15 * plan.style.trees:
                        lot.put(plants.tree(rng, rng.uniform(4, 10)), s + edge * rng.uniform(0.5, 3), beyond)
            for _ in range(6):
                builder.add(
                    plants.tree(rng, rng.uniform(6, 12), 0.3), j.s + rng.normal(0, 6), side * rng.uniform(56, 68)
                )


def _backdrop(builder: Builder) -> None:
    """Trees, woods and houses behind the lots."""
    plan, rng = builder.plan, builder.rng
    count = plan.alignment.length * 0.38
    for side in (-1, 1):
        for _ in range(rng.poisson(count * plan.style.trees)):
            s, t = rng.uniform(0, plan.alignment.length), side * rng.uniform(42, 70)
            if not plan.in_junction(s, -3.0, side):
                builder.add(plants.tree(rng, rng.uniform(6, 14), 0.3), s, t, rng.uniform(0, 6.3))
        for s in np.arange(3, plan.alignment.length, 5.0):
            if rng.uniform() < 0.8 * plan.style.trees and not plan.in_junction(float(s), -2.0, side):
                builder.add(plants.bush(rng, rng.uniform(3, 6), rng.uniform(2, 5)), s, side * rng.uniform(26, 48))
        if plan.style_name in ("residential", "town", "suburb"):
            for s in np.arange(8, plan.alignment.length, 26):
                if rng.uniform() < 0.6 and not plan.in_junction(float(s), 4.0, side):
                    make = buildings.block if plan.style_name == "town" else buildings.house
                    builder.add(
                        make(rng, 10, 14, rng.uniform(5, 12)),
                        s,
                        side * rng.uniform(48, 62),
                        rng.choice([0.0, np.pi / 2]),
                    )


def _kerbside(builder: Builder) -> None:
    """Lamps, signs, street trees, bins and bollards in the strip between kerb and lots."""
    plan, rng = builder.plan, builder.rng
    built_up = plan.style_name in ("residential", "town", "suburb")
    for side in (-1, 1):
        facing = 0.0 if side < 0 else np.pi
        inward = -side * np.pi / 2
        strip = plan.strips_width(side)
        has_lamps, tree_pitch = rng.uniform() < 0.7 and built_up, rng.uniform(7, 14)
        has_trees = rng.uniform() < 0.35 * plan.style.trees
        lamps_at = 0.4 if rng.uniform() < 0.4 else strip - 0.3
        wooden = rng.uniform() < 0.15 and not has_lamps

        def at(beyond: float, s: float, side: int = side) -> float:
            return side * (plan.lot_edge(s, side) - plan.strips_width(side) + beyond)

        for s in np.arange(rng.uniform(2, 10), plan.alignment.length, 1.0):
            if plan.in_junction(float(s), 0.5, side):
                continue
            spot = rng.uniform()
            if has_lamps and s % 28 < 1:
                builder.add(furniture.lamp_post(rng), s, at(lamps_at, s), inward)
            elif wooden and s % 35 < 1:
                builder.add(furniture.utility_pole(rng), s, at(strip - 0.3, s), 0.0)
            elif has_trees and s % tree_pitch < 1:
                builder.add(
                    plants.tree(rng, rng.uniform(4.5, 9), clearance=2.0),
                    s,
                    at(min(0.8, 0.5 * strip), s),
                    rng.uniform(0, 6.3),
                )
            elif spot < 0.020:
                builder.add(
                    furniture.sign(rng), s, at(rng.uniform(0.3, max(strip - 0.3, 0.5)), s), facing + rng.normal(0, 0.15)
                )
            elif spot < 0.035 and built_up:
                builder.add(furniture.bin_or_box(rng), s, at(strip - 0.4, s), inward)
            elif spot < 0.039:
                for k in range(int(rng.integers(1, 5))):
                    builder.add(furniture.bollard(rng), s + 1.4 * k, at(0.3, s), 0.0)
            elif spot < 0.044 and built_up:
                builder.add(vehicles.bicycle(rng), s, at(0.7, s), rng.normal(0, 0.2))
            elif spot < 0.047 and built_up:
                builder.add(vehicles.motorcycle(rng), s, at(0.6, s), rng.normal(0, 0.2))
            elif spot < 0.049 and strip > 2.0 and built_up:
                builder.add(furniture.shelter(rng), s, at(strip - 0.8, s), inward)
        if rng.uniform() < plan.style.rail:
            _guard_rail(builder, side)


def _guard_rail(builder: Builder, side: int) -> None:
    plan, rng = builder.plan, builder.rng
    start = 0.0 if plan.style_name == "highway" else rng.uniform(0, 0.4) * plan.alignment.length
    t = side * (plan.half + 0.7)
    stops = [j.s for j in plan.junctions if (j.left if side > 0 else j.right)]
    for s in np.arange(start, plan.alignment.length - 8, 8.0):
        if all(abs(s + 4 - stop) > 14 for stop in stops):
            builder.line(lambda length: buildings.fence(rng, length, "guard_rail"), (s, t), (s + 8, t))


def _junction_furniture(builder: Builder) -> None:
    """Signals or signs at the corners of junctions, a direction board here and there."""
    plan, rng = builder.plan, builder.rng
    for j in plan.junctions:
        signals = rng.uniform() < (0.6 if plan.style_name == "town" else 0.12)
        for side in (-1, 1):
            s = j.s + side * (j.reach() + 0.8)
            t = side * (plan.half + 0.9)
            if signals:
                builder.add(furniture.traffic_light(rng), s, t, 0.0 if side < 0 else np.pi)
            elif rng.uniform() < 0.6:
                builder.add(furniture.sign(rng), s, t, 0.0 if side < 0 else np.pi)
    pitch = 70.0 if plan.style_name in ("highway", "country") else 200.0
    for s in np.arange(rng.uniform(0, pitch), plan.alignment.length, pitch):
        builder.add(furniture.sign_gantry(rng), s, -(plan.half + 2.0), 0.0)


def _parked(builder: Builder) -> None:
    """Vehicles in the parking bays and at the kerb."""
    plan, rng = builder.plan, builder.rng
    for start, end, side in plan.bays:
        for s in np.arange(start + 3.0, end - 2.4, 5.9):
            if rng.uniform() < 0.6:
                t = side * (plan.half + 1.05 + rng.normal(0, 0.1))
                make = vehicles.car if rng.uniform() < 0.95 else vehicles.truck
                builder.add(make(rng), s + rng.normal(0, 0.2), t, rng.normal(0, 0.03) + (0 if side < 0 else np.pi))
    if plan.half > 3.4 and plan.style_name in ("residential", "town"):
        for side in (-1, 1):
            for s in np.arange(rng.uniform(0, 12), plan.alignment.length, 6.2):
                free = not plan.in_junction(s, 3.0, side) and float(plan.bay_at(np.array(s), np.array(side))) == 0
                if free and side > 0 and rng.uniform() < 0.12 * plan.style.cars:
                    builder.add(vehicles.car(rng), s, side * (plan.half - 1.0), np.pi + rng.normal(0, 0.03))


def _work_zone(builder: Builder) -> None:
    """Cones, barriers and perhaps a machine at one place beside the lane."""
    plan, rng = builder.plan, builder.rng
    s0, side = rng.uniform(0.3, 0.7) * plan.alignment.length, int(rng.choice([-1, 1]))
    if plan.in_junction(s0, 14.0):
        return
    t = side * (plan.half + 0.4)
    for k in range(int(rng.integers(4, 9))):
        builder.add(furniture.cone(rng), s0 + 2.2 * k, t - side * 0.5, rng.uniform(0, 6.3))
    for k in range(int(rng.integers(2, 6))):
        builder.add(furniture.barrier(rng), s0 + 2.1 * k, t + side * 0.5, 0.0)
    if rng.uniform() < 0.5:
        builder.add(vehicles.excavator(rng), s0 + 8, t + side * 3.0, rng.uniform(0, 6.3))
    if rng.uniform() < 0.5:
        builder.add(vehicles.trailer(rng), s0 + 16, t + side * 2.0, 0.0)


def _bystanders(builder: Builder) -> None:
    plan, rng = builder.plan, builder.rng
    for _ in range(rng.poisson(0.012 * plan.alignment.length * plan.style.people)):
        side = int(rng.choice([-1, 1]))
        s = rng.uniform(0, plan.alignment.length)
        t = side * (plan.lot_edge(s, side) - rng.uniform(0.3, max(plan.strips_width(side) - 0.3, 0.4)))
        builder.add(person(rng, "standing"), s, t, rng.uniform(0, 6.3))


def furnish(plan: Plan, rng: np.random.Generator) -> tuple[Builder, Raster]:
    """Build all that does not move on a planned street and paint its ground."""
    builder, raster = Builder(plan, rng), Raster.over(plan, Kind.TERRAIN)
    _fill_lots(builder, raster)
    _backdrop(builder)
    _line_side_streets(builder, raster)
    paint_streets(raster, plan, rng)
    _kerbside(builder)
    _junction_furniture(builder)
    _parked(builder)
    if rng.uniform() < 0.25 and plan.style_name != "highway":
        _work_zone(builder)
    _bystanders(builder)
    return builder, raster
