"""Neighbour maps: which input row feeds which output row through which cell of a convolution kernel."""

from __future__ import annotations

import torch
from torch import Tensor

_AXIS_BITS = 17  # voxel coordinates have at most 16 bits; one more leaves room for the kernel's margin


def submanifold_map(grid_coord: Tensor, batch: Tensor, kernel_size: int) -> Tensor:
    """Find the neighbours of every voxel inside a cubic kernel.

    Voxels are sorted by a raster key once; for each (dx, dy) column of the kernel one binary search
    finds its first cell, and the cells above it are met by walking along the sorted keys.

    Args:
        grid_coord: (N, 3) integer voxel coordinates >= 0, each voxel of a scan once.
        batch: (N,) scan of each voxel.
        kernel_size: odd edge K of the kernel.

    Returns:
        (N, K³) int32 rows, kernel cells in x, y, z order with z fastest; N where no voxel lies.
    """
    n, radius = len(grid_coord), kernel_size // 2
    c = grid_coord.long() + radius
    key = (((batch.long() << _AXIS_BITS | c[:, 0]) << _AXIS_BITS) | c[:, 1]) << _AXIS_BITS | c[:, 2]
    key, row = key.sort()
    steps = torch.arange(-radius, radius + 1, device=key.device)
    column = ((steps[:, None] << 2 * _AXIS_BITS) + (steps << _AXIS_BITS)).reshape(-1, 1)
    query = key + column - radius  # (K², N): the lowest cell of each column
    position = torch.searchsorted(key, query, out_int32=True)
    neighbours = torch.empty(kernel_size**2, kernel_size, n, dtype=torch.int32, device=key.device)
    row32 = row.int()
    for z in range(kernel_size):
        place = position.clamp(max=n - 1)
        hit = key[place] == query + z
        neighbours[:, z] = torch.where(hit, row32[place], n)
        position += hit
    out = torch.empty(n, kernel_size**3, dtype=torch.int32, device=key.device)
    out[row] = neighbours.view(kernel_size**3, n).t()
    return out


def centre_cells(outer: int, inner: int, device: torch.device) -> Tensor:
    """Columns of a map of kernel size ``outer`` that form the map of the smaller odd size ``inner``.

    Returns:
        (inner³,) int64.
    """
    side = torch.arange((outer - inner) // 2, (outer + inner) // 2, device=device)
    return ((side[:, None, None] * outer + side[None, :, None]) * outer + side).reshape(-1)


def strided_maps(grid_coord: Tensor, parent: Tensor, parents: int) -> tuple[Tensor, Tensor]:
    """Maps of a convolution with kernel 2 and stride 2, and of its inverse.

    Args:
        grid_coord: (N, 3) fine voxel coordinates, each voxel of a scan once.
        parent: (N,) coarse row of every fine voxel.
        parents: number of coarse voxels M.

    Returns:
        ``children`` (M, 8) int32, fine rows under each coarse voxel in x, y, z order, N where none; and
        ``parent_cell`` (N, 8) int32, the coarse row in the cell of the fine voxel, M in the other cells.
    """
    n = len(grid_coord)
    bit = grid_coord.long() & 1
    cell = bit[:, 0] * 4 + bit[:, 1] * 2 + bit[:, 2]
    row = torch.arange(n, device=grid_coord.device, dtype=torch.int32)
    children = torch.full((parents, 8), n, dtype=torch.int32, device=grid_coord.device)
    children[parent, cell] = row
    parent_cell = torch.full((n, 8), parents, dtype=torch.int32, device=grid_coord.device)
    parent_cell[row.long(), cell] = parent.int()
    return children, parent_cell
