"""Batches laid out in fixed shapes, and real and random scans to lay out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pointcept.structures import Capacities, FixedPyramid, Sizes, read_report, room_for, survey


def lay_out(
    grid_coord: Tensor,
    offset: Tensor,
    orders: Sequence[str],
    strides: tuple[int, ...],
    capacities: Capacities | None = None,
) -> tuple[FixedPyramid, Sizes]:
    """The pyramid of a batch; what the input buffers hold beyond it is arbitrary."""
    n, device = len(grid_coord), grid_coord.device
    room = room_for(n) if capacities is None else capacities.rows[0]
    buffer = torch.randint(0, 1000, (room, 3), generator=torch.Generator().manual_seed(1)).to(device)
    buffer[:n] = grid_coord
    climbs = [stride.bit_length() - 1 for stride in strides]
    shifts = [sum(climbs[:i]) for i in range(len(climbs) + 1)]
    tables = ("z", *(order for order in orders if order != "z"))
    ends = offset.int()
    batch = survey(buffer, None, ends, tables, shifts)
    sizes = read_report(batch.report, len(shifts), n)
    if capacities is None:
        capacities = Capacities.choose(room, sizes)
    assert capacities.fits(sizes)
    return FixedPyramid(batch, ends, tables, strides, capacities), sizes


def padded_rows(x: Tensor, room: int) -> Tensor:
    """x (N, C) with rows of numbers behind it."""
    return torch.cat([x, torch.full((room - len(x), *x.shape[1:]), 7.0, dtype=x.dtype, device=x.device)])


def random_scans(sizes: Sequence[int], extent: int = 14, seed: int = 0, distinct: bool = True) -> dict[str, Tensor]:
    """Scans of exactly so many random voxels each, in random order; some occur several times if not ``distinct``."""
    generator = torch.Generator().manual_seed(seed)
    grids = []
    for n in sizes:
        if distinct:
            cells = torch.randperm(extent**3, generator=generator)[:n]
        else:
            cells = torch.randint(extent**3, (n,), generator=generator)
        grids.append(torch.stack([cells // extent**2, cells // extent % extent, cells % extent], 1))
    return _batch(grids, generator)


def real_scans(shared_dir: Path, radii: Sequence[float], mixed: bool = False) -> dict[str, Tensor]:
    """A nuScenes sweep cropped to each radius [m], in voxels of 20 cm; with itself turned round if ``mixed``."""
    points = np.fromfile(shared_dir / "data" / "nuscenes_sweep.pcd.bin", np.float32).reshape(-1, 5)[:, :3]
    grids = []
    for radius in radii:
        near = torch.from_numpy(points[np.linalg.norm(points[:, :2], axis=1) < radius])
        cells = (near / 0.2).floor().long()
        grid = (cells - cells.amin(0)).unique(dim=0)
        if mixed:
            turned = grid * torch.tensor([-1, 1, 1])
            grid = torch.cat([grid, turned - turned.amin(0)])
        grids.append(grid)
    return _batch(grids, torch.Generator().manual_seed(0))


def _batch(grids: list[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    grids = [grid[torch.randperm(len(grid), generator=generator)] for grid in grids]
    grid = torch.cat(grids)
    return {
        "grid_coord": grid,
        "feat": torch.randn(len(grid), 4, generator=generator, dtype=torch.float64),
        "offset": torch.tensor([len(g) for g in grids]).cumsum(0),
    }


def poison(monkeypatch) -> None:
    """Let fresh memory hold NaN and the largest integers."""

    def poisoned(make):
        return lambda *args, **options: fill(make(*args, **options))

    def fill(made: Tensor) -> Tensor:
        if made.dtype == torch.bool:
            return made.fill_(True)
        return made.fill_(float("nan") if made.is_floating_point() else torch.iinfo(made.dtype).max)

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))


class NoWaiting(TorchDispatchMode):
    """Forbids what makes the host wait for a device, or copies from it: neither can be in a CUDA graph."""

    FORBIDDEN = (
        "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "lift_fresh",
        "repeat_interleave.Tensor", "equal",
    )  # fmt: skip

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        indices = args[1] if name.startswith(("index.Tensor", "index_put")) else ()
        masks = [index for index in indices if index is not None and index.dtype == torch.bool]
        if masks or any(name.startswith(f"{word}.") or name == word for word in self.FORBIDDEN):
            raise AssertionError(f"{name} makes the host wait")
        return func(*args, **(kwargs or {}))
