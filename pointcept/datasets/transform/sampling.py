"""Transforms that choose points: voxel sampling, crops, dropout, shuffling.

All per-point entries stay aligned with ``coord``. All randomness comes from the global ``np.random``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.checks import check_choice, check_integer, check_number, check_numbers
from pointcept.utils.errors import ConfigError, DataError

from .points import (
    LABEL_KEYS,
    Sample,
    add_point_keys,
    check_resolution,
    child_generator,
    coord_of,
    narrow_coord,
    select_points,
)

MAX_VOXELS = (1 << 16) - 1
"""Voxels along an axis: the bit length of (largest grid coordinate + 1) may be 16, the depth of the curve codes."""


class Voxels(NamedTuple):
    """The points of a scan grouped by voxel; M voxels in ascending order of (x, y, z).

    ``order[starts[v] : starts[v] + counts[v]]`` are the points of voxel v, in the order of the scan.
    """

    grid: np.ndarray
    """int64 (3, N): voxel coordinates of every point, each axis starting at 0."""
    origin: np.ndarray
    """float64 (3,): the voxel (0, 0, 0) in units of voxels."""
    order: np.ndarray
    """int64 (N,): the points sorted by voxel."""
    starts: np.ndarray
    """int64 (M,)."""
    counts: np.ndarray
    """int64 (M,), >= 1."""

    def inverse(self) -> np.ndarray:
        """Voxel of every point, int64 (N,)."""
        inverse = np.empty(len(self.order), np.int64)
        inverse[self.order] = np.repeat(np.arange(len(self.starts)), self.counts)
        return inverse


def group_by_voxel(coord: np.ndarray, grid_size: float | Sequence[float]) -> Voxels:
    """Group points by the voxel floor(coord / grid_size).

    Args:
        coord: float (N, 3) [m], N >= 1.
        grid_size: edge of a voxel [m], one number or one per axis.

    Raises:
        DataError: coordinates are not finite, span more than ``MAX_VOXELS`` voxels along an axis, or are in float32 so
            far from the origin that it does not resolve an eighth of a voxel.
    """
    size = np.broadcast_to(np.asarray(grid_size, np.float64), (3,))[:, None]
    # Axis by axis from here on: rows of (3, N) are contiguous, columns of (N, 3) are not.
    # Float64: at 80 m a float32 quotient is only good to 1e-4 voxels.
    voxel = np.floor(np.ascontiguousarray(coord.T) / size)
    low, high = voxel.min(axis=1), voxel.max(axis=1)
    if coord.dtype == np.float32:
        check_resolution(low * size[:, 0], high * size[:, 0], float(size.min()) / 8)
    shape = high - low + 1
    if not (shape <= MAX_VOXELS).all():
        extent = [f"{s:.6g}" for s in (shape * size[:, 0])]
        raise DataError(
            f"GridSample: coordinates span {' x '.join(extent)} m, with grid_size {grid_size} m that is"
            f" {' x '.join(f'{s:.6g}' for s in shape)} voxels; at most {MAX_VOXELS} along an axis are allowed."
            " Remove far outliers or use a larger grid_size"
        )
    grid = (voxel - low[:, None]).astype(np.int64)
    _, ny, nz = shape.astype(np.int64).tolist()
    order, key = _sort((grid[0] * ny + grid[1]) * nz + grid[2], int(np.prod(shape)))
    starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    counts = np.diff(starts, append=len(key))
    return Voxels(grid, low, order, starts, counts)


def crowding_limit(counts: np.ndarray) -> int:
    """How many points a voxel may have in tests before it counts as crowded: 4 times what all but a thousandth of the
    voxels have, but at least 64 and at most 256.

    Args:
        counts: points of each voxel, int (M,), M >= 1.
    """
    usual = int(0.999 * (len(counts) - 1))
    return int(np.clip(4 * np.partition(counts, usual)[usual], 64, 256))


def thin_crowded(coord: np.ndarray, grid_size: float | Sequence[float]) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the points to keep where voxels hold more than :func:`crowding_limit`: as many, the first ones, as the
    fullest voxel that is not crowded has.

    Args:
        coord, grid_size: see :func:`group_by_voxel`.

    Returns:
        None if no voxel is crowded; else int64 (M,) ascending, the points to keep, and int64 (N,), for each point
        which of those stands for it: itself, or in a crowded voxel the points kept there in turn.
    """
    voxels = group_by_voxel(coord, grid_size)
    crowded = voxels.counts > crowding_limit(voxels.counts)
    if not crowded.any():
        return None
    most = voxels.counts[~crowded].max(initial=1)
    rank = np.arange(len(voxels.order)) - np.repeat(voxels.starts, voxels.counts)
    stand_in = np.empty_like(voxels.order)
    stand_in[voxels.order] = voxels.order[np.repeat(voxels.starts, voxels.counts) + rank % most]
    return np.unique(stand_in, return_inverse=True)


def _sort(key: np.ndarray, bound: int) -> tuple[np.ndarray, np.ndarray]:
    """Stable order of ``key`` (N,), int64 in [0, bound), and the sorted keys."""
    bits = len(key).bit_length()
    if bound.bit_length() + bits > 63:
        order = np.argsort(key, kind="stable")
        return order, key[order]
    # Sorting values is several times faster than an argsort, so the position rides in the low bits.
    packed = key << bits
    packed |= np.arange(len(key))
    packed.sort()
    return packed & ((1 << bits) - 1), packed >> bits


@TRANSFORMS.register_module()
class GridSample:
    """Voxel sampling: one random point per voxel, or fragments that together hold every point.

    With ``mode="train"`` a sample comes back with one point per voxel, drawn uniformly from the points
    of the voxel. With ``mode="test"`` a list of samples comes back: fragment i holds point i mod n of
    every voxel with n points, and each has an entry ``index`` (M,): its points' positions in the input
    (or, if the input has a per-point ``index``, the values of that).

    Voxels are compared exactly, never by a hash that may collide. They come in ascending order of
    (x, y, z).

    Args:
        grid_size: edge of a voxel [m], one number or one per axis.
        hash_type: "fnv" or "ravel", accepted for Pointcept's configs; no effect.
        mode: "train" or "test".
        keys: per-point entries besides those of ``index_valid_keys`` (configs of Pointcept up to 1.5).
        return_inverse: add ``inverse`` int64 (N,): the voxel of every input point.
        return_grid_coord: add ``grid_coord`` int64 (M, 3) >= 0.
        return_min_coord: add ``min_coord`` (1, 3) [m]: the corner of voxel (0, 0, 0), of the dtype of ``coord``.
        return_displacement: add ``displacement`` float32 (M, 3), from the voxel's centre, in [-0.5, 0.5] voxels.
        project_displacement: make it (M, 1), its component along ``normal``.

    Raises:
        ConfigError: an argument is wrong, or ``keys`` names an entry that the sample lacks.
        DataError: see :func:`group_by_voxel`.
    """

    def __init__(
        self,
        grid_size: float | Sequence[float] = 0.05,
        hash_type: str = "fnv",
        mode: str = "train",
        keys: Sequence[str] | None = None,
        return_inverse: bool = False,
        return_grid_coord: bool = False,
        return_min_coord: bool = False,
        return_displacement: bool = False,
        project_displacement: bool = False,
    ) -> None:
        if isinstance(grid_size, Sequence):
            check_numbers("grid_size", grid_size, 3, 0, open_low=True)
        else:
            check_number("grid_size", grid_size, 0, open_low=True)
        check_choice("hash_type", hash_type, ("fnv", "ravel"))
        self.grid_size = grid_size
        self.mode = check_choice("mode", mode, ("train", "test"))
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys or ())
        self.return_inverse = return_inverse
        self.return_grid_coord = return_grid_coord
        self.return_min_coord = return_min_coord
        self.return_displacement = return_displacement
        self.project_displacement = project_displacement

    def __call__(self, sample: Sample) -> Sample | list[Sample]:
        coord = coord_of(sample)
        sample = dict(sample)
        missing = [key for key in self.keys if key not in sample and key not in LABEL_KEYS]
        if missing:
            raise ConfigError(f"GridSample: keys names {', '.join(missing)}, the sample has {', '.join(sample)}")
        add_point_keys(sample, self.keys)
        voxels = group_by_voxel(coord, self.grid_size)
        entries = self._scan_entries(voxels)
        if self.mode == "test":
            if "index" not in sample:
                sample["index"] = np.arange(len(coord))
            add_point_keys(sample, ("index",))
            picks = (voxels.starts + i % voxels.counts for i in range(voxels.counts.max()))
            return [{**self._take(sample, voxels, voxels.order[pick]), **entries} for pick in picks]
        # Rounding cannot carry random() * n up to n, so every pick stays within its voxel.
        pick = voxels.starts + (child_generator().random(len(voxels.counts)) * voxels.counts).astype(np.int64)
        return {**self._take(sample, voxels, voxels.order[pick]), **entries}

    def _scan_entries(self, voxels: Voxels) -> Sample:
        """The entries that do not depend on which points are picked."""
        entries: Sample = {}
        if self.return_inverse:
            entries["inverse"] = voxels.inverse()
        if self.return_min_coord:
            entries["min_coord"] = narrow_coord((voxels.origin * self.grid_size)[None])
        return entries

    def _take(self, sample: Sample, voxels: Voxels, index: np.ndarray) -> Sample:
        """Keep the points ``index`` (M,), one per voxel, and add their entries."""
        result = select_points(sample, index)
        if not (self.return_grid_coord or self.return_displacement):
            return result
        grid_coord = np.take(voxels.grid, index, axis=1).T
        if self.return_grid_coord:
            result["grid_coord"] = np.ascontiguousarray(grid_coord)
            add_point_keys(result, ("grid_coord",))
        if self.return_displacement:
            size = np.broadcast_to(np.asarray(self.grid_size, np.float64), (3,))
            displacement = result["coord"] / size - voxels.origin - grid_coord - 0.5
            if self.project_displacement:
                if "normal" not in result:
                    raise ConfigError(
                        "GridSample: project_displacement needs an entry 'normal', which the sample lacks"
                    )
                displacement = (displacement * result["normal"]).sum(axis=1, keepdims=True)
            result["displacement"] = displacement.astype(np.float32)
            add_point_keys(result, ("displacement",))
        return result


@TRANSFORMS.register_module()
class SphereCrop:
    """Keep the ``point_max`` points nearest to a centre; a sample with no more points stays as it is.

    Args:
        point_max: points to keep.
        sample_rate: keep this share of the points instead, in (0, 1].
        mode: the centre is a random point ("random") or the middle one in the order of the sample
            ("center"). "all" gives a list of crops that together hold every point, for ``test_cfg.crop``.

    Raises:
        ConfigError: an argument is out of its range.
    """

    MODES = ("random", "center", "all")

    def __init__(self, point_max: int = 80000, sample_rate: float | None = None, mode: str = "random") -> None:
        self.point_max = check_integer("point_max", point_max, 1)
        self.sample_rate = (
            None if sample_rate is None else check_number("sample_rate", sample_rate, 0, 1, open_low=True)
        )
        self.mode = check_choice("mode", mode, self.MODES)

    def __call__(self, sample: Sample) -> Sample | list[Sample]:
        coord = coord_of(sample)
        n = len(coord)
        keep = self.point_max if self.sample_rate is None else max(1, int(self.sample_rate * n))
        if self.mode == "all":
            return self._cover(sample, coord, keep)
        if n <= keep:
            return sample
        center = np.random.randint(n) if self.mode == "random" else n // 2
        return select_points(sample, _nearest(coord, center, keep))

    @staticmethod
    def _cover(sample: Sample, coord: np.ndarray, keep: int) -> list[Sample]:
        """Crop around the first point that no crop holds yet, until there is none."""
        if len(coord) <= keep:
            return [sample]
        crops = []
        covered = np.zeros(len(coord), bool)
        while not covered.all():
            index = _nearest(coord, int(covered.argmin()), keep)
            covered[index] = True
            crops.append(select_points(sample, index))
        return crops


def _nearest(coord: np.ndarray, center: int, keep: int) -> np.ndarray:
    """Positions of the ``keep`` < N points nearest to the point ``center``, itself included, ascending (keep,)."""
    distance = np.square(coord - coord[center]).sum(axis=1)
    distance[center] = -1  # ahead of points at the same place
    return np.sort(np.argpartition(distance, keep)[:keep])


@TRANSFORMS.register_module()
class RandomDropout:
    """Drop a share of the points, with some probability; the others keep their order, at least one stays.

    Args:
        dropout_ratio: share of the points to drop, in [0, 1].
        dropout_application_ratio: probability that a sample is thinned at all.

    Raises:
        ConfigError: a ratio is outside [0, 1].
    """

    def __init__(self, dropout_ratio: float = 0.2, dropout_application_ratio: float = 0.5) -> None:
        self.dropout_ratio = check_number("dropout_ratio", dropout_ratio, 0, 1)
        self.p = check_number("dropout_application_ratio", dropout_application_ratio, 0, 1)

    def __call__(self, sample: Sample) -> Sample:
        if np.random.random() >= self.p:
            return sample
        n = len(coord_of(sample))
        kept = np.zeros(n, bool)
        kept[child_generator().permutation(n)[: max(1, int(n * (1 - self.dropout_ratio)))]] = True
        return select_points(sample, kept)


@TRANSFORMS.register_module()
class ShufflePoint:
    """Put the points in a random order."""

    def __call__(self, sample: Sample) -> Sample:
        return select_points(sample, child_generator().permutation(len(coord_of(sample))))
