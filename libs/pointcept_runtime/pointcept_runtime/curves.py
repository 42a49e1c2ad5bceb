"""Codes of voxels along space-filling curves: Morton (z) and Hilbert order in three dimensions.

The Hilbert curve is Skilling's (J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707, 2004), read here as
the finite automaton that it is: state × octant -> digit × state, one look-up for each octree level.
"""

from __future__ import annotations

import functools

import numpy as np

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")
MAX_DEPTH = 16


def morton(grid: np.ndarray) -> np.ndarray:
    """Interleave the bits of voxel coordinates (N, 3), 0 <= value < 2**16, x highest -> (N,) int64."""
    c = grid.astype(np.int64)
    for shift, mask in ((16, 0x00FF0000FF), (8, 0x00F00F00F00F), (4, 0x0C30C30C30C3), (2, 0x249249249249)):
        c = (c | (c << shift)) & mask
    return (c[:, 0] << 2) | (c[:, 1] << 1) | c[:, 2]


def _skilling(path: np.ndarray) -> np.ndarray:
    """Hilbert indices (M,) of octree paths (M, depth), x the highest bit of each octant."""
    depth = path.shape[1]
    place = 1 << np.arange(depth - 1, -1, -1)
    axes = [((path >> (2 - axis)) & 1) @ place for axis in range(3)]
    for level in range(depth - 1, 0, -1):
        low = (1 << level) - 1
        for axis in range(3):
            inverts = (axes[axis] >> level) & 1 == 1
            exchange = np.where(inverts, 0, (axes[0] ^ axes[axis]) & low)
            axes[0] = np.where(inverts, axes[0] ^ low, axes[0] ^ exchange)
            if axis:
                axes[axis] ^= exchange
    axes[1] ^= axes[0]
    axes[2] ^= axes[1]
    flip = np.zeros_like(axes[0])
    for level in range(depth - 1, 0, -1):
        flip ^= ((axes[2] >> level) & 1) * ((1 << level) - 1)
    code = np.zeros_like(axes[0])
    for level in range(depth - 1, -1, -1):
        for axis in range(3):
            code = (code << 1) | (((axes[axis] ^ flip) >> level) & 1)
    return code


@functools.lru_cache(maxsize=1)
def _automaton() -> tuple[np.ndarray, np.ndarray]:
    """``digit`` and ``state``, (S * 8,) each, by state * 8 + octant; the curve begins in state 0.

    Two paths lead to one state if all their continuations by two levels have the same digits.
    """
    tails = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(64, 2)
    number: dict[bytes, int] = {}
    digits: list[np.ndarray] = []
    queue: list[tuple[int, ...]] = [()]
    links: list[list[bytes]] = []

    def continuations(prefix: tuple[int, ...]) -> np.ndarray:
        before = np.broadcast_to(np.array(prefix, np.int64), (64, len(prefix)))
        return _skilling(np.concatenate([before, tails], axis=1)) % 64

    for prefix in queue:  # it grows while states are found
        code = continuations(prefix)
        if code.tobytes() in number:
            continue
        number[code.tobytes()] = len(digits)
        digits.append(code[::8] // 8)
        children = [(*prefix, octant) for octant in range(8)]
        links.append([continuations(child).tobytes() for child in children])
        queue.extend(children)
    state = np.array([number[link] for row in links for link in row])
    return np.concatenate(digits), state


def hilbert(morton_code: np.ndarray, depth: int) -> np.ndarray:
    """Morton codes (N,) of ``depth`` levels -> Hilbert codes (N,) int64."""
    digit, following = _automaton()
    state, code = np.zeros_like(morton_code), np.zeros_like(morton_code)
    for level in range(depth - 1, -1, -1):
        entry = (state << 3) | ((morton_code >> (3 * level)) & 7)
        code = (code << 3) | digit[entry]
        state = following[entry]
    return code


def curve_codes(grid: np.ndarray, depth: int, orders: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Codes of voxels along several curves.

    Args:
        grid: (N, 3) integer voxel coordinates, 0 <= value < 2**depth.
        depth: octree levels, 1 to 16.
        orders: names out of ``ORDERS``; "-trans" exchanges x and y.

    Returns:
        order -> (N,) int64.
    """
    codes: dict[str, np.ndarray] = {}
    for order in orders:
        plain = morton(grid[:, [1, 0, 2]] if order.endswith("-trans") else grid)
        codes[order] = hilbert(plain, depth) if order.startswith("hilbert") else plain
    return codes
