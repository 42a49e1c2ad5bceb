"""From points to voxels on the device, as the validation transforms of a config do it on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointcept.datasets.builder import strength_range
from pointcept.datasets.transform.points import RESOLUTION, check_resolution
from pointcept.datasets.transform.sampling import MAX_VOXELS
from pointcept.utils.errors import ConfigError, DataError

_IGNORED = ("Copy", "ToTensor")  # they change no number that the network reads
_SUPPORTED = "PointClip, Copy, GridSample(mode='train'), ToTensor and Collect"
_COLUMNS = {"coord": (0, 1, 2), "strength": (3,)}


@dataclass
class Voxels:
    """One row for each voxel of a scan, in ascending order of (x, y, z).

    Attributes:
        grid_coord: (M, 3) int64 >= 0.
        feat: (M, C) float32 features of the voxel's first point in the order of the scan.
        inverse: (N,) int64 voxel of every point.
    """

    grid_coord: Tensor
    feat: Tensor
    inverse: Tensor


class Preprocessing:
    """Groups the points of a scan by voxel, on the device of the points.

    Where training draws a random point of each voxel, this takes the first one, so that a scan always gets the
    same labels.

    Args:
        grid_size: edge of a voxel [m], one number or one per axis.
        feat_keys: out of "coord" and "strength", the channels of ``feat``.
        clip: (6,) box that coordinates are clamped to first [m], or None.
        strength_range: lowest and highest strength that points may have, see :class:`BaseDataset`; None for any.
    """

    def __init__(
        self,
        grid_size: float | Sequence[float],
        feat_keys: Sequence[str] = ("coord", "strength"),
        clip: Sequence[float] | None = None,
        strength_range: tuple[float, float] | None = None,
    ) -> None:
        self.grid_size = (
            tuple(float(s) for s in grid_size) if isinstance(grid_size, Sequence) else (float(grid_size),) * 3
        )
        self.columns = [column for key in feat_keys for column in _COLUMNS[key]]
        self.clip = None if clip is None else tuple(float(c) for c in clip)
        self.strength_range = strength_range if "strength" in feat_keys else None

    @classmethod
    def of_config(cls, cfg: Any) -> Preprocessing:
        """What ``data.val.transform`` of a config does.

        Raises:
            ConfigError: it has no GridSample or Collect, or a step that the engine does not know.
        """
        grid: Mapping[str, Any] | None = None
        collect: Mapping[str, Any] | None = None
        clip = None
        for step in cfg.data.val.to_dict().get("transform") or ():
            name = step["type"]
            if name == "PointClip" and grid is None:
                clip = step.get("point_cloud_range", (-80, -80, -3, 80, 80, 1))
            elif name == "GridSample" and grid is None and step.get("mode", "train") == "train":
                grid = step
            elif name == "Collect":
                collect = step
            elif name not in _IGNORED:
                raise ConfigError(
                    f"inference engine: data.val.transform has {name}; from points it supports {_SUPPORTED}, in this "
                    "order. Call logits() with voxels of your own instead"
                )
        if grid is None or collect is None:
            raise ConfigError("inference engine: data.val.transform needs GridSample(mode='train') and Collect")
        keys = collect.get("feat_keys", ())
        keys = (keys,) if isinstance(keys, str) else tuple(keys)
        if not keys or not set(keys) <= set(_COLUMNS):
            raise ConfigError(f"inference engine: feat_keys={keys}; allowed are {' and '.join(_COLUMNS)}")
        return cls(grid.get("grid_size", 0.05), keys, clip, strength_range(cfg.data.val))

    def __call__(self, points: Tensor) -> Voxels:
        """points (N, 4) x, y, z [m], strength -> the voxels.

        Raises:
            DataError: another shape or dtype, no point, values that are not finite or no strengths of the data set's,
                points too far apart, or all of them so far from the origin that float32 does not resolve an eighth
                of a voxel.
        """
        if points.dim() != 2 or points.shape[1] != 4 or len(points) == 0 or points.is_complex():
            raise DataError(f"points must be (N, 4): x, y, z [m], strength, N > 0; got {tuple(points.shape)}")
        if points.dtype in (torch.float16, torch.bfloat16):  # they resolve 6 cm at 64 m, and 50 cm
            raise DataError(f"points must be float32 or float64, got {points.dtype}")
        given = torch.cat(points[:, :3].aminmax(dim=0)).double()
        points = points.float()
        coord = points[:, :3]
        if self.clip is not None:
            box = torch.tensor(self.clip, device=points.device)
            coord = torch.minimum(torch.maximum(coord, box[:3]), box[3:])
        # float64, as on the host: at 80 m a float32 quotient is only good to 1e-4 voxels
        voxel = (coord.double() / torch.tensor(self.grid_size, dtype=torch.float64, device=points.device)).floor()
        low, high = voxel.amin(0), voxel.amax(0)
        shape = high - low + 1
        grid = (voxel - low).long()
        edge = shape.long()
        key, order = ((grid[:, 0] * edge[1] + grid[:, 1]) * edge[2] + grid[:, 2]).sort(stable=True)
        first = torch.ones_like(key, dtype=torch.bool)
        first[1:] = key[1:] != key[:-1]
        rank = first.long().cumsum(0) - 1
        # members of a voxel other than the first are written behind the last row
        target = torch.where(first, rank, len(key))
        chosen = order.new_zeros(len(key) + 1).scatter_(0, target, order)
        finite = points.isfinite().all().double().view(1)
        strength = torch.stack(points[:, 3].aminmax()).double()
        numbers = torch.cat([finite, rank[-1:] + 1.0, strength, shape, given]).tolist()
        whole, total, lowest, highest, *corners = numbers
        self._check(points, bool(whole), (lowest, highest), corners[:3], corners[3:])
        inverse = torch.empty_like(order).scatter_(0, order, rank)
        rows = chosen[: int(total)]
        values = torch.cat([coord, points[:, 3:]], 1)[:, self.columns]
        return Voxels(grid.index_select(0, rows), values.index_select(0, rows), inverse)

    def _check(
        self, points: Tensor, finite: bool, strength: tuple[float, float], extent: list[float], box: list[float]
    ) -> None:
        if not finite:
            bad = int((~points.isfinite().all(1)).sum())
            raise DataError(f"{bad} of {len(points)} points have values that are not finite: leave them out")
        allowed = self.strength_range
        if allowed is not None and not (allowed[0] <= strength[0] and strength[1] <= allowed[1]):
            raise DataError(
                f"the strength of the points goes from {strength[0]:g} to {strength[1]:g}, expected {allowed[0]:g} to "
                f"{allowed[1]:g}, as the data set of the config gives it: scale it"
            )
        finest = min(RESOLUTION, min(self.grid_size) / 8)
        check_resolution(box[:3], box[3:], finest, "subtract the place of the sensor first, in float64")
        if max(extent) > MAX_VOXELS:
            raise DataError(
                f"the points span {' x '.join(f'{e:.0f}' for e in extent)} voxels of {self.grid_size} m, at most "
                f"{MAX_VOXELS} along an axis are allowed: leave out far outliers or use a larger grid_size"
            )
