"""What a simulated surface is (its semantic kind) and how it returns light (its material)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np


class Kind(IntEnum):
    """Semantic kinds: the finest distinction that any of the three label sets makes."""

    UNLABELED = 0
    EGO = auto()
    ROAD = auto()
    LANE_MARKING = auto()
    PARKING = auto()
    SIDEWALK = auto()
    CURB = auto()
    OTHER_GROUND = auto()
    TERRAIN = auto()
    BUILDING = auto()
    FENCE = auto()
    OTHER_STRUCTURE = auto()
    OTHER_OBJECT = auto()
    VEGETATION = auto()
    TRUNK = auto()
    POLE = auto()
    TRAFFIC_SIGN = auto()
    TRAFFIC_LIGHT = auto()
    CONE = auto()
    BARRIER = auto()
    CAR = auto()
    TRUCK = auto()
    BUS = auto()
    CONSTRUCTION_VEHICLE = auto()
    TRAILER = auto()
    BICYCLE = auto()
    MOTORCYCLE = auto()
    BICYCLIST = auto()
    MOTORCYCLIST = auto()
    PEDESTRIAN = auto()


class Material(IntEnum):
    """Optical materials, the index into :data:`OPTICS`."""

    ASPHALT = 0
    PAINT_MARK = auto()
    CONCRETE = auto()
    GRASS = auto()
    GRAVEL = auto()
    PLASTER = auto()
    GLASS = auto()
    CAR_PAINT = auto()
    RUBBER = auto()
    LEAF = auto()
    BARK = auto()
    STEEL = auto()
    REFLECTOR = auto()
    CLOTH = auto()
    PLASTIC = auto()
    MESH = auto()


@dataclass(frozen=True)
class Optics:
    """How a material answers a laser pulse at 905 nm.

    Attributes:
        reflectance: mean answer at short range and normal incidence, 0-1.
        spread: standard deviation of the answer relative to its mean.
        gloss: exponent of the cosine of incidence; 0 scatters evenly, 2 is nearly a mirror.
        dark: share of returns too weak for an intensity: they read 0.
        dropout: share of pulses that give no return at all.
        passing: share of pulses that go through to what lies behind.
        depth: mean depth [m] from which a loose surface (leaves, grass) returns.
        relief: height noise [m] of the surface, across the ray for grazing ground.
    """

    reflectance: float
    spread: float
    gloss: float = 0.1
    dark: float = 0.0
    dropout: float = 0.0
    passing: float = 0.0
    depth: float = 0.0
    relief: float = 0.0


_OPTICS = {
    Material.ASPHALT: Optics(0.315, 0.18, gloss=0.10, dark=0.04, dropout=0.005, relief=0.003),
    Material.PAINT_MARK: Optics(0.48, 0.30, gloss=0.06, relief=0.003),
    Material.CONCRETE: Optics(0.33, 0.18, gloss=0.05, dark=0.01, relief=0.004),
    Material.GRASS: Optics(0.38, 0.20, gloss=0.03, relief=0.014, depth=0.012),
    Material.GRAVEL: Optics(0.36, 0.32, gloss=0.05, dark=0.02, relief=0.012),
    Material.PLASTER: Optics(0.48, 0.26, gloss=0.15, dark=0.01, relief=0.02),
    Material.GLASS: Optics(0.15, 0.8, gloss=1.5, dark=0.5, dropout=0.55, passing=0.15),
    Material.CAR_PAINT: Optics(0.45, 0.6, gloss=1.0, dark=0.42, dropout=0.08, relief=0.01),
    Material.RUBBER: Optics(0.10, 0.8, gloss=0.1, dark=0.5, dropout=0.10),
    Material.LEAF: Optics(0.375, 0.30, gloss=0.12, dark=0.02, dropout=0.02, passing=0.10, depth=0.05),
    Material.BARK: Optics(0.40, 0.28, gloss=0.15, dark=0.01, relief=0.025),
    Material.STEEL: Optics(0.30, 0.6, gloss=0.5, dark=0.2, dropout=0.03, relief=0.01),
    Material.REFLECTOR: Optics(0.56, 0.55, gloss=0.3),
    Material.CLOTH: Optics(0.43, 0.32, gloss=0.15, dark=0.02, relief=0.02),
    Material.PLASTIC: Optics(0.43, 0.35, gloss=0.3, dark=0.05, relief=0.01),
    Material.MESH: Optics(0.30, 0.5, gloss=0.2, dark=0.08, passing=0.6, relief=0.01),
}


def optics_table(field: str) -> np.ndarray:
    """One column of the optics of all materials as float32 (len(Material),)."""
    return np.array([getattr(_OPTICS[m], field) for m in Material], np.float32)
