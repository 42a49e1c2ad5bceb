"""Clouds with known persistence and an independent library to compare with."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def gudhi() -> ModuleType:
    return pytest.importorskip("gudhi", reason="gudhi, the independent reference, is not installed")


@pytest.fixture(scope="session")
def reference_diagram(gudhi):
    """GUDHI's diagram of a cloud (N, C) in one dimension, finite points (K, 2) float64."""

    def compute(x: torch.Tensor, dim: int) -> np.ndarray:
        points = x.detach().double().numpy()
        d = np.linalg.norm(points[:, None] - points[None], axis=2)
        tree = gudhi.RipsComplex(distance_matrix=np.maximum(d, d.T)).create_simplex_tree(max_dimension=dim + 1)
        tree.compute_persistence()
        pairs = np.asarray(tree.persistence_intervals_in_dimension(dim)).reshape(-1, 2)
        return pairs[np.isfinite(pairs[:, 1])]

    return compute


def ngon(n: int) -> torch.Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def lattice(side: int, dim: int) -> torch.Tensor:
    axis = torch.arange(side, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * dim)


def random_clouds() -> dict[str, torch.Tensor]:
    """Float64 clouds with everything that breaks a persistence code: ties, duplicates, dimension, scale."""
    g = torch.Generator().manual_seed(20250508)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    base = normal(20, 3)
    return {
        "plane": normal(60, 2),
        "space": normal(50, 3),
        "line": normal(40, 1),
        "high dimension": normal(45, 512),
        "two points": normal(2, 7),
        "three points": normal(3, 2),
        "small integers": torch.randint(0, 4, (50, 3), generator=g).double(),
        "binary codes": torch.randint(0, 2, (40, 6), generator=g).double(),
        "square lattice": lattice(6, 2),
        "cubic lattice": lattice(3, 3),
        "duplicates": torch.cat([base, base, base[:5]]),
        "all equal": torch.full((12, 4), 0.3, dtype=torch.float64),
        "two clusters": torch.cat([normal(20, 4) * 1e-2, normal(20, 4) * 1e-2 + 3.0]),
        "tight cluster and outliers": torch.cat([normal(25, 3) * 1e-4, normal(5, 3)]),
        "ring": ngon(48),
    }


CLOUDS = random_clouds()


@pytest.fixture(params=CLOUDS.values(), ids=CLOUDS.keys())
def cloud(request: pytest.FixtureRequest) -> torch.Tensor:
    """Each of the awkward clouds in turn, (N, C) float64."""
    return request.param
