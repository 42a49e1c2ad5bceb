"""Closest hits of many rays with triangles, by Embree (through the embreex package)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

try:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError:  # the optional extra is missing: everything but ray casting still imports
    EmbreeScene = None


@dataclass(frozen=True)
class Hits:
    """Closest hits of N rays.

    Attributes:
        distance: (N,) float32 [m], infinite where the ray hits nothing.
        triangle: (N,) int32 index of the triangle, -1 where it hits nothing.
        u, v: (N,) float32 weights of the triangle's second and third corner.
    """

    distance: np.ndarray
    triangle: np.ndarray
    u: np.ndarray
    v: np.ndarray


class RayCaster:
    """Triangles (T,3,3) [m] indexed once and asked often."""

    def __init__(self, triangles: np.ndarray) -> None:
        if EmbreeScene is None:
            raise ImportError("the simulator casts rays with Embree: pip install 'embreex>=4.4' (extra 'simulator')")
        self.triangles = np.ascontiguousarray(triangles, np.float32)
        self._scene = EmbreeScene()
        if len(self.triangles):
            TriangleMesh(self._scene, self.triangles)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """Closest hit of the rays from ``origins`` (N,3) along unit ``directions`` (N,3)."""
        n = len(origins)
        if not len(self.triangles) or not n:
            zero = np.zeros(n, np.float32)
            return Hits(np.full(n, np.inf, np.float32), np.full(n, -1, np.int32), zero, zero)
        found = self._scene.run(
            np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32), output=True
        )
        triangle = found["primID"]
        distance = np.where(triangle >= 0, found["tfar"], np.float32(np.inf))
        return Hits(distance, triangle, found["u"], found["v"])


def unit_normals(triangles: np.ndarray) -> np.ndarray:
    """Unit normals (T,3) float32 of triangles (T,3,3); zero for degenerate ones."""
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return (normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)).astype(np.float32)
