"""Triangle meshes from a few primitives: everything in the simulated street is made of these.

Local frames: x forward, y left, z up, metres, the ground at z = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .surfaces import Kind, Material


@dataclass(frozen=True)
class Mesh:
    """Triangles (T,3,3) float32 [m] with a semantic kind and a material, uint8 (T,), for each."""

    triangles: np.ndarray
    kind: np.ndarray
    material: np.ndarray

    @staticmethod
    def of(triangles: np.ndarray, kind: Kind, material: Material) -> Mesh:
        """A mesh of one kind and one material."""
        n = len(triangles)
        return Mesh(triangles.astype(np.float32), np.full(n, kind, np.uint8), np.full(n, material, np.uint8))

    @staticmethod
    def join(parts: Iterable[Mesh]) -> Mesh:
        """All triangles of several meshes (of none: an empty mesh)."""
        meshes = list(parts)
        if not meshes:
            return Mesh.of(np.zeros((0, 3, 3)), Kind.UNLABELED, Material.ASPHALT)
        return Mesh(
            np.concatenate([m.triangles for m in meshes]),
            np.concatenate([m.kind for m in meshes]),
            np.concatenate([m.material for m in meshes]),
        )

    def placed(self, position: Sequence[float] | np.ndarray, yaw: float = 0.0, scale: float = 1.0) -> Mesh:
        """The mesh scaled, turned by ``yaw`` [rad] about z and moved to ``position`` (3,) [m]."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32) * np.float32(scale)
        return Mesh(self.triangles @ turn + np.asarray(position, np.float32), self.kind, self.material)

    def with_kind(self, kind: Kind) -> Mesh:
        """The same mesh under another semantic kind."""
        return Mesh(self.triangles, np.full(len(self.kind), kind, np.uint8), self.material)


def quads(corners: np.ndarray) -> np.ndarray:
    """Split quadrilaterals (Q,4,3), corners in order, into triangles (2Q,3,3)."""
    corners = np.asarray(corners, np.float32).reshape(-1, 4, 3)
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


def strips(rings: np.ndarray, closed: bool = True) -> np.ndarray:
    """Connect neighbouring outlines (R,P,3) with quadrilaterals: triangles (T,3,3)."""
    if closed:
        rings = np.concatenate([rings, rings[:, :1]], axis=1)
    a, b = rings[:-1, :-1], rings[:-1, 1:]
    d, c = rings[1:, :-1], rings[1:, 1:]
    return quads(np.stack([a, b, c, d], axis=2))


def fan(outline: np.ndarray) -> np.ndarray:
    """Fill a convex outline (P,3) with triangles (P-2,3,3)."""
    p = np.asarray(outline, np.float32)
    return np.stack([np.broadcast_to(p[0], p[2:].shape), p[1:-1], p[2:]], axis=1)


def box(size: Sequence[float] | np.ndarray, center: Sequence[float] | np.ndarray) -> np.ndarray:
    """An axis-aligned box of ``size`` (3,) about ``center`` (3,): triangles (12,3,3)."""
    x, y, z = (0.5 * float(v) for v in size)
    lower = np.array([[-x, -y, -z], [x, -y, -z], [x, y, -z], [-x, y, -z]])
    upper = np.add(lower, [0, 0, 2 * z])
    sides = strips(np.stack([lower, upper]))
    return np.concatenate([sides, quads(lower[None]), quads(upper[None])]) + np.asarray(center, np.float32)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product of two vectors (3,); numpy's own is slow for single ones."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def tube(path: np.ndarray, radii: Sequence[float], corners: int = 6) -> np.ndarray:
    """A round tube along ``path`` (P,3) with a radius per path point [m]: triangles (T,3,3)."""
    path = np.asarray(path, np.float64)
    axis = path[-1] - path[0]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-9)
    helper = np.array([1.0, 0, 0]) if abs(axis[2]) > 0.7 else np.array([0, 0, 1.0])
    u = _cross(axis, helper)
    u /= np.linalg.norm(u)
    v = _cross(axis, u)
    angle = np.arange(corners) * (2 * np.pi / corners)
    circle = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
    rings = path[:, None] + np.asarray(radii, np.float64)[:, None, None] * circle
    return np.concatenate([strips(rings), fan(rings[-1])])


def cylinder(radius: float, bottom: float, top: float, corners: int = 6, taper: float = 1.0) -> np.ndarray:
    """An upright cylinder about the z axis; ``taper`` scales its upper radius: triangles (T,3,3)."""
    return tube(np.array([[0, 0, bottom], [0, 0, top]]), (radius, radius * taper), corners)


@lru_cache(maxsize=16)
def _unit_ball(corners: int) -> np.ndarray:
    """A coarse unit ball: triangles (T,3,3)."""
    angle = np.arange(corners) * (2 * np.pi / corners)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    rings = np.stack(
        [
            np.concatenate([np.cos(b) * circle, np.full((corners, 1), np.sin(b))], axis=1)
            for b in np.radians([-60.0, 0.0, 60.0])
        ]
    )
    return np.concatenate([strips(rings), fan(rings[0]), fan(rings[-1])])


def ellipsoid(radii: Sequence[float], center: Sequence[float] | np.ndarray, corners: int = 6) -> np.ndarray:
    """A coarse ellipsoid with half axes ``radii`` (3,): triangles (T,3,3)."""
    return _unit_ball(corners) * np.asarray(radii, np.float32) + np.asarray(center, np.float32)


def balls(centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Very coarse balls about ``centers`` (B,3) with ``radii`` (B,): triangles (T,3,3)."""
    return (_unit_ball(4) * radii[:, None, None, None] + centers[:, None, None]).reshape(-1, 3, 3).astype(np.float32)


def spikes(root: np.ndarray, tips: np.ndarray, radius: float) -> np.ndarray:
    """Three-sided spikes from one ``root`` (3,) to several ``tips`` (B,3): triangles (3B,3,3)."""
    across = np.stack([tips[:, 1] - root[1], root[0] - tips[:, 0], np.zeros(len(tips))], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    up = np.broadcast_to([0.0, 0.0, 1.0], across.shape)
    corners = [root + radius * v for v in (across, 0.87 * up - 0.5 * across, -0.87 * up - 0.5 * across)]
    sides = [np.stack([corners[k], corners[(k + 1) % 3], tips], axis=1) for k in range(3)]
    return np.concatenate(sides).astype(np.float32)


def cards(rng: np.random.Generator, centers: np.ndarray, size: float) -> np.ndarray:
    """One randomly turned triangle of about ``size`` [m] at each centre (N,3): (N,3,3)."""
    corner = rng.normal(size=(len(centers), 3, 3)).astype(np.float32)
    corner -= corner.mean(axis=1, keepdims=True)
    corner /= np.maximum(np.linalg.norm(corner, axis=2, keepdims=True), 0.2)
    spread = size * rng.uniform(0.6, 1.3, size=(len(centers), 1, 1)).astype(np.float32)
    return centers[:, None].astype(np.float32) + corner * spread
