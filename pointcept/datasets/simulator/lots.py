"""What stands beside the street: houses, gardens, town blocks, parks, woods, fields, car parks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import buildings, furniture, plants, vehicles
from .ground import Raster
from .placement import Builder
from .shapes import Mesh
from .surfaces import Kind


class Lot:
    """One lot: stations ``s0`` to ``s1`` on a ``side`` (+1 left), from ``edge`` outwards [m]."""

    def __init__(self, builder: Builder, raster: Raster, s0: float, s1: float, side: int) -> None:
        self.builder, self.raster, self.rng = builder, raster, builder.rng
        self.s0, self.s1, self.side = s0, s1, side
        plan = builder.plan
        self.edge = max(plan.lot_edge(s, side) for s in np.linspace(s0, s1, 5))
        self.density = plan.style.trees
        self.inward = -side * np.pi / 2

    def t(self, beyond: float) -> float:
        """Offset of the line ``beyond`` metres behind the front edge of the lot."""
        return self.side * (self.edge + beyond)

    def put(self, mesh: Mesh, s: float, beyond: float, yaw: float | None = None) -> None:
        """Place a mesh ``beyond`` metres behind the front edge; its x axis faces the street by default."""
        self.builder.add(mesh, s, self.t(beyond), self.inward if yaw is None else yaw)

    def ground(self, kind: Kind, near: float, far: float, s: tuple[float, float] | None = None) -> None:
        """Paint the lot between two distances behind its front edge."""
        self.raster.fill(s or (self.s0, self.s1), (self.t(near), self.t(far)), kind)

    def boundary(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """A hedge or fence between two (s, distance behind the edge)."""
        rng = self.rng
        high, wide = rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.2)
        make: Callable[[float], Mesh]
        if style == "hedge":
            make = lambda length: plants.hedge(rng, length, high, wide)  # noqa: E731
        else:
            make = lambda length: buildings.fence(rng, length, style)  # noqa: E731
        if style in ("pickets", "boards", "railing", "wall"):
            seed = int(rng.integers(2**31))
            make = lambda length: buildings.fence(np.random.default_rng(seed), length, style)  # noqa: E731
        self.builder.line(make, (start[0], self.t(start[1])), (end[0], self.t(end[1])), 3.0)
        if style != "hedge" and rng.uniform() < 0.4:  # what grows behind a fence, and through it
            behind = 0.15 + 0.5 * wide
            self.builder.line(
                lambda length: plants.hedge(rng, length, high * rng.uniform(0.6, 1.3), wide),
                (start[0], self.t(start[1] + behind)),
                (end[0], self.t(end[1] + behind)),
                3.0,
            )

    def border_style(self) -> str:
        """A random kind of boundary; ``none`` for none."""
        styles = ("hedge", "pickets", "wall", "wire", "boards", "railing", "none")
        return str(self.rng.choice(styles, p=(0.56, 0.06, 0.08, 0.03, 0.03, 0.03, 0.21)))

    def greenery(self, trees: float, bushes: float, near: float, far: float) -> None:
        """Scatter trees and bushes (expected numbers) over the lot."""
        rng = self.rng
        for _ in range(rng.poisson(trees * self.density)):
            plant = (
                plants.conifer(rng, rng.uniform(5, 13)) if rng.uniform() < 0.2 else plants.tree(rng, rng.uniform(5, 14))
            )
            self.put(plant, rng.uniform(self.s0, self.s1), rng.uniform(near, far), rng.uniform(0, 6.3))
        for _ in range(rng.poisson(bushes * self.density)):
            shrub = plants.bush(rng, rng.uniform(0.9, 3.2), rng.uniform(0.6, 2.6))
            self.put(shrub, rng.uniform(self.s0, self.s1), rng.uniform(near, far), rng.uniform(0, 6.3))


def house(lot: Lot) -> None:
    """A house behind a front garden, with a drive and boundaries."""
    rng = lot.rng
    width = lot.s1 - lot.s0
    depth, set_back = rng.uniform(8, 12), rng.uniform(3.0, 8.0)
    lot.ground(Kind.TERRAIN if rng.uniform() < 0.75 else Kind.SIDEWALK, 0.0, 40.0)
    wide = max(width - rng.uniform(4.5, 8.0), 5.0)
    drive = lot.s0 + rng.uniform(2.0, 3.0)
    middle = min(drive + 2.0 + 0.5 * wide, lot.s1 - 0.5 * wide)
    lot.put(buildings.house(rng, depth, wide, rng.uniform(3.0, 7.0)), middle, set_back + 0.5 * depth)
    lot.ground(Kind.PARKING if rng.uniform() < 0.6 else Kind.SIDEWALK, -0.3, set_back + 6, (drive - 1.6, drive + 1.6))
    if rng.uniform() < 0.4 * lot.builder.plan.style.cars:
        lot.put(vehicles.car(rng), drive, rng.uniform(3.2, set_back + 3.0), lot.inward + rng.choice([0, np.pi]))
    front, side_style = lot.border_style(), lot.border_style()
    if front != "none":
        lot.boundary((drive + 1.8, 0.35), (lot.s1, 0.35), front)
    if side_style != "none":
        lot.boundary((lot.s1, 0.4), (lot.s1, rng.uniform(8, 25)), side_style)
    lot.greenery(1.8, 7.0, 1.2, set_back + 2)
    lot.greenery(3.5, 4.0, set_back + depth + 2, 35)


def garden(lot: Lot) -> None:
    """A garden seen over or through its hedge, a house far behind."""
    rng = lot.rng
    lot.ground(Kind.TERRAIN, 0.0, 45.0)
    style = lot.border_style()
    lot.boundary((lot.s0, 0.5), (lot.s1, 0.5), "hedge" if style == "none" else style)
    lot.greenery(5.5, 14.0, 1.2, 18)
    if rng.uniform() < 0.5:
        lot.put(buildings.house(rng, 9, 11, rng.uniform(3, 6)), 0.5 * (lot.s0 + lot.s1), rng.uniform(17, 30))


def block(lot: Lot) -> None:
    """A town building near the sidewalk."""
    rng = lot.rng
    depth, set_back = rng.uniform(10, 14), rng.choice([0.2, 0.5, rng.uniform(2, 6)])
    wide = lot.s1 - lot.s0 - rng.choice([0.0, 0.0, 3.0])
    lot.ground(Kind.SIDEWALK if rng.uniform() < 0.7 else Kind.TERRAIN, 0.0, set_back + 0.5)
    lot.ground(Kind.TERRAIN if rng.uniform() < 0.5 else Kind.PARKING, set_back + 0.5, 45)
    lot.put(buildings.block(rng, depth, wide, rng.uniform(6, 16)), 0.5 * (lot.s0 + lot.s1), set_back + 0.5 * depth)
    if set_back > 1.5:
        if rng.uniform() < 0.5:
            lot.boundary((lot.s0, 0.3), (lot.s1, 0.3), str(rng.choice(["hedge", "wall", "railing"])))
        lot.greenery(0.8, 4.0, 0.8, set_back - 0.5)
    if rng.uniform() < 0.4:
        for _ in range(int(rng.integers(1, 5))):
            lot.put(vehicles.bicycle(rng), rng.uniform(lot.s0, lot.s1), -0.2, rng.uniform(-0.3, 0.3))


def park(lot: Lot) -> None:
    """Grass with trees, bushes and a bench or two."""
    rng = lot.rng
    lot.ground(Kind.TERRAIN, 0.0, 45.0)
    if rng.uniform() < 0.35:
        where = rng.uniform(lot.s0 + 2, lot.s1 - 2)
        lot.ground(Kind.SIDEWALK, 0.0, 30, (where - 1, where + 1))
    lot.greenery(6.5, 12.0, 1.0, 26)
    if rng.uniform() < 0.3:
        lot.boundary((lot.s0, 0.4), (lot.s1, 0.4), str(rng.choice(["hedge", "railing", "wire", "pickets"])))
    if rng.uniform() < 0.4:
        lot.put(furniture.bench(rng), rng.uniform(lot.s0, lot.s1), 1.0)


def wood(lot: Lot) -> None:
    """The edge of a wood: undergrowth in front, dense trees behind."""
    rng = lot.rng
    front = rng.uniform(0.5, 5.0)
    lot.ground(Kind.TERRAIN, 0.0, 60)
    width = lot.s1 - lot.s0
    for _ in range(rng.poisson(width * 0.7)):
        shrub = plants.undergrowth(rng, rng.uniform(0.8, 1.8), rng.uniform(0.4, 1.6))
        lot.put(shrub, rng.uniform(lot.s0, lot.s1), front + rng.exponential(3.0), 0.0)
    for _ in range(rng.poisson(width * 0.55)):
        shrub = plants.bush(rng, rng.uniform(1.5, 3.5), rng.uniform(1.0, 3.5))
        lot.put(shrub, rng.uniform(lot.s0, lot.s1), front + 1 + rng.exponential(5.0), 0.0)
    for _ in range(rng.poisson(width * 0.55)):
        plant = (
            plants.tree(rng, rng.uniform(7, 15), 0.5)
            if rng.uniform() < 0.8
            else plants.conifer(rng, rng.uniform(8, 16))
        )
        lot.put(plant, rng.uniform(lot.s0, lot.s1), front + 1.5 + rng.uniform(0, 22), rng.uniform(0, 6.3))


def open_field(lot: Lot) -> None:
    """Open grass with a few weeds, bushes, perhaps a wire fence."""
    rng = lot.rng
    lot.ground(Kind.TERRAIN, 0.0, 70)
    for _ in range(rng.poisson(2.5)):
        weeds = plants.undergrowth(rng, rng.uniform(0.8, 2.5), rng.uniform(0.2, 0.7))
        lot.put(weeds, rng.uniform(lot.s0, lot.s1), rng.exponential(8.0), 0.0)
    lot.greenery(1.6, 4.0, 2.0, 36)
    if rng.uniform() < 0.25:
        lot.boundary((lot.s0, 1.5), (lot.s1, 1.5), "wire")


def car_park(lot: Lot) -> None:
    """Parked cars in rows, sometimes a low hedge towards the street."""
    rng = lot.rng
    lot.ground(Kind.PARKING, 0.0, 30)
    for row in (3.0, 8.2, 18.0):
        for s in np.arange(lot.s0 + 1.5, lot.s1 - 1.0, 2.7):
            if rng.uniform() < 0.4 * lot.builder.plan.style.cars:
                kind = vehicles.car(rng)
                lot.put(kind, s + rng.normal(0, 0.1), row + rng.normal(0, 0.2), lot.inward + rng.choice([0, np.pi]))
    if rng.uniform() < 0.5:
        lot.boundary((lot.s0, 0.4), (lot.s1 - 4, 0.4), str(rng.choice(["hedge", "railing"])))
    lot.greenery(0.8, 1.0, 24, 34)
    lot.put(buildings.block(rng, 10, lot.s1 - lot.s0, rng.uniform(4, 9)), 0.5 * (lot.s0 + lot.s1), 38)


def yard(lot: Lot) -> None:
    """A paved or gravel yard with things standing about and walls around."""
    rng = lot.rng
    lot.ground(Kind.OTHER_GROUND if rng.uniform() < 0.6 else Kind.SIDEWALK, 0.0, 30)
    style = str(rng.choice(["wall", "wire", "railing", "boards", "none"]))
    if style != "none":
        lot.boundary((lot.s0, 0.4), (lot.s1 - 5, 0.4), style)
    for _ in range(rng.poisson(2.0)):
        lot.put(furniture.bin_or_box(rng), rng.uniform(lot.s0, lot.s1), rng.uniform(2, 14), rng.uniform(0, 6.3))
    choices = (vehicles.truck, vehicles.car, vehicles.car, vehicles.trailer, vehicles.excavator)
    for s in np.arange(lot.s0 + 3, lot.s1 - 3, 6.0):
        if rng.uniform() < 0.5:
            lot.put(choices[int(rng.integers(len(choices)))](rng), s, rng.uniform(5, 15), rng.uniform(0, 6.3))
    lot.put(buildings.block(rng, 12, 0.8 * (lot.s1 - lot.s0), rng.uniform(4, 8)), 0.5 * (lot.s0 + lot.s1), 28)
    lot.greenery(0.6, 2.0, 1.5, 20)


LOTS: dict[str, Callable[[Lot], None]] = {
    "house": house,
    "garden": garden,
    "block": block,
    "park": park,
    "wood": wood,
    "field": open_field,
    "parking": car_park,
    "yard": yard,
}
