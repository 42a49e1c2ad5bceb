"""An order of a neighbour map's rows in which those that use the same kernel cells stand together.

A tile of a sparse convolution computes every cell that any of its rows uses. On LiDAR scans neighbouring voxels use
different cells: a tile of 64 rows along the Morton curve uses 9 to 26 of 27 cells, one in this order 4 to 15.
Sorting rows by their cells is an idea of spconv's masked implicit products. Here the key is short, so that the sort
takes two passes: of kernel size 3 opposite cells share a bit, since what has a neighbour on one side often has one on
the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

MOST_CELLS = 27
CODES = 1 << 13  # an int16 holds that many for eight maps
# Kernel size 3: bit of each pair of cells, four bits a pair from cell 0 on; pairs that are seldom used stand highest.
_PLACES = sum(
    place << (4 * pair) for place, pair in enumerate((4, 10, 1, 7, 12, 3, 5, 9, 11, 0, 2, 6, 8))
)  # pairs by their step along z, then by their distance
_BLOCK = 256


@triton.jit(do_not_specialize=["n", "m", "base", "row_stride", "cell_stride"])
def _keys_kernel(
    index_ptr,
    count_ptr,
    out_ptr,
    n,
    m,
    base,
    row_stride,
    cell_stride,
    CELLS: tl.constexpr,
    PLACES: tl.constexpr,
    COUNTED: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < n
    place = index_ptr + row * row_stride
    code = tl.zeros((BLOCK,), dtype=tl.int32)
    if CELLS == 27:
        for cell in tl.static_range(13):
            used = tl.load(place + cell * cell_stride, mask=inside, other=m) < m
            used = used | (tl.load(place + (26 - cell) * cell_stride, mask=inside, other=m) < m)
            code |= used.to(tl.int32) << ((PLACES >> (4 * cell)) & 15)
    else:
        for cell in tl.static_range(CELLS):
            code |= (tl.load(place + cell * cell_stride, mask=inside, other=m) < m).to(tl.int32) << cell
    # Gray's order: rows that follow each other differ in few cells.
    code = code ^ (code >> 1)
    code = code ^ (code >> 2)
    code = code ^ (code >> 4)
    code = code ^ (code >> 8)
    if COUNTED:
        code = tl.where(row < tl.load(count_ptr), code, LAST)
    tl.store(out_ptr + row, (code + base).to(tl.int16), mask=inside)


def _write_keys(
    index: torch.Tensor, strides: tuple[int, int], m: int, out: torch.Tensor, base: int, count: torch.Tensor | None
) -> None:
    cells = index.numel() // len(out)
    with torch.cuda.device(index.device):
        _keys_kernel[(triton.cdiv(len(out), _BLOCK),)](
            index, index if count is None else count, out, len(out), m, base, *strides, cells, _PLACES,
            count is not None, CODES - 1, _BLOCK,
        )  # fmt: skip


def has_order(cells: int) -> bool:
    """Whether rows of maps with so many kernel cells can be ordered."""
    return cells == MOST_CELLS or cells <= CODES.bit_length() - 1


def row_order(index: torch.Tensor, m: int) -> torch.Tensor:
    """An order of the rows of one map.

    Args:
        index: (N, K) int32 input row of every kernel cell, ``m`` or more where there is none; K = 27 or at most 13.
        m: number of input rows.

    Returns:
        (N,) int64 permutation of the rows.
    """
    keys = torch.empty(len(index), dtype=torch.int16, device=index.device)
    _write_keys(index, index.stride(), m, keys, 0, None)
    return keys.sort(stable=True).indices


def row_orders(maps: Sequence[torch.Tensor], counts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Orders of the rows of several maps of kernel size 3, from one sort.

    Args:
        maps: (27, N) int32 each, N or more where no voxel lies; at most 8.
        counts: (1,) int32 real rows of each.

    Returns:
        (N,) int32 permutations; rows of padding come last.
    """
    sizes = [index.shape[1] for index in maps]
    keys = torch.empty(sum(sizes), dtype=torch.int16, device=maps[0].device)
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    for i, (index, count) in enumerate(zip(maps, counts, strict=True)):
        out = keys[begins[i] : begins[i] + sizes[i]]
        _write_keys(index, (1, index.shape[1]), index.shape[1], out, i * CODES - (1 << 15), count)
    order = keys.sort(stable=True).indices.int()
    return [part - begin if begin else part for part, begin in zip(order.split(sizes), begins, strict=True)]
