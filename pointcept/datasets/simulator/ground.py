"""The ground of a scene: a painted raster in street coordinates and a mesh with kerbs and slopes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .plan import Plan
from .surfaces import Kind, Material

GROUND_MATERIAL = {
    Kind.ROAD: Material.ASPHALT,
    Kind.LANE_MARKING: Material.PAINT_MARK,
    Kind.PARKING: Material.CONCRETE,
    Kind.SIDEWALK: Material.CONCRETE,
    Kind.CURB: Material.CONCRETE,
    Kind.OTHER_GROUND: Material.GRAVEL,
    Kind.TERRAIN: Material.GRASS,
}


@dataclass
class Raster:
    """Ground kinds on a grid in street coordinates.

    Attributes:
        kind: (S,T) uint8 semantic kinds; axis 0 runs along s from 0, axis 1 along t from -depth.
        depth: half extent in t [m].
        cell: size of a cell [m].
    """

    kind: np.ndarray
    depth: float
    cell: float = 0.2

    @staticmethod
    def over(plan: Plan, kind: Kind) -> Raster:
        """A raster over the whole plan, all of one kind."""
        shape = (int(plan.alignment.length / 0.2) + 1, int(2 * plan.depth / 0.2) + 1)
        return Raster(np.full(shape, kind, np.uint8), plan.depth)

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Station (S,1) and offset (1,T) of the cell centres [m]."""
        s = (np.arange(self.kind.shape[0]) + 0.5) * self.cell
        t = (np.arange(self.kind.shape[1]) + 0.5) * self.cell - self.depth
        return s[:, None].astype(np.float32), t[None, :].astype(np.float32)

    def at(self, st: np.ndarray) -> np.ndarray:
        """Kinds (N,) uint8 at street coordinates (N,2) [m]."""
        i = np.clip((st[:, 0] / self.cell).astype(np.int64), 0, self.kind.shape[0] - 1)
        j = np.clip(((st[:, 1] + self.depth) / self.cell).astype(np.int64), 0, self.kind.shape[1] - 1)
        return self.kind[i, j]

    def fill(self, s: tuple[float, float], t: tuple[float, float], kind: Kind) -> None:
        """Paint the rectangle between two stations and two offsets [m]."""
        s0, s1 = (int(np.clip(round(v / self.cell), 0, self.kind.shape[0])) for v in sorted(s))
        t0, t1 = (int(np.clip(round((v + self.depth) / self.cell), 0, self.kind.shape[1])) for v in sorted(t))
        self.kind[s0:s1, t0:t1] = kind


def _paint_markings(raster: Raster, plan: Plan, s: np.ndarray, t: np.ndarray, rng: np.random.Generator) -> None:
    """Centre and edge lines on open stretches, zebra crossings at some junctions."""
    open_road = np.ones(len(s), bool)
    for j in plan.junctions:
        open_road &= np.abs(s[:, 0] - j.s) > j.reach()
        if rng.uniform() < 0.4:
            where = (np.abs(s - (j.s - j.reach() - 2.0)) < 1.5) & (np.abs(t) < plan.half) & (np.mod(t, 1.0) < 0.5)
            raster.kind[where & (raster.kind == Kind.ROAD)] = Kind.LANE_MARKING
    dashed = np.mod(s[:, 0], 9.0) < 4.0
    lines: list[tuple[float, np.ndarray]] = []
    if plan.half > 3.1 and rng.uniform() < 0.75:
        lines.append((0.0, dashed))
    if plan.style_name in ("country", "highway", "suburb") and rng.uniform() < 0.8:
        lines += [(side * (plan.half - 0.4), np.ones_like(dashed)) for side in (-1, 1)]
    if plan.style_name == "highway":
        lines += [(side * plan.half / 2.4, dashed) for side in (-1, 1)]
    for offset, where in lines:
        column = int((offset + plan.depth) / raster.cell)
        cells = raster.kind[:, column]
        cells[where & open_road & (cells == Kind.ROAD)] = Kind.LANE_MARKING


def paint_streets(raster: Raster, plan: Plan, rng: np.random.Generator) -> None:
    """Paint strips, kerbs, parking bays, carriageway and markings over the lots."""
    s, t = raster.axes()
    road, bay = plan.road_distance(s, t), plan.bay_at(s, t)
    kerb = road - bay
    wobble = 0.12 * np.sin(0.9 * s + 0.7 * t) + 0.08 * np.sin(2.3 * s)
    for side in (-1, 1):
        inner = 0.0
        half_plane = t * side > 0
        for kind, width in plan.strips[side]:
            edge = wobble if kind == Kind.TERRAIN or inner > 0 else 0.0
            raster.kind[half_plane & (kerb >= inner) & (kerb < inner + width + edge)] = kind
            inner += width
    if plan.curb > 0:
        raster.kind[(kerb >= 0) & (kerb < 0.2)] = Kind.CURB
    raster.kind[(kerb < 0) & (bay > 0)] = Kind.PARKING
    raster.kind[road < 0] = Kind.ROAD
    _paint_markings(raster, plan, s, t, rng)


def _grid_lines(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Stations and offsets [m] of the mesh lines: dense at kerbs and junction corners, sparse elsewhere."""
    length = plan.alignment.length
    stations = [np.arange(0.0, length, 4.0), [length]]
    for j in plan.junctions:
        stations.append(np.arange(j.s - j.reach() - 0.6, j.s + j.reach() + 0.6, 0.6))
    for start, end, _ in plan.bays:
        stations.append([start - 0.05, start + 0.05, end - 0.05, end + 0.05])
    offsets = [[0.0], np.arange(plan.half + 3, plan.half + 14, 1.6), np.arange(plan.half + 14, plan.depth + 3, 4.0)]
    far = max((j.radius for j in plan.junctions), default=0.0)
    offsets.append(np.arange(plan.half, plan.half + far, 0.6))
    edges = [plan.half, plan.half + plan.bay_width]
    for side in (-1, 1):
        edges += [edge + float(width) for edge in edges[:2] for width in np.cumsum([w for _, w in plan.strips[side]])]
    for edge in edges:
        offsets.append([edge, edge + 0.08])
    both = np.concatenate(
        [np.concatenate([np.asarray(o) for o in offsets]), -np.concatenate([np.asarray(o) for o in offsets])]
    )
    s = np.unique(np.clip(np.concatenate([np.asarray(x) for x in stations]), 0, length).round(2))
    return s, np.unique(both.round(2))


def ground_mesh(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The ground as triangles (T,3,3) in the world and their street coordinates (T,3,2) [m]."""
    s, t = _grid_lines(plan)
    ss, tt = np.meshgrid(s, t, indexing="ij")
    xyz = np.concatenate([plan.alignment.to_plane(ss, tt), plan.height(ss, tt)[..., None]], axis=-1)
    st = np.stack([ss, tt], axis=-1)

    def split(v: np.ndarray) -> np.ndarray:
        a, b, c, d = v[:-1, :-1], v[1:, :-1], v[1:, 1:], v[:-1, 1:]
        first, second = np.stack([a, b, c], 2), np.stack([a, c, d], 2)
        return np.concatenate([first.reshape(-1, 3, v.shape[-1]), second.reshape(-1, 3, v.shape[-1])])

    return split(xyz).astype(np.float32), split(st).astype(np.float32)
