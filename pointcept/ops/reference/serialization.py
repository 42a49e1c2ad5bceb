"""Space-filling curve codes of voxel coordinates: Morton (z) and Hilbert order in three dimensions.

The Hilbert code is Skilling's (J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707,
2004). Skilling transforms one bit after the other; here his transform is run once, on a few short
paths, to find the finite automaton behind it (state × octant -> digit × state), and the code is then
read from a table three levels at a time: 6 look-ups for 16 bits instead of a launch per bit.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")
MAX_DEPTH = 16
_LEVELS = 3  # octree levels per table look-up
_BITS = 3 * _LEVELS


def morton_code(grid_coord: Tensor) -> Tensor:
    """Interleave the bits of voxel coordinates, x highest and z lowest in each triple.

    Args:
        grid_coord: (..., 3) integer, 0 <= value < 2**16.

    Returns:
        (...) int64 codes.
    """
    c = grid_coord.long()
    for shift, mask in (
        (16, 0x00FF0000FF),
        (8, 0x00F00F00F00F),
        (4, 0x0C30C30C30C3),
        (2, 0x249249249249),
    ):
        c = (c | (c << shift)) & mask
    return (c[..., 0] << 2) | (c[..., 1] << 1) | c[..., 2]


def _skilling(octants: np.ndarray) -> np.ndarray:
    """Hilbert indices of octree paths by Skilling's transform.

    Args:
        octants: (M, depth) octant of each level, x the highest bit.

    Returns:
        (M,) indices along the curve.
    """
    depth = octants.shape[1]
    place = 1 << np.arange(depth - 1, -1, -1)
    x = [((octants >> (2 - axis)) & 1) @ place for axis in range(3)]
    for level in range(depth - 1, 0, -1):
        q, low = 1 << level, (1 << level) - 1
        for axis in range(3):
            hit = (x[axis] & q) != 0
            swap = np.where(hit, 0, (x[0] ^ x[axis]) & low)
            x[0] = np.where(hit, x[0] ^ low, x[0] ^ swap)
            if axis:
                x[axis] = x[axis] ^ swap
    x[1] ^= x[0]
    x[2] ^= x[1]
    flip = np.zeros_like(x[0])
    for level in range(depth - 1, 0, -1):
        flip = np.where((x[2] >> level) & 1, flip ^ ((1 << level) - 1), flip)
    code = np.zeros_like(x[0])
    for level in range(depth - 1, -1, -1):
        for axis in range(3):
            code = (code << 1) | (((x[axis] ^ flip) >> level) & 1)
    return code


@functools.lru_cache(maxsize=1)
def hilbert_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Hilbert automaton, three levels at a time.

    Returns:
        ``digit`` (S * 512,) and ``state`` (S * 512,), indexed by state * 512 + nine bits of a Morton
        code, and ``start`` (3,): the state to start from so that -depth mod 3 leading zero levels
        lead to the curve's own first state.
    """
    tails = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(64, 2)
    found: dict[bytes, int] = {}
    prefixes: list[tuple[int, ...]] = []
    digits: list[list[int]] = []
    following: list[list[bytes]] = []

    def signature(prefix: tuple[int, ...]) -> np.ndarray:
        """The curve's index of all two-level continuations of a path: equal for equal states."""
        path = np.concatenate([np.tile(np.asarray(prefix, np.int64), (64, 1)).reshape(64, len(prefix)), tails], 1)
        return _skilling(path) % 64

    queue: list[tuple[int, ...]] = [()]
    while queue:
        prefix = queue.pop(0)
        code = signature(prefix)
        if code.tobytes() in found:
            continue
        found[code.tobytes()] = len(prefixes)
        prefixes.append(prefix)
        digits.append([int(code[8 * o]) // 8 for o in range(8)])
        children = [(*prefix, o) for o in range(8)]
        following.append([signature(child).tobytes() for child in children])
        queue.extend(children)
    step = np.array([[found[s] for s in row] for row in following])
    digit = np.array(digits)
    octant = np.arange(8**_LEVELS)
    state = np.repeat(np.arange(len(step))[:, None], 8**_LEVELS, 1)
    code = np.zeros_like(state)
    for level in range(_LEVELS - 1, -1, -1):
        o = np.broadcast_to((octant >> (3 * level)) & 7, state.shape)
        code = (code << 3) | digit[state, o]
        state = step[state, o]
    start = [0]
    for _ in range(_LEVELS - 1):
        start.append(int(np.flatnonzero(step[:, 0] == start[-1])[0]))
    assert (digit[start, 0] == 0).all(), "a leading zero level must leave the code unchanged"
    return code.reshape(-1), state.reshape(-1), np.array(start)


@functools.lru_cache(maxsize=8)
def _hilbert_tables_on(device: torch.device) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    digit, state, start = hilbert_tables()
    return torch.from_numpy(digit).to(device), torch.from_numpy(state).to(device), tuple(start.tolist())


def hilbert_from_morton(morton: Tensor, depth: int) -> Tensor:
    """Turn Morton codes into Hilbert codes.

    Args:
        morton: (...) int64 Morton codes of ``depth`` levels.
        depth: octree levels, 1 to 16.

    Returns:
        (...) int64 Hilbert codes.
    """
    digit, following, start = _hilbert_tables_on(morton.device)
    chunks = -(-depth // _LEVELS)
    state = torch.full_like(morton, start[chunks * _LEVELS - depth])
    code = torch.zeros_like(morton)
    for chunk in range(chunks - 1, -1, -1):
        entry = (state << _BITS) | ((morton >> (_BITS * chunk)) & (8**_LEVELS - 1))
        code = (code << _BITS) | digit[entry]
        state = following[entry]
    return code


def serialization_codes(grid_coord: Tensor, batch: Tensor, depth: int, orders: tuple[str, ...]) -> Tensor:
    """Codes of voxels along several space-filling curves: batch << 3·depth | curve code.

    Args:
        grid_coord: (N, 3) integer voxel coordinates, 0 <= value < 2**depth.
        batch: (N,) scan of each voxel.
        depth: octree levels, 1 to 16.
        orders: names out of :data:`ORDERS`.

    Returns:
        (len(orders), N) int64 codes.
    """
    swapped = [order.endswith("-trans") for order in orders]
    axes = {False: [0, 1, 2], True: [1, 0, 2]}
    variants = sorted(set(swapped))
    morton = morton_code(torch.stack([grid_coord[:, axes[s]] for s in variants]))
    hilbert = hilbert_from_morton(morton, depth) if any(o.startswith("hilbert") for o in orders) else morton
    rows = [
        (hilbert if order.startswith("hilbert") else morton)[variants.index(s)]
        for order, s in zip(orders, swapped, strict=True)
    ]
    return torch.stack(rows) | (batch.long() << (3 * depth))
