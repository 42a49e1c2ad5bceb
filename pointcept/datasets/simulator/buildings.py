"""Houses, facades, walls, fences and guard rails."""

from __future__ import annotations

import numpy as np

from .shapes import Mesh, box, fan, quads, tube
from .surfaces import Kind, Material


def _window_panes(rng: np.random.Generator, width: float, height: float, storey: float) -> np.ndarray:
    """Panes on the plane x = 0 of a wall along y, its lower left corner at the origin: quads (Q,4,3)."""
    pitch, pane, rows = rng.uniform(2.2, 3.4), rng.uniform(0.9, 1.5), max(int(height / storey), 1)
    columns = max(int((width - 0.8) / pitch), 1)
    y = (np.arange(columns) + 0.5) * (width / columns) - 0.5 * pane
    z = np.arange(rows) * storey + 0.9
    yy, zz = (v.ravel() for v in np.meshgrid(y, z))
    keep = rng.uniform(size=len(yy)) < 0.85
    yy, zz = yy[keep], zz[keep]
    tall = rng.uniform(1.1, 1.6)
    corner = [(0, 0), (pane, 0), (pane, tall), (0, tall)]
    return np.stack([np.stack([np.zeros_like(yy), yy + a, zz + b], 1) for a, b in corner], axis=1)


def _walls_with_windows(
    rng: np.random.Generator, depth: float, width: float, height: float, storey: float
) -> list[Mesh]:
    """Four walls about the origin (x: depth, y: width) with panes slightly proud of them."""
    walls = box((depth, width, height + 1.0), (0, 0, 0.5 * height - 0.5))
    panes = []
    for yaw, across, reach in (
        (0.0, width, depth),
        (np.pi, width, depth),
        (np.pi / 2, depth, width),
        (-np.pi / 2, depth, width),
    ):
        p = np.add(_window_panes(rng, across, height, storey), [0.5 * reach + 0.03, -0.5 * across, 0])
        c, s = np.cos(yaw), np.sin(yaw)
        panes.append(p @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]))
    return [
        Mesh.of(walls, Kind.BUILDING, Material.PLASTER),
        Mesh.of(quads(np.concatenate(panes)), Kind.BUILDING, Material.GLASS),
    ]


def house(rng: np.random.Generator, depth: float, width: float, height: float) -> Mesh:
    """A house about the origin, ``depth`` along x, ``width`` along y, with a gabled roof [m]."""
    parts = _walls_with_windows(rng, depth, width, height, rng.uniform(2.6, 3.0))
    over, rise = 0.4, rng.uniform(0.25, 0.5) * depth
    x, y = 0.5 * depth + over, 0.5 * width + over
    ridge = np.array([[0, -y, height + rise], [0, y, height + rise]])
    eaves = np.array([[x, -y, height], [x, y, height], [-x, y, height], [-x, -y, height]])
    slopes = quads(np.array([[eaves[0], eaves[1], ridge[1], ridge[0]], [eaves[2], eaves[3], ridge[0], ridge[1]]]))
    gables = [fan(np.array([eaves[0], ridge[0], eaves[3]])), fan(np.array([eaves[1], ridge[1], eaves[2]]))]
    porch = box((1.4, 2.0, 0.25), (0.5 * depth + 0.7, rng.uniform(-0.3, 0.3) * width, 2.4))
    step = box((1.0, 1.6, 0.4), (0.5 * depth + 0.5, rng.uniform(-0.3, 0.3) * width, 0.1))
    extra = np.concatenate([slopes, *gables, porch, step])
    return Mesh.join([*parts, Mesh.of(extra, Kind.BUILDING, Material.PLASTER)])


def block(rng: np.random.Generator, depth: float, width: float, height: float) -> Mesh:
    """A town building about the origin with a flat roof, cornices and some balconies [m]."""
    storey = rng.uniform(2.9, 3.4)
    parts = _walls_with_windows(rng, depth, width, height, storey)
    extra = [box((depth + 0.5, width + 0.1, 0.35), (0, 0, height))]
    for level in range(1, int(height / storey)):
        if rng.uniform() < 0.3:
            extra.append(box((depth + 0.3, width, 0.15), (0, 0, level * storey)))
        elif rng.uniform() < 0.5:
            for y in np.arange(-0.5 * width + 2.0, 0.5 * width - 1.5, rng.uniform(4.0, 7.0)):
                extra.append(box((1.0, 2.2, 1.1), (0.5 * depth + 0.5, y, level * storey + 0.4)))
    return Mesh.join([*parts, Mesh.of(np.concatenate(extra), Kind.BUILDING, Material.PLASTER)])


def fence(rng: np.random.Generator, length: float, style: str) -> Mesh:
    """A fence along x from the origin over ``length`` [m].

    ``style`` is ``pickets``, ``wall``, ``wire``, ``boards``, ``guard_rail`` or ``railing``.
    """
    height = {"pickets": 1.0, "wall": 1.1, "wire": 1.5, "boards": 1.7, "guard_rail": 0.75, "railing": 1.05}[style]
    height *= float(rng.uniform(0.85, 1.25)) if style != "guard_rail" else 1.0
    mid, thin = 0.5 * length, Material.STEEL
    if style == "wall":
        return Mesh.of(box((length, 0.25, height + 0.5), (mid, 0, 0.5 * height - 0.25)), Kind.FENCE, Material.PLASTER)
    if style == "boards":
        return Mesh.of(box((length, 0.05, height), (mid, 0, 0.5 * height + 0.05)), Kind.FENCE, Material.BARK)
    posts = [
        box((0.08, 0.08, height + 0.3), (x, 0, 0.5 * height - 0.15))
        for x in np.arange(0, length + 0.01, max(length, 0.5))
    ]
    if style == "wire":
        sheet = quads(np.array([[0, 0, 0.05], [length, 0, 0.05], [length, 0, height], [0, 0, height]]))
        return Mesh.join([Mesh.of(sheet, Kind.FENCE, Material.MESH), Mesh.of(np.concatenate(posts), Kind.FENCE, thin)])
    if style == "guard_rail":
        rail = box((length, 0.09, 0.31), (mid, 0, 0.58))
        return Mesh.of(np.concatenate([rail, *posts]), Kind.FENCE, thin)
    rails = [box((length, 0.05, 0.07), (mid, 0, z)) for z in ((0.25, 0.95) if style == "pickets" else (0.15, 0.98))]
    pitch, bar = (0.16, 0.08) if style == "pickets" else (0.14, 0.03)
    x = np.arange(0, length, pitch)
    z0, z1 = np.zeros_like(x) + 0.05, np.full_like(x, height)
    zero = np.zeros_like(x)
    corner = [(x, z0), (x + bar, z0), (x + bar, z1), (x, z1)]
    bars = quads(np.stack([np.stack([a, zero, b], 1) for a, b in corner], axis=1))
    wood = Material.BARK if style == "pickets" else thin
    return Mesh.of(np.concatenate([bars, *rails, *posts]), Kind.FENCE, wood)


def garden_wall_gate(rng: np.random.Generator) -> Mesh:
    """Two gate posts 3 m apart along x."""
    posts = [tube(np.array([[x, 0, -0.2], [x, 0, rng.uniform(1.0, 1.5)]]), (0.2, 0.2), 4) for x in (0.0, 3.0)]
    return Mesh.of(np.concatenate(posts), Kind.FENCE, Material.PLASTER)
