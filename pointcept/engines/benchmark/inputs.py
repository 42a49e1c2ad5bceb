"""What the networks are timed on: scan files, or a made-up street of any number of points, as batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor

from pointcept.datasets import DATASETS, BaseDataset, Compose, collate_fn
from pointcept.datasets.base import seed_all
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError

CELL = 0.05  # m; a made-up cloud has one point in each cell of this size that it touches
BLOCK = 100.0  # m from one sensor position of a made-up cloud to the next; farther than two ranges
RANGE, HEIGHT, WALL = 48.0, 1.84, 9.0  # m: of the sensor, of its mounting, from the street's middle to its houses
BEAMS, STEPS = 32, 1090  # rays of one turn of the sensor

NEEDED = ("grid_coord", "feat", "offset", "segment")


@dataclass(frozen=True)
class Input:
    """What one row of the table reads.

    Attributes:
        name: of the scan file or folder, or the number of points.
        files: scans, of which a batch takes one after the other; empty for a made-up cloud.
        points: of a made-up cloud, else 0.
    """

    name: str
    files: tuple[Path, ...] = ()
    points: int = 0


def find_inputs(cfg: Config, scans: Sequence[Path], points: Sequence[int]) -> list[Input]:
    """The inputs that a command line names, each with the files behind it.

    Args:
        cfg: scan files are in the format of its ``data.val``.
        scans: files or folders.
        points: sizes of made-up clouds.

    Raises:
        ConfigError: a cloud of no points.
        DataError: there is no scan.
    """
    if min(points, default=1) < 1:
        raise ConfigError(f"a cloud of {min(points)} points: it needs at least one")
    reader = reader_of(cfg)
    names = [path.name for path in scans]
    files = [
        Input(path.name if names.count(path.name) == 1 else str(path), tuple(reader.find_scans(path))) for path in scans
    ]
    return files + [Input(f"synthetic-{n}", points=n) for n in points]


def reader_of(cfg: Config) -> type[BaseDataset]:
    """The data set whose format the scans have."""
    return cast("type[BaseDataset]", DATASETS.get(cfg.data.val.type))


def make_batch(cfg: Config, source: Input, size: int) -> dict[str, Tensor]:
    """A batch of ``size`` scans as the network of ``cfg`` reads it.

    The transforms are those of ``data.val``. Labels, which no scan file has, are random: losses take the
    time that they take with any labels. The random generators of this process are seeded.

    Args:
        cfg: a config.
        source: its scans are repeated where there are fewer than ``size``.
        size: scans of the batch.

    Returns:
        ``grid_coord`` (N, 3), ``feat`` (N, C), ``offset`` (size,), ``segment`` (N,), on the CPU.

    Raises:
        ConfigError: the transforms do not give what a network reads.
        DataError: a scan is malformed.
    """
    reader, section = reader_of(cfg), cfg.data.val.to_dict()
    transform = Compose(section.get("transform"), "data.val.transform")
    samples = []
    for number, raw in enumerate(_scans(source, reader, section.get("nonfinite", "raise"), size)):
        seed_all(number)
        labels = np.random.randint(0, len(reader.names), len(raw["coord"]))
        samples.append(transform({**raw, "segment": labels, "name": source.name}))
    batch = collate_fn(samples)
    missing = [key for key in NEEDED if not isinstance(batch.get(key), Tensor)]
    if missing:
        raise ConfigError(f"data.val.transform gives no tensor {', '.join(missing)}: a network reads {NEEDED}")
    return {key: batch[key] for key in NEEDED}


def _scans(source: Input, reader: type[BaseDataset], nonfinite: str, size: int) -> Iterator[Mapping[str, np.ndarray]]:
    for number in range(size):
        if source.points:
            yield synthetic_scan(source.points, number)
        else:
            yield reader.read_scan(source.files[number % len(source.files)], nonfinite)[0]


@cache
def synthetic_scan(points: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A made-up street as a rotating sensor sees it: ground and houses, in rings.

    One sensor position gives about 20 000 points; more points are more positions, far enough apart not to
    see the same places. The neighbourhoods of the voxels are so the same at any size.

    Args:
        points: N >= 1, each in a cell of its own of 0.05 m.
        seed: of houses, noise and strength.

    Returns:
        coord float32 (N, 3) [m] and strength float32 (N, 1) in [0, 1].
    """
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < points:
        parts.append(_turn(rng) + np.round(np.array([*_square_spiral(len(parts)), 0.0]) * BLOCK / CELL).astype(int))
    cells = np.concatenate(parts)[:points]
    coord = (cells + rng.uniform(0.1, 0.9, cells.shape)) * CELL
    return {"coord": coord.astype(np.float32), "strength": rng.random((points, 1), dtype=np.float32)}


def _turn(rng: np.random.Generator) -> np.ndarray:
    """One turn of the sensor in the middle of a street along x: the cells that it hits, int64 (M, 3), by azimuth."""
    azimuth = (2 * np.pi * (np.arange(STEPS) + rng.random()) / STEPS)[:, None]
    elevation = np.deg2rad(np.linspace(-30.0, 10.0, BEAMS))[None, :]
    direction = np.stack(
        np.broadcast_arrays(np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation))
    ).reshape(3, -1)
    with np.errstate(divide="ignore"):
        ground = np.where(direction[2] < 0, -HEIGHT / direction[2], np.inf)
        wall = WALL / np.abs(direction[1])
    distance = np.minimum(ground, wall)
    seen = distance < RANGE
    distance, direction, on_wall = distance[seen], direction[:, seen], (wall < ground)[seen]
    hit = (direction * distance).T
    # Houses stand up to 3 m behind the line of the street, 8 m of front each.
    house = np.floor(hit[:, 0] / 8.0).astype(int) + int(RANGE)
    setback = rng.uniform(0.0, 3.0, (2, 2 * int(RANGE)))[(hit[:, 1] > 0).astype(int), house]
    hit[:, 1] += np.where(on_wall, np.sign(hit[:, 1]) * setback, 0.0)
    hit += rng.normal(0.0, 0.01, hit.shape)
    cells = np.floor(hit / CELL).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return cells[np.sort(first)]


def _square_spiral(number: int) -> tuple[int, int]:
    """Place ``number`` on a square grid, such that the first n² places fill a square of n by n."""
    shell = int(np.sqrt(number))
    rest = number - shell**2
    return (shell, rest) if rest <= shell else (2 * shell - rest, shell)
