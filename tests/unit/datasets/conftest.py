"""Small SemanticKITTI roots made of random points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

RAW = np.array([0, 1, 10, 11, 13, 15, 18, 40, 60, 70, 81, 99, 252, 259], np.uint32)


def make_sample(n: int, seed: int = 0, extent: float = 4.0) -> dict:
    """A sample of n points in which every entry tells the row it came from."""
    rng = np.random.default_rng(seed)
    return {
        "coord": rng.uniform(-extent, extent, (n, 3)).astype(np.float32),
        "strength": np.arange(n, dtype=np.float32)[:, None],
        "segment": np.arange(n, dtype=np.int64),
        "name": "sample",
    }


@pytest.fixture(name="make_sample")
def make_sample_fixture() -> Callable[..., dict]:
    return make_sample


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """Two labelled scans each of sequences 00 and 08, one unlabelled of 11; 200 points per scan."""
    rng = np.random.default_rng(7)
    for sequence, frames in (("00", 2), ("08", 2), ("11", 1)):
        folder = tmp_path / "dataset" / "sequences" / sequence
        (folder / "velodyne").mkdir(parents=True)
        for frame in range(frames):
            points = rng.uniform((-20, -20, -20, 0), (20, 20, 20, 1), (200, 4)).astype(np.float32)
            points.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            if sequence != "11":
                (folder / "labels").mkdir(exist_ok=True)
                label = rng.choice(RAW, 200) | (rng.integers(0, 1000, 200).astype(np.uint32) << 16)
                label.astype(np.uint32).tofile(folder / "labels" / f"{frame:06d}.label")
    return tmp_path
