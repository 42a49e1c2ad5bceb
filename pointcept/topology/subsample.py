"""Rows of a cloud on which the expensive dimensions (H1, H2) are computed.

No function here reads or advances torch's global random state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pointcept.topology.mst import EdgeWeights
from pointcept.utils.errors import did_you_mean

METHODS = ("farthest", "random")


def _own_generator(generator: torch.Generator | None) -> torch.Generator:
    return generator if generator is not None else torch.Generator().manual_seed(0)


def random_points(total: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``min(n, total)`` distinct row numbers, ascending, int64 on the generator's device.

    Args:
        total: number of rows to draw from.
        n: how many to draw.
        generator: source of randomness, advanced by the call; None draws the same rows every time.
    """
    generator = _own_generator(generator)
    order = torch.randperm(total, generator=generator, device=generator.device)
    return order[:n].sort().values


@torch.no_grad()
def farthest_points(
    x: Tensor, n: int, generator: torch.Generator | None = None, weights: EdgeWeights | None = None
) -> Tensor:
    """Greedy farthest-point sample: ``min(n, N)`` distinct row numbers of ``x`` (N, C), in order of choice.

    The first prefix of k rows is within a factor two of the best k-point cover of the cloud (Gonzalez 1985).
    No host synchronisation happens here. On a GPU with Triton it is one launch where the weights are stored, and
    n small steps of N x C operations otherwise.

    Args:
        x: (N, C) points.
        n: how many rows to choose, at least 1.
        generator: draws the first row; None starts at the point farthest from the mean.
        weights: of the edges between the points, if they are known already.
    """
    weights = EdgeWeights(x, memory_limit=0) if weights is None else weights
    count = min(n, len(x))
    if generator is None:
        first = weights.square.argmax(keepdim=True)
    else:
        first = torch.randint(len(x), (1,), generator=generator, device=generator.device).to(x.device)
    chosen = weights.farthest(first, count)
    return _farthest_by_products(x, first, count) if chosen is None else chosen


def _farthest_by_products(x: Tensor, first: Tensor, count: int) -> Tensor:
    """One product per step and no matrix of all distances."""
    with torch.autocast(x.device.type, enabled=False):
        z = x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        z = z - z.mean(dim=0)
        square = z.square().sum(dim=1)
        one = torch.ones_like(square)
        # |a - b|^2 as one product per step: [a, |a|^2, 1] . [-2 b, 1, |b|^2]
        left = torch.cat([z, square[:, None], one[:, None]], dim=1)
        right = torch.cat([-2 * z, one[:, None], square[:, None]], dim=1)
        gap = torch.full_like(square, torch.inf)
        current, chosen = first, [first]
        for _ in range(count - 1):
            gap = torch.minimum(gap, left @ right.index_select(0, current).squeeze(0))
            gap.index_fill_(0, current, -torch.inf)  # duplicates of a chosen row may follow, the row itself not
            current = gap.argmax(keepdim=True)
            chosen.append(current)
    return torch.cat(chosen)


def subsample_rows(
    x: Tensor,
    n: int | None,
    method: str = "farthest",
    generator: torch.Generator | None = None,
    weights: EdgeWeights | None = None,
) -> Tensor | None:
    """Choose ``n`` rows of ``x`` (N, C), int64 on its device; None if all rows are to be used (n None or >= N).

    Raises:
        ValueError: if ``n`` is below 1 or the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"unknown subsample method {method!r}; {did_you_mean(method, METHODS)}")
    if n is None or n >= len(x):
        return None
    if n < 1:
        raise ValueError(f"max_points must be at least 1 or None (all points), got {n}")
    if method == "random":
        return random_points(len(x), n, generator).to(x.device)
    return farthest_points(x, n, generator, weights)
