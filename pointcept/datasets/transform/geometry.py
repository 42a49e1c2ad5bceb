"""Transforms that move points: rotation, scale, shift, flip, jitter, clipping, elastic distortion.

Points keep their order and number. All randomness comes from the global ``np.random``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.checks import check_choice, check_number, check_numbers, check_range, refused
from pointcept.utils.errors import DataError

from .points import Sample, bounds, check_resolution, child_generator, coord_of, narrow_coord

AXES = ("x", "y", "z")


def rotation_matrix(axis: str, angle: float) -> np.ndarray:
    """Right-handed rotation by ``angle`` [rad] about ``axis`` ("x", "y" or "z"), float64 (3, 3)."""
    a = AXES.index(axis)
    first, second = (a + 1) % 3, (a + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -np.sin(angle)
    return matrix


class _Rotation:
    """Rotate ``coord`` about ``center`` and ``normal`` about the origin, with probability ``p``."""

    def __init__(self, center: Sequence[float] | None, axis: str, always_apply: bool, p: float) -> None:
        self.axis = check_choice("axis", axis, AXES)
        self.center = None if center is None else np.array(check_numbers("center", center, 3))
        self.p = check_number("p", p, 0, 1)
        if always_apply:
            self.p = 1.0

    def _draw(self) -> float:
        """Draw an angle in units of pi."""
        raise NotImplementedError

    def __call__(self, sample: Sample) -> Sample:
        if np.random.random() >= self.p:
            return sample
        matrix = rotation_matrix(self.axis, self._draw() * np.pi).astype(np.float32)
        coord = coord_of(sample)
        center = self.center if self.center is not None else np.mean(bounds(coord), axis=0)
        shift = (center - matrix.astype(np.float64) @ center).astype(np.float32)
        rotated = coord @ matrix.T
        if shift.any():
            rotated += shift
        result = {**sample, "coord": rotated}
        if "normal" in sample:
            result["normal"] = (sample["normal"] @ matrix.T).astype(np.float32, copy=False)
        return result


@TRANSFORMS.register_module()
class RandomRotate(_Rotation):
    """Rotate by an angle drawn uniformly.

    Args:
        angle: (low, high) in units of pi.
        center: point on the axis [m]; None takes the middle of the bounding box.
        axis: "x", "y" or "z".
        always_apply: rotate every sample, whatever ``p``.
        p: probability to rotate.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        angle: Sequence[float] = (-1, 1),
        center: Sequence[float] | None = None,
        axis: str = "z",
        always_apply: bool = False,
        p: float = 0.5,
    ) -> None:
        super().__init__(center, axis, always_apply, p)
        self.angle = check_range("angle", angle)

    def _draw(self) -> float:
        return np.random.uniform(*self.angle)


@TRANSFORMS.register_module()
class RandomRotateTargetAngle(_Rotation):
    """Rotate by one of the given angles, each as likely as the others.

    Args:
        angle: the angles in units of pi.
        center, axis, always_apply, p: as for :class:`RandomRotate`.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        angle: Sequence[float] = (1 / 2, 1, 3 / 2),
        center: Sequence[float] | None = None,
        axis: str = "z",
        always_apply: bool = False,
        p: float = 0.75,
    ) -> None:
        super().__init__(center, axis, always_apply, p)
        self.angle = check_numbers("angle", angle)

    def _draw(self) -> float:
        return self.angle[np.random.randint(len(self.angle))]


@TRANSFORMS.register_module()
class RandomScale:
    """Multiply ``coord`` by a factor drawn uniformly.

    Args:
        scale: (low, high) of the factor, both above 0.
        anisotropic: draw one factor per axis.

    Raises:
        ConfigError: ``scale`` is no pair of positive numbers.
    """

    def __init__(self, scale: Sequence[float] = (0.95, 1.05), anisotropic: bool = False) -> None:
        self.scale = check_range("scale", scale, 0, open_low=True)
        self.anisotropic = anisotropic

    def __call__(self, sample: Sample) -> Sample:
        factor = np.random.uniform(*self.scale, 3 if self.anisotropic else 1).astype(np.float32)
        return {**sample, "coord": coord_of(sample) * factor}


@TRANSFORMS.register_module()
class RandomShift:
    """Add an offset drawn uniformly, the same for all points.

    Args:
        shift: three pairs (low, high) [m], for x, y and z.

    Raises:
        ConfigError: ``shift`` is not three pairs.
    """

    def __init__(self, shift: Sequence[Sequence[float]] = ((-0.2, 0.2), (-0.2, 0.2), (0, 0))) -> None:
        if not isinstance(shift, Sequence) or len(shift) != 3:
            raise refused("shift", shift, "three pairs (low, high), for x, y and z")
        self.shift = np.array([check_range(f"shift.{i}", pair) for i, pair in enumerate(shift)])

    def __call__(self, sample: Sample) -> Sample:
        offset = np.random.uniform(self.shift[:, 0], self.shift[:, 1]).astype(np.float32)
        return {**sample, "coord": coord_of(sample) + offset}


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirror x with probability ``p`` and, independently, y with probability ``p`` (``normal`` too).

    Raises:
        ConfigError: ``p`` is outside [0, 1].
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_number("p", p, 0, 1)

    def __call__(self, sample: Sample) -> Sample:
        sign = np.ones(3, np.float32)
        sign[:2] = np.where(np.random.random(2) < self.p, -1, 1)
        result = {**sample, "coord": coord_of(sample) * sign}
        if "normal" in sample:
            result["normal"] = sample["normal"] * sign
        return result


@TRANSFORMS.register_module()
class RandomJitter:
    """Add normal noise to every coordinate.

    Args:
        sigma: standard deviation [m].
        clip: the noise is clipped to [-clip, clip] [m].

    Raises:
        ConfigError: ``sigma`` is negative or ``clip`` is not above 0.
    """

    def __init__(self, sigma: float = 0.01, clip: float = 0.05) -> None:
        self.sigma = check_number("sigma", sigma, 0)
        self.clip = check_number("clip", clip, 0, open_low=True)

    def __call__(self, sample: Sample) -> Sample:
        coord = coord_of(sample)
        moved = child_generator().standard_normal(coord.shape, dtype=np.float32)
        moved *= np.float32(self.sigma)
        np.clip(moved, -self.clip, self.clip, out=moved)
        return {**sample, "coord": moved + coord}


@TRANSFORMS.register_module()
class PointClip:
    """Clamp ``coord`` to a box: points outside move on to its border, none is removed.

    Args:
        point_cloud_range: (x_min, y_min, z_min, x_max, y_max, z_max) [m].

    Raises:
        ConfigError: it is not six numbers or a minimum is not below its maximum.
        DataError: all points are as far away as those of a map.
    """

    def __init__(self, point_cloud_range: Sequence[float] = (-80, -80, -3, 80, 80, 1)) -> None:
        box = np.array(check_numbers("point_cloud_range", point_cloud_range, 6), np.float32)
        self.low, self.high = box[:3], box[3:]
        if (self.low >= self.high).any():
            raise refused("point_cloud_range", point_cloud_range, "three minima and three larger maxima")

    def __call__(self, sample: Sample) -> Sample:
        coord = coord_of(sample)
        check_resolution(*bounds(coord), remedy="put CenterShift before PointClip, whose box is about the origin")
        return {**sample, "coord": np.clip(coord, self.low, self.high)}


@TRANSFORMS.register_module()
class CenterShift:
    """Move the middle of the bounding box to x = y = 0 and, with ``apply_z``, its floor to z = 0.

    Coordinates in float64, of a map for instance, are subtracted in float64.

    Raises:
        DataError: coordinates in float32 are so far from the origin that their shape is lost already.
    """

    def __init__(self, apply_z: bool = True) -> None:
        self.apply_z = apply_z

    def __call__(self, sample: Sample) -> Sample:
        coord = coord_of(sample)
        low, high = bounds(coord)
        if coord.dtype == np.float32:
            check_resolution(low, high)
        shift = (low + high) / 2
        shift[2] = low[2] if self.apply_z else 0
        return {**sample, "coord": narrow_coord(coord - shift.astype(coord.dtype))}


def smooth_noise(shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    """White normal noise on a grid, box-filtered twice over 3 nodes along each axis (zero outside).

    Args:
        shape: nodes along x, y, z.
        generator: source of the noise.

    Returns:
        float32 (*shape, 3).
    """
    noise = generator.standard_normal((*shape, 3), dtype=np.float32)
    for _ in range(2):
        for axis in range(3):
            rows = np.moveaxis(noise, axis, 0)
            total = rows.copy()
            total[1:] += rows[:-1]
            total[:-1] += rows[1:]
            noise = np.moveaxis(total, 0, axis) / np.float32(3)
    return noise


def interpolate(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Trilinear interpolation on a grid.

    Args:
        values: float (X, Y, Z, C), at the nodes.
        position: float (N, 3), in units of nodes; 0 <= position < nodes - 1 along every axis.

    Returns:
        float64 (N, C).
    """
    node = np.floor(position).astype(np.int64)
    right = position - node
    result = np.zeros((len(position), values.shape[-1]))
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, right, 1 - right).prod(axis=1, keepdims=True)
        x, y, z = (node + corner).T
        result += weight * values[x, y, z]
    return result


@TRANSFORMS.register_module()
class ElasticDistortion:
    """Bend the cloud with smooth random displacement fields, with probability 0.95.

    Args:
        distortion_params: pairs (granularity, magnitude) [m]: the spacing of the noise grid and the
            factor on the smoothed noise. One field per pair, one after the other.

    The noise grid fills the bounding box, so that outdoor scans need a coarse granularity.

    Raises:
        ConfigError: a pair is not two numbers, a granularity not above 0 or a magnitude negative.
        DataError: a noise grid would have more than ``MAX_NODES`` nodes.
    """

    P = 0.95
    MAX_NODES = 1 << 25

    def __init__(self, distortion_params: Sequence[Sequence[float]] = ((0.2, 0.4), (0.8, 1.6))) -> None:
        if not isinstance(distortion_params, Sequence):
            raise refused("distortion_params", distortion_params, "pairs (granularity, magnitude)")
        places = [f"distortion_params.{i}" for i in range(len(distortion_params))]
        pairs = zip(places, distortion_params, strict=True)
        self.distortion_params = [check_numbers(place, pair, 2, 0) for place, pair in pairs]
        for place, (granularity, _) in zip(places, self.distortion_params, strict=True):
            check_number(f"{place}.0", granularity, 0, open_low=True)

    def __call__(self, sample: Sample) -> Sample:
        coord = coord_of(sample)
        if np.random.random() >= self.P:
            return sample
        for granularity, magnitude in self.distortion_params:
            coord = self._distort(coord, granularity, magnitude)
        return {**sample, "coord": coord}

    def _distort(self, coord: np.ndarray, granularity: float, magnitude: float) -> np.ndarray:
        low, high = bounds(coord)
        # One node below the box and one above, so that every point has a cell around it.
        nodes = np.floor((high - low) / granularity) + 3
        if not nodes.prod() <= self.MAX_NODES:
            raise DataError(
                f"ElasticDistortion: an extent of {np.round(high - low, 2).tolist()} m at the granularity"
                f" {granularity} m needs {nodes.prod():.3g} noise nodes, at most {self.MAX_NODES} are allowed:"
                " use a coarser granularity"
            )
        noise = smooth_noise(nodes.astype(int).tolist(), child_generator())
        displacement = interpolate(noise, (coord - low) / granularity + 1)
        return (coord + magnitude * displacement).astype(coord.dtype)
