"""Morton and Hilbert codes of voxels along several orders, in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_KINDS = {"z": 0, "z-trans": 1, "hilbert": 2, "hilbert-trans": 3}


@triton.jit
def _spread(c):
    """Put two zero bits between the bits of a 16-bit number."""
    c = (c | (c << 16)) & 0x00FF0000FF
    c = (c | (c << 8)) & 0x00F00F00F00F
    c = (c | (c << 4)) & 0x0C30C30C30C3
    return (c | (c << 2)) & 0x249249249249


@triton.jit
def _morton(x, y, z):
    return (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)


@triton.jit
def _exchange(x, other, level):
    """One step of Skilling's transform for one axis: reflect x, or swap its lower bits with the other's."""
    low = (1 << level) - 1
    hit = (other >> level) & 1
    swap = tl.where(hit != 0, 0, (x ^ other) & low)
    return tl.where(hit != 0, x ^ low, x ^ swap), other ^ swap


@triton.jit
def _hilbert(x, y, z, depth):
    """Skilling's transform (AIP Conf. Proc. 707, 2004): axes -> axes whose Morton code is the Hilbert code."""
    for i in range(1, depth):
        level = depth - i
        x = tl.where(((x >> level) & 1) != 0, x ^ ((1 << level) - 1), x)
        x, y = _exchange(x, y, level)
        x, z = _exchange(x, z, level)
    y = y ^ x
    z = z ^ y
    flip = x ^ x
    for i in range(1, depth):
        level = depth - i
        flip = tl.where(((z >> level) & 1) != 0, flip ^ ((1 << level) - 1), flip)
    return x ^ flip, y ^ flip, z ^ flip


@triton.jit
def _curve_code(x, y, z, depth, KIND: tl.constexpr):
    """Code along one order; bit 0 of KIND swaps x and y, bit 1 chooses the Hilbert curve."""
    if KIND & 1:
        x, y = y, x
    if KIND & 2:
        x, y, z = _hilbert(x, y, z, depth)
    return _morton(x, y, z)


@triton.jit
def _codes_kernel(
    grid_ptr,
    batch_ptr,
    out_ptr,
    n,
    depth,
    ORDERS: tl.constexpr,
    KINDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    a = tl.load(grid_ptr + row * 3, mask=inside, other=0).to(tl.int64)
    b = tl.load(grid_ptr + row * 3 + 1, mask=inside, other=0).to(tl.int64)
    c = tl.load(grid_ptr + row * 3 + 2, mask=inside, other=0).to(tl.int64)
    prefix = tl.load(batch_ptr + row, mask=inside, other=0).to(tl.int64) << (3 * depth)
    for i in tl.static_range(ORDERS):
        code = _curve_code(a, b, c, depth, (KINDS >> (2 * i)) & 3)
        tl.store(out_ptr + i * n + row, prefix | code, mask=inside)


def serialization_codes(
    grid_coord: torch.Tensor, batch: torch.Tensor, depth: int, orders: tuple[str, ...]
) -> torch.Tensor:
    """Codes of voxels along several space-filling curves: batch << 3·depth | curve code.

    Args:
        grid_coord: (N, 3) integer on a CUDA device, 0 <= value < 2**depth.
        batch: (N,) integer scan of each voxel.
        depth: octree levels, 1 to 16.
        orders: out of ``z``, ``z-trans``, ``hilbert``, ``hilbert-trans``; trans swaps x and y.

    Returns:
        (len(orders), N) int64.
    """
    n, block = len(grid_coord), 256
    out = torch.empty(len(orders), n, dtype=torch.int64, device=grid_coord.device)
    kinds = sum(_KINDS[order] << (2 * i) for i, order in enumerate(orders))
    with torch.cuda.device(grid_coord.device):
        _codes_kernel[(triton.cdiv(n, block),)](
            grid_coord.contiguous(), batch.contiguous(), out, n, depth, len(orders), kinds, block
        )
    return out
