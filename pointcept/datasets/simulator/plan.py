"""The plan of a street: carriageway, junctions, parking bays, kerbs, sidewalks, and the height of the ground."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .alignment import Alignment
from .surfaces import Kind


@dataclass(frozen=True)
class Style:
    """What kind of street: numbers are ranges to draw from, or probabilities.

    Attributes:
        half: half width of the carriageway [m].
        lane: distance of the middle of a lane from the centre line [m].
        speed: speed of the ego vehicle [m/s].
        spacing: distance between junctions [m].
        strips: strips beyond the kerb, one choice drawn per side: ((kind, width [m]), ...).
        lots: weights of the kinds of lots beside the street.
        parking: probability of a parking bay along a stretch.
        trees, lamps, cars, people: how many, relative to a usual residential street.
        hill, slope: height of hills [m], largest side slope beyond the sidewalk.
        rail: probability of a guard rail along a side.
    """

    half: tuple[float, float]
    speed: tuple[float, float]
    spacing: tuple[float, float]
    strips: tuple[tuple[tuple[Kind, float], ...], ...]
    lots: dict[str, float]
    parking: float = 0.0
    trees: float = 1.0
    cars: float = 1.0
    people: float = 1.0
    hill: float = 2.0
    slope: float = 0.06
    rail: float = 0.0
    tightest: float = 160.0


_WALK = ((Kind.SIDEWALK, 2.2),)
_WIDE_WALK = ((Kind.SIDEWALK, 4.0),)
_GREEN_WALK = ((Kind.TERRAIN, 1.6), (Kind.SIDEWALK, 2.0))
_WALK_GREEN = ((Kind.SIDEWALK, 2.4), (Kind.TERRAIN, 2.0))
_SHOULDER = ((Kind.TERRAIN, 3.0),)
_GRAVEL = ((Kind.OTHER_GROUND, 0.9), (Kind.TERRAIN, 2.0))

STYLES: dict[str, Style] = {
    "residential": Style(
        (3.0, 4.5), (5.0, 10.0), (45, 90), (_WALK, _WIDE_WALK, _GREEN_WALK, _WALK_GREEN, _WIDE_WALK),
        {"house": 0.34, "garden": 0.36, "park": 0.10, "wood": 0.09, "parking": 0.05, "yard": 0.06}, parking=0.35,
    ),
    "town": Style(
        (3.6, 6.5), (4.0, 11.0), (50, 100), (_WALK, _WIDE_WALK, _WIDE_WALK, _GREEN_WALK),
        {"block": 0.55, "house": 0.12, "park": 0.12, "parking": 0.09, "yard": 0.12}, parking=0.5, trees=0.8, cars=1.1,
        people=2.5, hill=1.0, slope=0.02, tightest=300.0,
    ),
    "suburb": Style(
        (3.6, 5.5), (8.0, 14.0), (60, 130), (_WALK_GREEN, _GREEN_WALK, _WIDE_WALK, _SHOULDER, _WALK),
        {"park": 0.22, "wood": 0.29, "garden": 0.20, "house": 0.12, "field": 0.10, "yard": 0.07},
        parking=0.1, trees=1.3, cars=0.6, people=0.8, slope=0.12, rail=0.1,
    ),
    "country": Style(
        (3.0, 4.0), (12.0, 20.0), (110, 220), (_SHOULDER, _SHOULDER, _GRAVEL, _WALK_GREEN),
        {"field": 0.38, "wood": 0.42, "park": 0.15, "house": 0.05},
        trees=0.7, cars=0.3, people=0.15, hill=4.0, slope=0.18, rail=0.2, tightest=120.0,
    ),
    "highway": Style(
        (6.5, 9.0), (22.0, 30.0), (900, 1000), (_SHOULDER, _GRAVEL),
        {"field": 0.6, "wood": 0.4}, trees=0.3, cars=1.0, people=0.0, hill=3.0, slope=0.15, rail=0.7, tightest=600.0,
    ),
}  # fmt: skip
STYLE_SHARES = {"residential": 0.32, "town": 0.13, "suburb": 0.34, "country": 0.14, "highway": 0.07}


@dataclass(frozen=True)
class Junction:
    """A side street across the main one at station ``s``: half width, corner radius [m], which sides it has."""

    s: float
    half: float
    radius: float
    left: bool
    right: bool

    def reach(self) -> float:
        """Half length of the stretch of the main street that it takes up [m]."""
        return self.half + self.radius


@dataclass(frozen=True)
class Plan:
    """Everything that fixes the ground of a scene; (s, t) in metres, t > 0 on the left."""

    alignment: Alignment
    style_name: str
    style: Style
    half: float
    curb: float
    junctions: tuple[Junction, ...]
    strips: dict[int, tuple[tuple[Kind, float], ...]]
    bays: tuple[tuple[float, float, int], ...]
    slopes: dict[int, float]
    waves: np.ndarray = field(repr=False)
    bay_width: float = 2.2
    depth: float = 72.0

    def road_distance(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Signed distance [m] of (s, t) from the edge of the carriageway, negative on it; corners are round."""
        s, t = np.broadcast_arrays(s, t)
        d = np.abs(t) - self.half
        for j in self.junctions:
            beside = np.abs(s - j.s) - j.half
            beside = np.where(np.where(t > 0, j.left, j.right), beside, np.inf)
            near = (d >= 0) & (d < j.radius) & (beside >= 0) & (beside < j.radius)
            round_corner = j.radius - np.hypot(j.radius - d, j.radius - np.where(near, beside, 0.0))
            d = np.where(near, round_corner, np.minimum(d, beside))
        return d

    def bay_at(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Width of the parking bay beside the road at (s, t) [m], 0 where there is none."""
        width = np.zeros(np.broadcast(s, t).shape)
        for start, end, side in self.bays:
            width = np.where((s > start) & (s < end) & (t * side > 0), self.bay_width, width)
        return width

    def curb_distance(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Signed distance [m] from the kerb, negative on road and parking bay."""
        return self.road_distance(s, t) - self.bay_at(s, t)

    def strips_width(self, side: int) -> float:
        """Width of all strips between kerb and lots on a side (+1 left, -1 right) [m]."""
        return float(sum(width for _, width in self.strips[side]))

    def height(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Height of the ground at (s, t) [m]."""
        s, t = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(t, np.float64))
        d = self.curb_distance(s, t)
        beyond = np.clip(d - np.where(t > 0, self.strips_width(1), self.strips_width(-1)), 0, None)
        slope = np.where(t > 0, self.slopes[1], self.slopes[-1])
        camber = 0.025 * np.clip(d - beyond, 0, None)
        rise = camber + slope * (np.minimum(beyond, 25.0) - 1.5 * (1 - np.exp(-beyond / 1.5)))
        bumps = np.zeros_like(s)
        for ks, kt, phase, amount in self.waves:
            bumps += amount * np.sin(ks * s + kt * t + phase)
        bumps *= np.clip(beyond / 4.0, 0, 1)
        crown = -0.02 * np.minimum(np.abs(t), self.half)
        return self.alignment.profile(s) + crown + self.curb * np.clip(d / 0.07, 0, 1) + rise + bumps

    def in_junction(self, s: float, margin: float = 0.0, side: int = 0) -> bool:
        """Whether station ``s`` lies within ``margin`` [m] of a junction that opens on ``side`` (0: any)."""
        return any(
            abs(s - j.s) < j.reach() + margin and (side == 0 or (j.left if side > 0 else j.right))
            for j in self.junctions
        )

    def lot_edge(self, s: float, side: int) -> float:
        """Distance |t| at which the lots begin at station ``s`` on a side [m]."""
        return self.half + float(self.bay_at(np.array(s), np.array(float(side)))) + self.strips_width(side)


def _draw_junctions(rng: np.random.Generator, style: Style, length: float) -> tuple[Junction, ...]:
    junctions: list[Junction] = []
    s = rng.uniform(10, style.spacing[0] + 20)
    while s < length - 15:
        sides = [(True, True), (True, False), (False, True)][int(rng.integers(3))]
        junctions.append(Junction(float(s), float(rng.uniform(2.4, 3.8)), float(rng.uniform(3.0, 8.0)), *sides))
        s += rng.uniform(*style.spacing)
    return tuple(junctions)


def draw_plan(rng: np.random.Generator, length: float, style_name: str) -> Plan:
    """Draw the plan of a street of ``length`` [m] in one of :data:`STYLES`."""
    style = STYLES[style_name]
    alignment = Alignment.draw(rng, length, style.tightest, style.hill)
    junctions = _draw_junctions(rng, style, length)
    strips = {side: style.strips[int(rng.integers(len(style.strips)))] for side in (-1, 1)}
    bays = []
    for side in (-1, 1):
        s = rng.uniform(0, 20)
        while s < length:
            end = min(s + rng.uniform(15, 45), length)
            clear = all(abs(j.s - x) > j.reach() + 1 for j in junctions for x in np.arange(s, end + 2, 2.0))
            if rng.uniform() < style.parking and clear:
                bays.append((float(s), float(end), side))
            s = end + rng.uniform(3, 15)
    slopes = {side: float(rng.uniform(-0.6, 1.0) * style.slope) for side in (-1, 1)}
    waves = [(rng.normal(0, 0.3), rng.normal(0, 0.3), rng.uniform(0, 6.3), rng.uniform(0.03, 0.18)) for _ in range(5)]
    built_up = style_name in ("residential", "town", "suburb")
    curb = float(rng.uniform(0.05, 0.15)) if built_up else 0.0
    half = float(rng.uniform(*style.half))
    return Plan(alignment, style_name, style, half, curb, junctions, strips, tuple(bays), slopes, np.array(waves))
