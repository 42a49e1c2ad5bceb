"""The container for persistence diagrams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Diagram:
    """A persistence diagram: for each homology dimension its finite (birth, death) points.

    Attributes:
        points: dimension -> (K, 2) births and deaths, lengths in the unit of the cloud, with gradient to the
            cloud where it asks for one. H0 births are zero; the class that never dies is left out.
        edges: dimension -> (K, 4) int64, the rows of the cloud whose distance is the birth (first two) and
            the death (last two); for H0 (K, 2), the edges of the minimum spanning tree.
        index: (n,) int64 rows on which the dimensions above 0 were computed, None if on all.
    """

    points: Mapping[int, Tensor]
    edges: Mapping[int, Tensor] = field(default_factory=dict)
    index: Tensor | None = None

    @property
    def dims(self) -> tuple[int, ...]:
        """The homology dimensions held, ascending."""
        return tuple(sorted(self.points))

    def __getitem__(self, dim: int) -> Tensor:
        """Points (K, 2) of one dimension; KeyError if it was not computed."""
        if dim not in self.points:
            raise KeyError(f"the diagram holds the dimensions {self.dims}, not {dim}")
        return self.points[dim]

    def births(self, dim: int) -> Tensor:
        """Births (K,) of one dimension."""
        return self[dim][:, 0]

    def deaths(self, dim: int) -> Tensor:
        """Deaths (K,) of one dimension."""
        return self[dim][:, 1]

    def total_persistence(self, dims: tuple[int, ...] | None = None) -> Tensor:
        """Sum of death - birth over the given dimensions (default: all), a scalar."""
        sums = [(self.deaths(d) - self.births(d)).sum() for d in (self.dims if dims is None else dims)]
        return torch.stack(sums).sum()

    def detach(self) -> Diagram:
        """The same diagram without gradient."""
        return Diagram({d: p.detach() for d, p in self.points.items()}, self.edges, self.index)
