"""The index tables that an exported network reads beside the features: neighbours, patches, poolings.

    octree = Octree(grid, orders=("z", "z-trans"), strides=(2, 2))
    tables = {name: octree.table(name) for name in card.tables}

The rows of level 0 are those of ``grid``; a coarser level has one row for each of its voxels, ascending along the first
order. The names of tables, with level l, order o, kernel size k and patch size p:

    neighbours.l.k   (N, k³)    row in each cell of the kernel, x slowest and z fastest; N where no voxel lies
    rows.l.o.p       (P, p)     row in each slot of each patch along an order; (1, N) where N <= p
    slot.l.o         (N,)       slot that gives a row its result
    children.l       (M, c)     rows of level l in each row of level l + 1, by their place in it; N where there is none
    parent.l         (N,)       row of level l + 1 that a row of level l lies in
    place.l          (N,)       parent · c + the place in it
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from pointcept_runtime.curves import MAX_DEPTH, ORDERS, curve_codes, morton
from pointcept_runtime.errors import ScanError

MAX_LEVELS, MAX_STRIDE, MAX_KERNEL, MAX_PATCH = 12, 8, 7, 1 << 16
_AXIS_BITS = 17  # coordinates have at most 16 bits; one more leaves room for the kernel's margin
_NAME = re.compile(
    r"(?P<kind>neighbours|rows|slot|children|parent|place)\.(?P<level>\d{1,2})"
    r"(?:\.(?P<order>[a-z-]+))?(?:\.(?P<size>\d{1,5}))?"
)
_PARTS = {
    "neighbours": (False, True),
    "rows": (True, True),
    "slot": (True, False),
    "children": (False, False),
    "parent": (False, False),
    "place": (False, False),
}  # which have an order, and which a size


@dataclass(frozen=True)
class Table:
    """What the name of a table says; ``order`` and ``size`` are empty where the kind has none."""

    kind: str
    level: int
    order: str = ""
    size: int = 0

    def __str__(self) -> str:
        parts = [self.kind, self.level, *([self.order] if self.order else []), *([self.size] if self.size else [])]
        return ".".join(map(str, parts))


def parse_table(name: str, orders: tuple[str, ...], strides: tuple[int, ...]) -> Table:
    """Read the name of a table of a network with these orders and strides.

    Raises:
        ValueError: it is no such name; the message says why.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no name of a table")
    table = Table(match["kind"], int(match["level"]), match["order"] or "", int(match["size"] or 0))
    if str(table) != name or _PARTS[table.kind] != (bool(table.order), bool(table.size)):
        raise ValueError(f"{name!r} is no name of a table")
    last = len(strides) - (table.kind in ("children", "parent", "place"))
    if table.level > last:
        raise ValueError(f"{name!r} is of level {table.level}, the last one is {last}")
    if table.order and table.order not in orders:
        raise ValueError(f"{name!r} is of an order that is not among {', '.join(orders)}")
    if table.kind == "neighbours" and (table.size % 2 == 0 or table.size > MAX_KERNEL):
        raise ValueError(f"{name!r}: kernel sizes are odd and at most {MAX_KERNEL}")
    if table.kind == "rows" and table.size > MAX_PATCH:
        raise ValueError(f"{name!r}: patches have at most {MAX_PATCH} rows")
    return table


@dataclass
class _Level:
    """One resolution: voxel coordinates (N, 3), and for each order the codes (N,) and rows along it (N,)."""

    grid: np.ndarray
    codes: dict[str, np.ndarray]
    along: dict[str, np.ndarray]
    neighbours: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.grid)


class Octree:
    """The voxels of one scan at all resolutions of a network.

    Args:
        grid: (N, 3) integer voxel coordinates >= 0, each voxel once.
        orders: serialization orders of the network, out of ``ORDERS``; the first one sorts the rows of coarse levels.
        strides: downsampling factor from each level to the next, powers of two.

    Raises:
        ScanError: no voxel, a negative coordinate, one beyond the depth of the curves, or a voxel that occurs twice.
    """

    def __init__(self, grid: np.ndarray, orders: tuple[str, ...], strides: tuple[int, ...]) -> None:
        assert set(orders) <= set(ORDERS), f"unknown orders {orders}"
        grid = np.asarray(grid)
        if grid.ndim != 2 or grid.shape[1] != 3 or grid.dtype.kind not in "iu" or len(grid) == 0:
            raise ScanError(f"voxels must be integers (N, 3), N > 0; got {grid.dtype} {grid.shape}")
        lowest, largest = int(grid.min()), int(grid.max())
        if lowest < 0 or (largest + 1).bit_length() > MAX_DEPTH:
            raise ScanError(f"voxel coordinates go from {lowest} to {largest}, allowed is 0 to {2**MAX_DEPTH - 2}")
        grid = grid.astype(np.int64, copy=False)
        depth = max(1, (largest + 1).bit_length())
        codes = curve_codes(grid, depth, orders)
        self.orders = orders
        self._steps = [int(stride).bit_length() - 1 for stride in strides]
        finest = _Level(grid, codes, {order: np.argsort(code, kind="stable") for order, code in codes.items()})
        code = codes[orders[0]][finest.along[orders[0]]]
        if (code[1:] == code[:-1]).any():
            raise ScanError("a voxel occurs twice")
        self.levels, self.parents = [finest], []
        for step in self._steps:
            coarse, parent = self._coarsen(self.levels[-1], step)
            self.levels.append(coarse)
            self.parents.append(parent)

    def _coarsen(self, fine: _Level, step: int) -> tuple[_Level, np.ndarray]:
        """Merge the voxels that share a cube of 2**step voxels; also the coarse row of every fine one."""
        ranks = {}
        for order in self.orders:
            code = fine.codes[order][fine.along[order]] >> (3 * step)
            ranks[order] = np.cumsum(np.concatenate([[False], code[1:] != code[:-1]]))
        first = self.orders[0]
        parent = np.empty_like(fine.along[first])
        parent[fine.along[first]] = ranks[first]
        total = int(ranks[first][-1]) + 1
        grid = np.empty((total, 3), np.int64)
        grid[parent] = fine.grid >> step
        codes, along = {}, {}
        for order in self.orders:
            codes[order], along[order] = np.empty(total, np.int64), np.empty(total, np.int64)
            codes[order][parent] = fine.codes[order] >> (3 * step)
            along[order][ranks[order]] = parent[fine.along[order]]
        return _Level(grid, codes, along), parent

    def table(self, name: str | Table) -> np.ndarray:
        """One of the tables, int32; see the module."""
        table = name if isinstance(name, Table) else parse_table(name, self.orders, tuple(1 << s for s in self._steps))
        level = self.levels[table.level]
        if table.kind == "neighbours":
            return self._neighbours(level, table.size)
        if table.kind == "rows":
            return patches(level.along[table.order], table.size)
        if table.kind == "slot":
            slot = np.empty(len(level), np.int32)
            slot[level.along[table.order]] = np.arange(len(level), dtype=np.int32)
            return slot
        parent = self.parents[table.level]
        if table.kind == "parent":
            return parent.astype(np.int32)
        step = self._steps[table.level]
        cells, cell = 8**step, morton(level.grid & ((1 << step) - 1))
        if table.kind == "place":
            return (parent * cells + cell).astype(np.int32)
        children = np.full((len(self.levels[table.level + 1]), cells), len(level), np.int32)
        children[parent, cell] = np.arange(len(level), dtype=np.int32)
        return children

    def _neighbours(self, level: _Level, kernel_size: int) -> np.ndarray:
        """Neighbours in a kernel; those of a smaller one are the centre of those of a larger one."""
        if kernel_size not in level.neighbours:
            larger = min((k for k in level.neighbours if k > kernel_size), default=None)
            if larger is None:
                level.neighbours[kernel_size] = neighbours(level.grid, kernel_size)
            else:
                side = slice((larger - kernel_size) // 2, (larger + kernel_size) // 2)
                cube = level.neighbours[larger].reshape(len(level), larger, larger, larger)
                level.neighbours[kernel_size] = cube[:, side, side, side].reshape(len(level), -1)
        return level.neighbours[kernel_size]

    def tables(self, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Several tables by name, contiguous; larger kernels first, whose maps hold those of the smaller ones."""
        strides = tuple(1 << s for s in self._steps)
        parsed = {name: parse_table(name, self.orders, strides) for name in names}
        made = {n: self.table(parsed[n]) for n in sorted(names, key=lambda n: -parsed[n].size)}
        return {name: np.ascontiguousarray(made[name]) for name in names}


def neighbours(grid: np.ndarray, kernel_size: int) -> np.ndarray:
    """Neighbours of every voxel inside a cubic kernel.

    For each column of the kernel one binary search in the sorted keys finds its first cell; the cells above it are
    met by walking along the keys.

    Args:
        grid: (N, 3) int64 voxel coordinates >= 0, each voxel once.
        kernel_size: odd edge k.

    Returns:
        (N, k³) int32 rows, N where no voxel lies.
    """
    n, radius = len(grid), kernel_size // 2
    c = grid + radius
    key = (((c[:, 0] << _AXIS_BITS) | c[:, 1]) << _AXIS_BITS) | c[:, 2]
    ascending = bool((key[1:] > key[:-1]).all())
    row = np.arange(n, dtype=np.int32) if ascending else np.argsort(key).astype(np.int32)
    key = key if ascending else key[row]
    rows = np.append(row, np.int32(n))  # one more, for what lies behind the last key
    keys = np.append(key, np.iinfo(np.int64).max)
    found = np.empty((n, kernel_size**3), np.int32)
    cell = 0
    for x in range(-radius, radius + 1):
        for y in range(-radius, radius + 1):
            query = key + ((x << 2 * _AXIS_BITS) + (y << _AXIS_BITS) - radius)
            place = np.searchsorted(key, query)
            for z in range(kernel_size):
                hit = keys[place] == query + z
                found[:, cell] = np.where(hit, rows[place], n)
                place += hit
                cell += 1
    if ascending:
        return found
    out = np.empty_like(found)
    out[row] = found
    return out


def patches(along: np.ndarray, patch_size: int) -> np.ndarray:
    """Fill patches with the rows of a scan.

    Args:
        along: (N,) rows along a curve.
        patch_size: rows of a patch.

    Returns:
        (P, patch_size) int32. A last patch of r < patch_size rows is completed by those at the positions r and up of
        the patch before it; a scan of N <= patch_size rows is one patch (1, N).
    """
    n = len(along)
    if n <= patch_size:
        return along[None].astype(np.int32)
    position = np.arange(-(-n // patch_size) * patch_size)
    position[n:] -= patch_size
    return along[position].astype(np.int32).reshape(-1, patch_size)
