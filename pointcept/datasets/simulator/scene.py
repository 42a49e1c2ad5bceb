"""A scene: static geometry, moving actors and the drive of the ego vehicle, all drawn from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .actors import Actor, Ego, draw_actors
from .ground import Raster, ground_mesh
from .plan import STYLE_SHARES, STYLES, Plan, draw_plan
from .shapes import Mesh
from .street import furnish

SIGHT = 85.0
_LONGEST = 2000.0


@dataclass(frozen=True)
class Geometry:
    """Triangles with what a hit on them means.

    Attributes:
        triangles: (T,3,3) float32 in the world [m].
        kind, material: (T,) uint8, see :mod:`.surfaces`.
        instance: (T,) uint16, 0 for what is not counted.
        tint: (T,) float32 factor on the reflectance.
        moving: whether this geometry moves.
    """

    triangles: np.ndarray
    kind: np.ndarray
    material: np.ndarray
    instance: np.ndarray
    tint: np.ndarray
    moving: bool = False

    @staticmethod
    def of(meshes: list[Mesh], instances: list[int], tints: list[float], moving: bool = False) -> Geometry:
        """Join meshes, each with its instance number and tint."""
        counts = [len(m.kind) for m in meshes]
        joined = Mesh.join(meshes)
        instance = np.repeat(np.asarray(instances, np.uint16), counts)
        tint = np.repeat(np.asarray(tints, np.float32), counts)
        return Geometry(joined.triangles, joined.kind, joined.material, instance, tint, moving)


@dataclass(frozen=True)
class Scene:
    """A street for ray casting; the world is z up, metres, seconds from the start of the drive.

    ``road_tint`` scales the reflectance of the carriageway, ``tilt`` is the roll and pitch of the vehicle [rad].
    """

    plan: Plan
    raster: Raster
    ground: np.ndarray
    ground_st: np.ndarray
    static: Geometry
    actors: tuple[Actor, ...]
    ego: Ego
    road_tint: float
    tilt: tuple[float, float]

    def ego_pose(self, time: float) -> np.ndarray:
        """Pose (4,4) of the ego vehicle (x forward, on the ground under its middle) at ``time`` [s]."""
        s = self.ego.start + self.ego.speed * time
        yaw = float(self.plan.alignment.yaw(s))
        xy = self.plan.alignment.to_plane(s, self.ego.lane)
        z, ahead = (float(self.plan.height(np.array(x), np.array(self.ego.lane))) for x in (s, s + 2.0))
        pitch = np.arctan2(ahead - z, 2.0)
        c, n, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
        pose = np.eye(4)
        roll, lean = self.tilt[0] * np.cos(3.1 * time), self.tilt[1] * np.cos(2.3 * time)
        on_slope = np.array([[c * cp, -n, -c * sp], [n * cp, c, -n * sp], [sp, 0, cp]])
        turn = np.array([[np.cos(lean), 0, np.sin(lean)], [0, 1, 0], [-np.sin(lean), 0, np.cos(lean)]])
        bank = np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]])
        pose[:3, :3] = on_slope @ turn @ bank
        pose[:3, 3] = xy[0], xy[1], z
        return pose

    def moving(self, time: float) -> Geometry:
        """The actors as they stand at ``time`` [s]."""
        placed = [(a.at(self.plan, time), a) for a in self.actors]
        there = [(mesh, a) for mesh, a in placed if mesh is not None]
        return Geometry.of(
            [m for m, _ in there], [a.instance for _, a in there], [a.tint for _, a in there], moving=True
        )


def draw_scene(seed: np.random.SeedSequence, duration: float, style: str | None = None) -> Scene:
    """Draw a scene for a drive of ``duration`` [s].

    Args:
        seed: everything about the scene follows from it.
        duration: length of the drive; the street is as long as it needs.
        style: a name of :data:`.plan.STYLES`; drawn by :data:`.plan.STYLE_SHARES` when None.

    Raises:
        ValueError: unknown style, or a drive longer than the longest street.
    """
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(list(STYLE_SHARES), p=list(STYLE_SHARES.values())))
    name = style or drawn
    if name not in STYLES:
        raise ValueError(f"unknown street style {name!r}, allowed: {', '.join(STYLES)}")
    speed = float(rng.uniform(*STYLES[name].speed)) * float(rng.choice([1.0, 0.4], p=[0.85, 0.15]))
    length = speed * duration + 2 * SIGHT
    if length > _LONGEST:
        raise ValueError(
            f"a drive of {duration:.0f} s at {speed:.1f} m/s needs a street of {length:.0f} m > {_LONGEST:.0f} m"
        )
    plan = draw_plan(rng, length, name)
    builder, raster = furnish(plan, rng)
    ego = Ego(SIGHT, -min(0.5 * plan.half, 1.8 if name != "highway" else 0.42 * plan.half), speed)
    actors = draw_actors(builder, ego, duration)
    ground, ground_st = ground_mesh(plan)
    static = Geometry.of(builder.meshes, builder.instances, builder.tints)
    road_tint, tilt = float(rng.uniform(0.78, 1.06)), tuple(float(v) for v in rng.normal(0, np.radians(0.7), 2))
    return Scene(plan, raster, ground, ground_st, static, tuple(actors), ego, road_tint, (tilt[0], tilt[1]))
