"""The voxels of a batch of scans: codes, orders, neighbours, patches, and the coarser grids below them.

Nothing here depends on features or weights, so one :class:`GridPyramid` serves every layer of a network
and every network that reads the same batch (teacher and student). Each resolution is sorted once per
order, at the finest level; coarser orders follow from it. Two small transfers bring the sizes of all
levels to the host; nothing else waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pointcept.ops import api as ops
from pointcept.structures.octree_plan import level_shifts, per_scan
from pointcept.utils.errors import DataError, did_you_mean


@dataclass
class Pooling:
    """Which rows of a fine grid lie in which row of a coarse one.

    Attributes:
        cluster: (N,) coarse row of every fine row.
        permutation: (N,) fine rows sorted by coarse row.
        lengths: (M,) fine rows in every coarse row.
        strided_maps: maps of a strided convolution and its inverse, once a layer has asked for them.
        fine_real: (1,) int32 number of fine rows that are voxels, the first ones; None where all are.
        coarse_real: the same of the coarse grid.
    """

    cluster: Tensor
    permutation: Tensor
    lengths: Tensor
    strided_maps: tuple[Tensor, Tensor] | None = None
    fine_real: Tensor | None = None
    coarse_real: Tensor | None = None


@dataclass
class CopyMaps:
    """Maps of a submanifold convolution over N rows of which R are copies of D voxels.

    It computes N + D rows: a copy reads itself alone, through the kernel's centre; what is around each voxel
    that has copies is computed once, in the D rows at the end.

    Attributes:
        index: (N + D, K) int32 input row of every kernel cell, N where there is none.
        copies: (R,) the rows that are copies.
        around: (R,) row of the result, N or more, that belongs to each of them.
        transpose: makes ``transposed``, which only a gradient of the input asks for. It must not hold the object that
            keeps these maps: memory would be free only when Python looks for cycles.
    """

    index: Tensor
    copies: Tensor
    around: Tensor
    transpose: Callable[[], Tensor]

    @cached_property
    def transposed(self) -> Tensor:
        """(N, K) int32 row of the result that reads each input row, N + D where there is none."""
        return self.transpose()

    def without_gradient(self, rows: int) -> Tensor:
        """In place of ``transposed`` where no gradient reaches the N input rows: none is read, and no memory taken."""
        return self.index.new_full((1, 1), len(self.index)).expand(rows, self.index.shape[1])


@dataclass
class Duplicates:
    """The distinct voxels of a grid in which some voxels occur more than once (scans mixed by Mix3D).

    Attributes:
        grid: the distinct voxels.
        group: (N,) distinct voxel of every row.
        representative: (M,) one row of every distinct voxel.
    """

    grid: VoxelGrid
    group: Tensor
    representative: Tensor
    _maps: dict[int, CopyMaps] = field(default_factory=dict)

    def maps(self, kernel_size: int) -> CopyMaps:
        """Maps of a convolution of all rows, copies among them; of a voxel with copies others see one."""
        if kernel_size not in self._maps:
            self._maps[kernel_size] = self._make_maps(self.grid.neighbours(kernel_size))
        return self._maps[kernel_size]

    def _make_maps(self, neighbours: Tensor) -> CopyMaps:
        n, voxels, centre = len(self.group), len(self.grid), neighbours.shape[1] // 2
        row = torch.arange(n, dtype=torch.int32, device=self.group.device)
        several = torch.bincount(self.group, minlength=voxels) > 1
        repeated = several.nonzero().flatten()
        copies = several.index_select(0, self.group).nonzero().flatten()
        end = n + len(repeated)
        result = self.representative.int()  # where what is around a voxel is computed
        result[repeated] = torch.arange(n, end, dtype=torch.int32, device=result.device)

        def rows_of(table: Tensor, missing: int) -> Tensor:
            padded = torch.cat([table, table.new_tensor([missing])])
            return padded.index_select(0, neighbours.flatten()).view_as(neighbours)

        index = rows_of(self.representative.int(), n).index_select(0, torch.cat([self.group, repeated]))
        index[copies] = n
        index[:n, centre], index[n:, centre] = row, n

        group, representative = self.group, self.representative

        def transpose() -> Tensor:
            second = torch.ones_like(row, dtype=torch.bool)
            second[representative] = False
            transposed = rows_of(result, end).flip(1).index_select(0, group)
            transposed.masked_fill_(second[:, None], end)
            transposed[:, centre] = row
            return transposed

        return CopyMaps(index, copies, result.long()[self.group[copies]], transpose)

    def mean(self, x: Tensor) -> Tensor:
        """Average of the features of equal voxels: (N, C) -> (M, C)."""
        size = torch.zeros(len(self.grid), 1, dtype=x.dtype, device=x.device)
        size.index_add_(0, self.group, torch.ones_like(x[:, :1]))
        return x.new_zeros(len(self.grid), x.shape[1]).index_add(0, self.group, x) / size


class VoxelGrid:
    """The voxels of a batch at one resolution.

    Attributes:
        grid_coord: (N, 3) int64 voxel coordinates >= 0.
        batch: (N,) int64 scan of each voxel, ascending.
        counts: voxels of each scan, on the host.
        codes: order -> (N,) int64 serialization code.
        stride: edge of a voxel in voxels of the finest grid.
        duplicates: the distinct voxels, or None where all are distinct.
        real: (1,) int32 number of rows that are voxels, the first ones; None where all are.
    """

    real: Tensor | None = None

    def __init__(
        self,
        grid_coord: Tensor,
        batch: Tensor,
        counts: list[int],
        codes: dict[str, Tensor],
        permutations: dict[str, Tensor],
        stride: int = 1,
    ) -> None:
        self.grid_coord = grid_coord
        self.batch = batch
        self.counts = counts
        self.codes = codes
        self.permutations = permutations
        self.stride = stride
        self.duplicates: Duplicates | None = None
        self._inverse: dict[str, Tensor] = {}
        self._patch_layouts: dict[int, Any] = {}
        self._patches: dict[tuple[str, int], ops.PatchPlan] = {}
        self._neighbours: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.grid_coord)

    def inverse(self, order: str) -> Tensor:
        """(N,) position of every row along ``order``."""
        if order not in self._inverse:
            rows = self.permutations[order]
            self._inverse[order] = torch.empty_like(rows).index_copy_(
                0, rows, torch.arange(len(rows), device=rows.device)
            )
        return self._inverse[order]

    def patches(self, order: str, patch_size: int) -> ops.PatchPlan:
        """Patches of ``patch_size`` points along ``order``."""
        key = (order, patch_size)
        if key not in self._patches:
            if patch_size not in self._patch_layouts:
                self._patch_layouts[patch_size] = self._patch_layout(patch_size)
            self._patches[key] = self._patch_plan(order, self._patch_layouts[patch_size])
        return self._patches[key]

    def _patch_layout(self, patch_size: int) -> Any:
        """What the patches of all orders have in common."""
        return ops.patch_layout(self.batch, self.counts, patch_size)

    def _patch_plan(self, order: str, layout: Any) -> ops.PatchPlan:
        return ops.patch_plan(self.permutations[order], self.inverse(order), layout)

    def neighbours(self, kernel_size: int) -> Tensor:
        """(N, kernel_size³) int32 neighbours of each voxel; the voxels must be distinct."""
        assert self.duplicates is None, "neighbours of duplicated voxels: ask duplicates.grid"
        if kernel_size not in self._neighbours:
            larger = min((k for k in self._neighbours if k > kernel_size), default=None)
            if larger is None:
                found = ops.submanifold_map(self.grid_coord, self.batch, kernel_size)
            else:
                cells = ops.centre_cells(larger, kernel_size, self.batch.device)
                found = self._neighbours[larger].index_select(1, cells)
            self._neighbours[kernel_size] = found
        return self._neighbours[kernel_size]

    def coarsen(self, first_order: str, depth: int, counts: list[int]) -> tuple[VoxelGrid, Pooling]:
        """Merge the voxels that share a cube of 2**depth voxels; rows ascend along ``first_order``.

        Args:
            first_order: the order whose codes sort the rows of the coarse grid.
            depth: octree levels to climb; 0 merges equal voxels only.
            counts: coarse voxels of each scan, on the host.
        """
        total, orders = sum(counts), list(self.permutations)
        rows = torch.stack([self.permutations[order] for order in orders])
        codes = torch.stack([self.codes[order] for order in orders]) >> (3 * depth)
        rank = _running_number(codes.gather(1, rows))
        place = orders.index(first_order)
        first = rows[place]
        cluster = torch.empty_like(first).index_copy_(0, first, rank[place])

        def of_clusters(values: Tensor) -> Tensor:
            return values.new_empty(total, *values.shape[1:]).index_copy_(0, cluster, values)

        own = cluster.index_select(0, rows.view(-1)).view_as(rows)
        permutations = rows.new_empty(len(orders), total).scatter_(1, rank, own)
        coarse = VoxelGrid(
            grid_coord=of_clusters(self.grid_coord >> depth),
            batch=of_clusters(self.batch),
            counts=counts,
            codes=dict(zip(orders, codes.new_empty(len(orders), total).index_copy_(1, cluster, codes), strict=True)),
            permutations=dict(zip(orders, permutations, strict=True)),
            stride=self.stride << depth,
        )
        lengths = torch.zeros(total, dtype=torch.int64, device=cluster.device)
        lengths.index_add_(0, cluster, torch.ones_like(cluster))
        return coarse, Pooling(cluster, first, lengths)


def _running_number(ascending: Tensor) -> Tensor:
    """(R, N) -> int64 number of each value among the distinct ones of its row, which is sorted."""
    changes = torch.zeros_like(ascending, dtype=torch.bool)
    torch.ne(ascending[:, 1:], ascending[:, :-1], out=changes[:, 1:])
    # One scan of all rows: CUDA scans several rows with one block each.
    number = changes.view(-1).cumsum(0).view_as(ascending)
    return number - number[:, :1]


class GridPyramid:
    """The voxel grids of all resolutions of a network, finest first.

    Args:
        grid_coord: (N, 3) integer voxel coordinates >= 0.
        offset: (B,) int64 cumulative ends of the scans.
        orders: serialization orders that the networks use, out of ``ops.ORDERS``.
        strides: downsampling factor from each level to the next, powers of two.

    Attributes:
        levels: the grids, ``len(strides) + 1`` of them.
        poolings: from each level to the next.
        fixed: whether arrays have room for more rows than there are, as a CUDA graph needs it.

    Raises:
        DataError: no voxel, an empty scan, a negative coordinate, or one beyond the serialization depth.
    """

    fixed = False

    def __init__(self, grid_coord: Tensor, offset: Tensor, orders: tuple[str, ...], strides: tuple[int, ...]) -> None:
        unknown = [order for order in orders if order not in ops.ORDERS]
        if unknown:
            raise DataError(f"unknown serialization order {unknown[0]!r}: {did_you_mean(unknown[0], ops.ORDERS)}")
        if any(s < 1 or s & (s - 1) for s in strides):
            raise DataError(f"strides must be powers of two, got {strides}")
        if len(grid_coord) == 0:
            raise DataError("the batch has no voxel")
        self.orders, self.strides = orders, strides
        grid_coord = grid_coord.long()
        extremes = torch.stack([grid_coord.amin(), grid_coord.amax()])
        *ends, lowest, largest = torch.cat([offset.to(extremes), extremes]).tolist()
        counts = per_scan(ends)
        self._check(len(grid_coord), counts, lowest, largest)
        depth = max(1, (largest + 1).bit_length())
        offset = offset.to(grid_coord)
        batch = torch.searchsorted(offset, torch.arange(len(grid_coord), device=grid_coord.device), right=True)
        codes = ops.serialization_codes(grid_coord, batch, depth, orders)
        permutations = codes.argsort(dim=1, stable=True)
        finest = VoxelGrid(
            grid_coord,
            batch,
            counts,
            codes=dict(zip(orders, codes, strict=True)),
            permutations=dict(zip(orders, permutations, strict=True)),
        )
        self.levels, self.poolings = self._build(finest, offset, depth)

    @staticmethod
    def _check(voxels: int, counts: list[int], lowest: int, largest: int) -> None:
        if sum(counts) != voxels or min(counts, default=0) < 1:
            raise DataError(
                f"offset must be the cumulative ends of non-empty scans and end at {voxels} voxels; "
                f"it describes scans of {counts} voxels"
            )
        if lowest < 0:
            raise DataError(f"grid_coord must be >= 0, got {lowest}: subtract the minimum of each scan")
        if (largest + 1).bit_length() > ops.MAX_DEPTH:
            raise DataError(
                f"grid_coord goes up to {largest}, but {ops.MAX_DEPTH} octree levels hold at most "
                f"{2**ops.MAX_DEPTH - 2}: use a larger grid_size, crop the scan (PointClip, SphereCrop) "
                "or look for outliers"
            )

    def _build(self, finest: VoxelGrid, offset: Tensor, depth: int) -> tuple[list[VoxelGrid], list[Pooling]]:
        first = self.orders[0]
        shifts = level_shifts(self.strides)
        code = finest.codes[first].index_select(0, finest.permutations[first])
        at_level = torch.stack([code >> (3 * min(shift, depth)) for shift in shifts])
        number = _running_number(at_level)
        last = (number.index_select(1, offset - 1) + 1).tolist()  # number of clusters up to the end of each scan
        counts = [per_scan(ends) for ends in last]
        if sum(counts[0]) < len(finest):
            distinct, pooling = finest.coarsen(first, 0, counts[0])
            finest.duplicates = Duplicates(
                grid=distinct,
                group=pooling.cluster,
                representative=pooling.permutation[pooling.lengths.cumsum(0) - pooling.lengths],
            )
        levels, poolings, climbed = [finest], [], 0
        for shift, level_counts in zip(shifts[1:], counts[1:], strict=True):
            shift = min(shift, depth)
            coarse, pooling = levels[-1].coarsen(first, shift - climbed, level_counts)
            climbed = shift
            levels.append(coarse)
            poolings.append(pooling)
        return levels, poolings

    @cached_property
    def _distinct(self) -> tuple[list[VoxelGrid], list[Pooling]]:
        duplicates = self.levels[0].duplicates
        if duplicates is None:
            return self.levels, self.poolings
        levels, poolings = [duplicates.grid, *self.levels[1:]], list(self.poolings)
        if poolings:
            cluster = poolings[0].cluster.index_select(0, duplicates.representative)
            lengths = torch.zeros_like(poolings[0].lengths).index_add_(0, cluster, torch.ones_like(cluster))
            # distinct voxels ascend along the first order, and so do the clusters they lie in
            poolings[0] = Pooling(cluster, torch.arange(len(cluster), device=cluster.device), lengths)
        return levels, poolings

    def distinct(self) -> tuple[list[VoxelGrid], list[Pooling]]:
        """Levels and poolings with every voxel of the finest grid once."""
        return self._distinct

    def serves(self, orders: tuple[str, ...], strides: tuple[int, ...]) -> bool:
        """Whether a network with these orders and strides can use this pyramid."""
        same_rows = self.orders[:1] == orders[:1]
        return same_rows and set(orders) <= set(self.orders) and strides == self.strides
