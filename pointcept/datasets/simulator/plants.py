"""Trees, bushes, hedges and undergrowth: clouds of leaf-sized triangles that rays can enter."""

from __future__ import annotations

import numpy as np

from .shapes import Mesh, balls, box, cards, spikes, tube
from .surfaces import Kind, Material


def _blob_points(rng: np.random.Generator, centers: np.ndarray, radii: np.ndarray, count: int) -> np.ndarray:
    """``count`` points in the outer shells of balls at ``centers`` (B,3) with ``radii`` (B,): (count,3)."""
    which = rng.choice(len(centers), size=count, p=radii**2 / np.sum(radii**2))
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    reach = radii[which] * rng.uniform(0.35, 1.0, count) ** 0.5
    return centers[which] + direction * reach[:, None]


def tree(rng: np.random.Generator, height: float, detail: float = 1.0, clearance: float = 0.0) -> Mesh:
    """A broad-leaved tree of ``height`` [m]; its stem is a trunk, its limbs and leaves vegetation.

    ``detail`` scales the number of leaves; none hang lower than ``clearance`` [m].
    """
    clear = max(height * rng.uniform(0.14, 0.34), clearance)
    radius = 0.015 * height + rng.uniform(0.02, 0.08)
    lean = rng.normal(0, 0.04, 2) * clear
    fork = np.array([lean[0], lean[1], clear])
    stem_path = np.array([[0, 0, -0.3], [0, 0, 0.15], 0.5 * fork, fork])
    stem = tube(stem_path, (1.6 * radius, 1.15 * radius, radius, 0.9 * radius), 7)
    crown = 0.5 * (height - clear)
    width = crown * rng.uniform(0.6, 1.1)
    blobs = int(rng.integers(5, 10))
    offset = rng.normal(size=(blobs, 3)) * [0.5, 0.5, 0.5]
    centers = fork + [0, 0, crown * 0.95] + offset * [width, width, crown]
    centers[:, 2] = np.clip(centers[:, 2], clear + 0.25 * crown, None)
    radii = rng.uniform(0.4, 0.75, blobs) * width
    limbs = spikes(fork, centers, 0.5 * radius)
    points = _blob_points(rng, centers, radii, int(620 * detail))
    points[:, 2] = np.maximum(points[:, 2], clearance + rng.uniform(0, 0.8, len(points)))
    leaves = cards(rng, points, (0.15 + 0.012 * height) / detail**0.5)
    hearts = balls(centers, 0.4 * radii)
    return Mesh.join(
        [
            Mesh.of(hearts, Kind.VEGETATION, Material.LEAF),
            Mesh.of(stem, Kind.TRUNK, Material.BARK),
            Mesh.of(limbs, Kind.VEGETATION, Material.BARK),
            Mesh.of(leaves, Kind.VEGETATION, Material.LEAF),
        ]
    )


def conifer(rng: np.random.Generator, height: float) -> Mesh:
    """A conifer of ``height`` [m]: a thin trunk and a cone of needles down to knee height."""
    trunk = tube(np.array([[0, 0, -0.3], [0, 0, 0.7 * height]]), (0.02 * height, 0.008 * height), 5)
    level = rng.uniform(0, 1, 300)
    angle = rng.uniform(0, 2 * np.pi, 300)
    reach = 0.22 * height * (1 - level) * rng.uniform(0.5, 1.0, 300) + 0.1
    z = height * (0.08 + 0.92 * level) - 0.25 * reach
    needles = cards(rng, np.stack([reach * np.cos(angle), reach * np.sin(angle), z], 1), 0.028 * height + 0.15)
    return Mesh.join([Mesh.of(trunk, Kind.TRUNK, Material.BARK), Mesh.of(needles, Kind.VEGETATION, Material.LEAF)])


def bush(rng: np.random.Generator, width: float, height: float) -> Mesh:
    """A bush about ``width`` across and ``height`` high [m] with a dense heart."""
    blobs = int(rng.integers(3, 6))
    centers = np.concatenate(
        [rng.normal(0, 0.25 * width, (blobs, 2)), rng.uniform(0.3, 0.7, (blobs, 1)) * height], axis=1
    )
    radii = np.full(blobs, min(0.5 * height, 0.4 * width)) * rng.uniform(0.8, 1.1, blobs)
    leaves = cards(rng, _blob_points(rng, centers, radii, 130), 0.12 + 0.05 * width)
    return Mesh.of(np.concatenate([leaves, balls(centers, 0.55 * radii)]), Kind.VEGETATION, Material.LEAF)


def hedge(rng: np.random.Generator, length: float, height: float, width: float) -> Mesh:
    """A cut hedge along x with its start at the origin: a core under a coat of leaves [m]."""
    core = box((length, 0.55 * width, height * 0.9), (0.5 * length, 0, 0.45 * height))
    count = int(26 * length * (height + 0.5 * width))
    where = rng.uniform(0, 1, (count, 3)) * [length, 1, height]
    side = rng.choice([-1.0, 1.0], count) * rng.uniform(0.3, 0.52, count) * width
    on_top = rng.uniform(0, 1, count) < 0.5 * width / (height + 0.5 * width)
    where[:, 1] = np.where(on_top, rng.uniform(-0.5, 0.5, count) * width, side)
    where[:, 2] = np.where(on_top, height * rng.uniform(0.92, 1.06, count), where[:, 2])
    return Mesh.of(np.concatenate([core, cards(rng, where, 0.13)]), Kind.VEGETATION, Material.LEAF)


def undergrowth(rng: np.random.Generator, radius: float, height: float, density: float = 5.0) -> Mesh:
    """Tall weeds over a disc of ``radius`` [m]: upright leaves up to ``height`` [m]."""
    count = int(density * np.pi * radius**2)
    angle, reach = rng.uniform(0, 2 * np.pi, count), radius * np.sqrt(rng.uniform(0, 1, count))
    z = height * rng.uniform(0.1, 1.0, count) * np.sqrt(np.clip(1.15 - reach / radius, 0, 1))
    leaves = cards(rng, np.stack([reach * np.cos(angle), reach * np.sin(angle), z], 1), 0.16 + 0.06 * height)
    return Mesh.of(leaves, Kind.VEGETATION, Material.LEAF)
