"""One revolution of a sensor in a scene: rays, hits, noise, intensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ground import GROUND_MATERIAL
from .raycast import RayCaster, unit_normals
from .scene import Geometry, Scene
from .sensors import Sensor
from .shapes import Mesh, box
from .surfaces import Kind, Material, optics_table

_REFLECTANCE, _SPREAD, _GLOSS = (optics_table(f) for f in ("reflectance", "spread", "gloss"))
_DROPOUT, _PASSING, _DARK = (optics_table(f) for f in ("dropout", "passing", "dark"))
_DEPTH, _RELIEF = optics_table("depth"), optics_table("relief")
_GROUND = np.zeros(len(Kind), np.uint8)
for _kind, _material in GROUND_MATERIAL.items():
    _GROUND[_kind] = _material
_PIERCE = 3


@dataclass(frozen=True)
class Scan:
    """The returns of one revolution.

    Attributes:
        xyz: (N,3) float32 in the sensor frame at the middle of the revolution [m].
        distance: (N,) float32 length of the ray [m], from where the sensor was when it fired.
        intensity: (N,) float32, the calibrated answer, about 0-1.
        kind: (N,) uint8 semantic kinds.
        instance: (N,) uint16.
        moving: (N,) bool, the return comes from a moving actor.
        ray: (N,) int64 index of the ray (beam * columns + column).
        ring: (N,) uint8 beam.
        order: (N,) uint8, 0 for first and 1 for second returns.
        pose: (4,4) pose of the sensor in the world at the middle of the revolution.
    """

    xyz: np.ndarray
    distance: np.ndarray
    intensity: np.ndarray
    kind: np.ndarray
    instance: np.ndarray
    moving: np.ndarray
    ray: np.ndarray
    ring: np.ndarray
    order: np.ndarray
    pose: np.ndarray


class _Target:
    """A geometry with its ray caster and normals; ground triangles get their kind from the raster."""

    def __init__(self, geometry: Geometry, scene: Scene | None) -> None:
        triangles = geometry.triangles if scene is None else np.concatenate([geometry.triangles, scene.ground])
        self.geometry, self.scene = geometry, scene
        self.caster = RayCaster(triangles)
        self.normals = unit_normals(triangles)


@dataclass
class _Returns:
    """Columns of the hits while they are being made into a scan; all (N,) but direction (N,3)."""

    ray: np.ndarray
    distance: np.ndarray
    direction: np.ndarray
    cosine: np.ndarray
    kind: np.ndarray
    material: np.ndarray
    instance: np.ndarray
    tint: np.ndarray
    moving: np.ndarray

    def take(self, rows: np.ndarray) -> _Returns:
        """The given rows (a mask or indices)."""
        return _Returns(*(getattr(self, f)[rows] for f in self.__dataclass_fields__))

    @staticmethod
    def join(parts: list[_Returns]) -> _Returns:
        """The rows of several tables."""
        return _Returns(*(np.concatenate([getattr(p, f) for p in parts]) for f in _Returns.__dataclass_fields__))


class Simulator:
    """Scans a scene: indexes what stands still once, and what moves anew for every revolution."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._static = _Target(scene.static, scene)

    def velocity(self, time: float) -> np.ndarray:
        """Velocity (3,) float32 of the ego vehicle in the world at ``time`` [m/s]."""
        earlier, later = (self.scene.ego_pose(time + d)[:3, 3] for d in (-0.05, 0.05))
        return ((later - earlier) / 0.1).astype(np.float32)

    def scan(self, sensor: Sensor, time: float, rng: np.random.Generator) -> Scan:
        """One revolution of ``sensor``, centred at ``time`` [s] of the drive.

        Args:
            sensor: the scanner; it moves with the ego vehicle during the revolution.
            time: middle of the revolution [s].
            rng: draws noise and lost pulses.
        """
        pose = self.scene.ego_pose(time) @ sensor.pose()
        velocity = self.velocity(time) if sensor.sweeping else np.zeros(3, np.float32)
        rays = np.flatnonzero(sensor.clear)
        directions = sensor.directions[rays] @ pose[:3, :3].T.astype(np.float32)
        origin = pose[:3, 3].astype(np.float32)
        origins = origin + sensor.firing_time[rays, None] * velocity
        targets = [self._static]
        moving = self.scene.moving(time)
        if len(moving.triangles):
            targets.append(_Target(moving, None))
        if sensor.own_roof is not None:
            roof = Mesh.of(box(*sensor.own_roof), Kind.EGO, Material.CAR_PAINT)
            corners = roof.triangles @ pose[:3, :3].T.astype(np.float32) + origin
            placed = Mesh(corners, roof.kind, roof.material)
            targets.append(_Target(Geometry.of([placed], [0], [1.0], moving=True), None))
        first, second = self._trace(targets, rays, origins, directions, rng, sensor.returns)
        parts = [self._finish(sensor, r, rng, order) for order, r in enumerate((first, second)) if r is not None]
        found = _Returns.join([returns for returns, _ in parts])
        intensity = np.concatenate([value for _, value in parts])
        order = np.repeat(np.arange(len(parts), dtype=np.uint8), [len(value) for _, value in parts])
        start = origin + sensor.firing_time[found.ray, None] * velocity
        world = start + found.distance[:, None] * found.direction
        xyz = (world - origin) @ pose[:3, :3].astype(np.float32)
        return Scan(
            xyz.astype(np.float32), found.distance, intensity, found.kind, found.instance, found.moving, found.ray,
            sensor.ring[found.ray], order, pose,
        )  # fmt: skip

    def _trace(
        self,
        targets: list[_Target],
        rays: np.ndarray,
        origins: np.ndarray,
        directions: np.ndarray,
        rng: np.random.Generator,
        returns: int,
    ) -> tuple[_Returns, _Returns | None]:
        """Follow rays through what lets them pass; with two returns keep what was passed as the first one."""
        done, passed = [], []
        travelled = np.zeros(len(rays), np.float32)
        for depth in range(_PIERCE):
            hit = _closest(targets, rays, origins + travelled[:, None] * directions, directions)
            rows = np.flatnonzero(np.isfinite(hit.distance))
            hit = hit.take(rows)
            hit.distance += travelled[rows]
            goes_on = rng.random(len(rows), np.float32) < _PASSING[hit.material]
            if depth == _PIERCE - 1:
                goes_on[:] = False
            done.append(hit.take(~goes_on))
            if returns > 1 and depth == 0:
                passed.append(hit.take(goes_on))
            on = rows[goes_on]
            rays, origins, directions = rays[on], origins[on], directions[on]
            travelled = hit.distance[goes_on] + np.float32(0.02)
        if returns == 1:
            return _Returns.join(done), None
        return _Returns.join([done[0], *passed]), _Returns.join(done[1:])

    def _finish(
        self, sensor: Sensor, hit: _Returns, rng: np.random.Generator, order: int
    ) -> tuple[_Returns, np.ndarray]:
        """Add depth and noise to ranges, draw intensities and lose pulses; rows by ray."""
        n = len(hit.ray)
        depth = _DEPTH[hit.material]
        loose = np.flatnonzero(depth > 0)
        hit.distance[loose] += rng.exponential(1.0, len(loose)).astype(np.float32) * depth[loose]
        relief = _RELIEF[hit.material] / np.maximum(hit.cosine, np.float32(0.06))
        sigma = np.sqrt(np.float32(sensor.range_noise) ** 2 + np.minimum(relief, np.float32(0.25)) ** 2)
        ring = sensor.ring[hit.ray]
        offsets = np.broadcast_to(sensor.range_offsets, len(sensor.elevations)).astype(np.float32)
        hit.distance += sigma * rng.standard_normal(n, np.float32) + offsets[ring]
        answer = (
            _REFLECTANCE[hit.material] * hit.tint * np.exp(_GLOSS[hit.material] * np.log(hit.cosine + np.float32(0.01)))
        )
        power = sensor.power(hit.distance)
        gain = np.broadcast_to(sensor.gains, len(sensor.elevations)).astype(np.float32)
        speckle = 1 + _SPREAD[hit.material] * rng.standard_normal(n, np.float32)
        intensity = answer * power * speckle * gain[ring]
        unread = _DARK[hit.material] + sensor.blind(hit.distance) * np.float32(0.36) / np.maximum(
            answer, np.float32(0.1)
        )
        intensity = np.where(rng.random(n, np.float32) < unread, np.float32(0), np.maximum(intensity, np.float32(0)))
        lost = _DROPOUT[hit.material] + np.float32(sensor.lost) + np.float32(0.5) * (answer * power < 0.004)
        keep = rng.random(n, np.float32) >= lost
        keep &= (hit.distance < sensor.max_range) & (hit.distance > sensor.min_range)
        rows = np.flatnonzero(keep)
        rows = rows[np.argsort(hit.ray[rows], kind="stable")]
        return hit.take(rows), intensity[rows].astype(np.float32)


def _closest(targets: list[_Target], rays: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> _Returns:
    """The closest hit of each ray over all targets; distance is infinite where there is none."""
    n = len(rays)
    found = _Returns(
        rays, np.full(n, np.inf, np.float32), directions, np.ones(n, np.float32), np.zeros(n, np.uint8),
        np.zeros(n, np.uint8), np.zeros(n, np.uint16), np.ones(n, np.float32), np.zeros(n, bool),
    )  # fmt: skip
    for target in targets:
        hits = target.caster.cast(origins, directions)
        rows = np.flatnonzero(hits.distance < found.distance)
        triangle = hits.triangle[rows]
        found.distance[rows] = hits.distance[rows]
        found.cosine[rows] = np.abs(np.einsum("ij,ij->i", target.normals[triangle], directions[rows]))
        geometry, known = target.geometry, len(target.geometry.kind)
        solid = triangle < known
        to, which = rows[solid], triangle[solid]
        for name in ("kind", "material", "instance", "tint"):
            getattr(found, name)[to] = getattr(geometry, name)[which]
        found.moving[rows] = geometry.moving
        if target.scene is not None:
            to, which = rows[~solid], triangle[~solid] - known
            corners = target.scene.ground_st[which]
            u, v = hits.u[rows][~solid, None], hits.v[rows][~solid, None]
            st = (1 - u - v) * corners[:, 0] + u * corners[:, 1] + v * corners[:, 2]
            found.kind[to] = target.scene.raster.at(st)
            found.material[to] = _GROUND[found.kind[to]]
            found.instance[to] = 0
            found.tint[to] = _ground_tint(st, found.material[to], target.scene.road_tint)
    return found


def _ground_tint(st: np.ndarray, material: np.ndarray, road_tint: float) -> np.ndarray:
    """Reflectance of the ground (N,) relative to its material: mottled, the carriageway with worn and patched bands."""
    s, t = st[:, 0], st[:, 1]
    mottle = 1 + 0.06 * np.sin(0.8 * s) * np.sin(1.1 * t) + 0.03 * np.sin(4 * t)
    worn = np.clip(1.25 * np.sin(1.9 * t + 0.6 * np.sin(0.07 * s)) + 0.8 * np.sin(0.23 * s + 0.5 * t) - 0.7, 0, 1)
    road = road_tint * (1 - 0.35 * worn)
    return (mottle * np.where(material == Material.ASPHALT, road, 1.0)).astype(np.float32)
