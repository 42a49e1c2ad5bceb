"""Points to pixels: a z-buffer of splats with shaded depth, in NumPy.

Light comes from *eye-dome lighting* (Boucheny, thesis, Grenoble 2009): a pixel is darker the farther its neighbours
stand in front of it. It needs no normals, which scans do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

CHUNK = 1 << 15  # points that are splatted at a time
LARGEST = 6  # px, radius of a splat
NEAR = 0.5  # m, points closer to the camera are left out


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from.

    Args:
        eye: position (3,) [m].
        target: what is in the middle of the picture (3,) [m].
        up: direction (3,) that is upwards in the picture.
        extent: of a perspective the angle [degrees] that the height of the picture sees, else that height [m].
        perspective: or parallel rays.
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    extent: float
    perspective: bool = True

    def project(self, coord: np.ndarray, width: int, height: int) -> tuple[np.ndarray, ...]:
        """Where points (N, 3) [m] are in a picture.

        Returns:
            x and y [px], depth [m] and pixels per metre there, float32 (N,) each.
        """
        eye = np.array(self.eye, np.float32)
        ahead = _unit(np.array(self.target) - self.eye)
        right = _unit(np.cross(ahead, self.up))
        axes = np.stack([right, np.cross(right, ahead), ahead]).astype(np.float32)
        x, y, depth = axes @ (coord.astype(np.float32, copy=False) - eye).T
        if self.perspective:
            safe = np.maximum(depth, NEAR)
            scale = (height / 2 / np.tan(np.radians(self.extent / 2)) / safe).astype(np.float32)
        else:
            scale = np.full(len(depth), height / self.extent, np.float32)
        return width / 2 + x * scale, height / 2 - y * scale, depth, scale


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@cache
def _disc(radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets x, y and distances [px] of the pixels of a disc, int64, int64 and float32 (K,)."""
    span = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(span, span, indexing="ij")
    distance = np.hypot(x, y).ravel().astype(np.float32)
    near = distance <= radius + 0.25
    return x.ravel()[near], y.ravel()[near], distance[near]


def nearest(camera: Camera, coord: np.ndarray, size: float, shape: tuple[int, int], least: float) -> tuple:
    """Which point each pixel shows.

    Args:
        camera: where from.
        coord: float32 (N, 3) [m].
        size: diameter of the points [m].
        shape: height and width [px].
        least: smallest radius [px].

    Returns:
        int32 (height, width), -1 where there is none, and the depths of the N points, float32 (N,) [m].
    """
    height, width = shape
    x, y, depth, scale = camera.project(coord, width, height)
    inside = (depth > NEAR) & (x > -LARGEST) & (x < width + LARGEST) & (y > -LARGEST) & (y < height + LARGEST)
    order = np.flatnonzero(inside)
    order = order[np.argsort(-depth[order], kind="stable")].astype(np.int32)
    radius = np.clip(scale * size / 2, least, LARGEST)
    pixels = np.full(height * width, -1, np.int32)
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        own = radius[rows]
        dx, dy, distance = _disc(int(np.ceil(own.max())))
        px = np.rint(x[rows]).astype(np.int64)[:, None] + dx
        py = np.rint(y[rows]).astype(np.int64)[:, None] + dy
        drawn = (distance <= own[:, None] + 0.25) & (px >= 0) & (px < width) & (py >= 0) & (py < height)
        # From far to near, and of two values for one pixel NumPy keeps the later one: that is the z-buffer.
        pixels[(py * width + px)[drawn]] = np.broadcast_to(rows[:, None], drawn.shape)[drawn]
    return pixels.reshape(shape), depth


def shade(depth: np.ndarray, perspective: bool, reach: int, strength: float) -> np.ndarray:
    """Eye-dome lighting of a depth buffer.

    Args:
        depth: float32 (H, W) [m], infinite where nothing is.
        perspective: compare the logarithms of the depths, so that what is far is shaded as what is near.
        reach: how far neighbours are [px].
        strength: 0 is none.

    Returns:
        float32 (H, W) factors in (0, 1].
    """
    with np.errstate(divide="ignore"):
        value = np.log2(depth) * 8 if perspective else depth
    padded = np.pad(value, reach, mode="edge")
    height, width = depth.shape
    total = np.zeros_like(value)
    known = np.isfinite(value)
    for dy in (-reach, 0, reach):
        for dx in (-reach, 0, reach):
            beside = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            with np.errstate(invalid="ignore"):
                total += np.where(known & np.isfinite(beside), np.clip(value - beside, 0, 1.5), 0)
    return np.exp(-strength * total / 8).astype(np.float32)


def draw(
    camera: Camera,
    coord: np.ndarray,
    colours: np.ndarray,
    shape: tuple[int, int],
    paper: np.ndarray,
    size: float = 0.1,
    oversample: int = 2,
) -> np.ndarray:
    """A picture of points.

    Args:
        camera: where from.
        coord: float32 (N, 3) [m].
        colours: float32 (N, 3) in [0, 1].
        shape: height and width [px].
        paper: float32 (3,) in [0, 1], where no points are.
        size: diameter of the points [m].
        oversample: pixels along an axis of which one is averaged.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = shape[0] * oversample, shape[1] * oversample
    index, depths = nearest(camera, coord, size, (height, width), 0.55 * oversample)
    drawn = index >= 0
    depth = np.where(drawn, depths[np.maximum(index, 0)], np.inf) if len(coord) else np.full((height, width), np.inf)
    light = shade(depth.astype(np.float32), camera.perspective, oversample, 1.6)
    picture = np.broadcast_to(paper.astype(np.float32), (height, width, 3)).copy()
    picture[drawn] = colours[index[drawn]] * light[drawn][:, None]
    blocks = picture.reshape(shape[0], oversample, shape[1], oversample, 3)
    return np.rint(blocks.mean(axis=(1, 3)) * 255).astype(np.uint8)


def ground_height(coord: np.ndarray) -> float:
    """Height of the ground near the scanner [m]: what a tenth of the points within 20 m lie below."""
    near = np.hypot(coord[:, 0], coord[:, 1]) < 20
    return float(np.percentile(coord[near if near.any() else slice(None), 2], 10))
