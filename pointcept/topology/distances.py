"""Distances between persistence diagrams, dimension by dimension, with gradient to both.

An H0 point never meets an H1 point. Where one side has no points, the diagonal takes its place: a point
(b, d) then lies at distance (d - b) / sqrt(2) from its target. Nothing here detaches an argument; a loss
that must not train the teacher passes ``teacher.detach()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pointcept.topology.diagrams import Diagram
from pointcept.utils.errors import did_you_mean

# Elements of one block of point-to-point distances.
_BLOCK_ELEMENTS = 2**24


def diagonal_distance(points: Tensor) -> Tensor:
    """Euclidean distance (K,) of diagram points (K, 2) from the diagonal: (death - birth) / sqrt(2)."""
    return (points[:, 1] - points[:, 0]) * 0.5**0.5


@torch.no_grad()
def _nearest_on_line(a: Tensor, b: Tensor) -> Tensor:
    """For each value of ``a`` (n,) the position of the nearest value of ``b`` (m,), m >= 1, by sort and search."""
    ordered, order = b.sort()
    right = torch.searchsorted(ordered, a.contiguous()).clamp_(max=len(b) - 1)
    left = (right - 1).clamp_(min=0)
    nearer = torch.where((a - ordered[left]).abs() <= (ordered[right] - a).abs(), left, right)
    return order[nearer]


@torch.no_grad()
def _nearest_in_plane(a: Tensor, b: Tensor) -> Tensor:
    """For each row of ``a`` (n, 2) the position of the nearest row of ``b`` (m, 2), m >= 1."""
    parts = a.split(max(1, _BLOCK_ELEMENTS // len(b)))
    nearest = [torch.cdist(p, b, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1) for p in parts]
    return torch.cat(nearest)


def _mean_square_to_nearest(a: Tensor, b: Tensor, dim: int) -> Tensor:
    if len(a) == 0:
        return a.sum() + b.sum() * 0
    if len(b) == 0:
        return diagonal_distance(a).square().mean()
    nearest = _nearest_on_line(a[:, 1], b[:, 1]) if dim == 0 else _nearest_in_plane(a, b)
    return (a - b[nearest]).square().sum(dim=1).mean()


def chamfer(a: Tensor, b: Tensor, dim: int = 1) -> Tensor:
    """Chamfer distance of two diagrams of one dimension, the topology loss of arXiv 2505.08101.

    mean over p in A of min over q in B of |p - q|^2, plus the same with A and B exchanged; if one side is
    empty, the mean of the other side's squared distances from the diagonal; 0 if both are. Multiplicity is
    not seen: the deaths {1, 1, 5} and {1, 5} are at distance 0.

    Args:
        a, b: (n, 2) and (m, 2) births and deaths.
        dim: their homology dimension; H0 points lie on a line and are matched by sort and search.
    """
    return _mean_square_to_nearest(a, b, dim) + _mean_square_to_nearest(b, a, dim)


def _sorted_matching(a: Tensor, b: Tensor, p: float) -> Tensor:
    size = max(len(a), len(b))
    ends = []
    for deaths in (a[:, 1], b[:, 1]):
        ends.append(torch.cat([deaths.new_zeros(size - len(deaths)), deaths.sort().values]))
    return (ends[0] - ends[1]).abs().pow(p).sum()


def _assignment(a: Tensor, b: Tensor, p: float) -> tuple[np.ndarray, np.ndarray]:
    """Optimal partial matching: positions in ``a`` and ``b`` of the matched pairs; the rest meets the diagonal."""
    try:
        from scipy.optimize import linear_sum_assignment  # only this exact distance needs SciPy
    except ImportError as error:
        raise ImportError(
            "the exact Wasserstein distance above dimension 0 needs the package 'scipy': pip install scipy,"
            " or pip install 'pointcept[topology]'; the sliced one does not"
        ) from error
    pa, pb = (t.detach().double().cpu().numpy() for t in (a, b))
    n, m = len(pa), len(pb)
    cost = np.zeros((n + m, n + m))
    cost[:n, :m] = np.linalg.norm(pa[:, None] - pb[None], axis=2) ** p
    cost[:n, m:] = ((pa[:, 1] - pa[:, 0])[:, None] / 2**0.5) ** p
    cost[n:, :m] = ((pb[:, 1] - pb[:, 0])[None, :] / 2**0.5) ** p
    rows, cols = linear_sum_assignment(cost)
    matched = (rows < n) & (cols < m)
    return rows[matched], cols[matched]


def _optimal_matching(a: Tensor, b: Tensor, p: float) -> Tensor:
    rows, cols = (torch.from_numpy(i).to(a.device) for i in _assignment(a, b, p))
    alone_a = torch.ones(len(a), dtype=torch.bool, device=a.device).index_fill_(0, rows, False)
    alone_b = torch.ones(len(b), dtype=torch.bool, device=b.device).index_fill_(0, cols, False)
    matched = torch.linalg.vector_norm(a[rows] - b[cols], dim=1).pow(p).sum()
    unmatched = [diagonal_distance(t[alone]).pow(p).sum() for t, alone in ((a, alone_a), (b, alone_b))]
    return matched + unmatched[0] + unmatched[1]


def wasserstein(a: Tensor, b: Tensor, dim: int = 1, p: float = 2.0, reduction: str = "mean") -> Tensor:
    """The p-th power of the p-Wasserstein distance W_p of two diagrams of one dimension, exact.

    H0 (``dim=0``): the points lie on the ray of deaths, where the best matching of equally many points is that
    of the sorted values; missing points stand at death 0, the end of the ray on the diagonal. This runs on the
    device, and is W_p on that ray: never below the W_p of the plane, where far points may go to the diagonal.

    Other dimensions: the best partial matching with Euclidean ground distance, unmatched points to the
    diagonal, by SciPy's assignment on the CPU (waits for the device; for some hundreds of points).

    Args:
        a, b: (n, 2) and (m, 2) births and deaths.
        dim: homology dimension.
        p: order, at least 1. The power is returned because its root has no gradient at equality.
        reduction: ``"sum"``, or ``"mean"``: divided by max(n, m).
    """
    if p < 1:
        raise ValueError(f"the order p of a Wasserstein distance must be at least 1, got {p}")
    total = _sorted_matching(a, b, p) if dim == 0 else _optimal_matching(a, b, p)
    return _reduce(total, max(len(a), len(b)), reduction)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 50, p: float = 1.0, reduction: str = "sum") -> Tensor:
    """Sliced Wasserstein distance of two diagrams (Carriere, Cuturi, Oudot, ICML 2017, Definition 3.1).

    Each diagram is completed by the projections of the other one's points to the diagonal; both are projected
    to ``directions`` lines through the origin at equal angles, sorted and compared. With p = 1 and
    ``reduction="sum"`` this is the paper's SW (its Algorithm 1).

    Args:
        a, b: (n, 2) and (m, 2) births and deaths.
        directions: number of lines over the half circle.
        p: exponent of the differences of the sorted projections.
        reduction: ``"sum"``, or ``"mean"``: divided by n + m.
    """
    if directions < 1 or p < 1:
        raise ValueError(f"directions and p must be at least 1, got {directions} and {p}")
    angle = (torch.arange(directions, dtype=a.dtype, device=a.device) / directions - 0.5) * torch.pi
    line = torch.stack([angle.cos(), angle.sin()])
    diagonal_a, diagonal_b = (t.mean(dim=1, keepdim=True).expand(-1, 2) for t in (a, b))
    # Elementwise: a matrix product could be rounded to TF32 on some devices.
    full = [torch.cat([a, diagonal_b]), torch.cat([b, diagonal_a])]
    values = [(t[:, :1] * line[0] + t[:, 1:] * line[1]).sort(dim=0).values for t in full]
    total = (values[0] - values[1]).abs().pow(p).sum() / directions
    return _reduce(total, len(a) + len(b), reduction)


def _reduce(total: Tensor, count: int, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    return total / max(count, 1) if reduction == "mean" else total


KINDS = ("chamfer", "wasserstein", "sliced_wasserstein")


def diagram_distance(
    a: Diagram, b: Diagram, kind: str = "chamfer", dims: Sequence[int] | None = None, **options: Any
) -> dict[int, Tensor]:
    """Distance of two diagrams for each homology dimension: dimension -> scalar.

    Args:
        a, b: diagrams; by convention the teacher's first (the distances are symmetric).
        kind: ``"chamfer"``, ``"wasserstein"`` or ``"sliced_wasserstein"``.
        dims: dimensions to compare; None for all, which both must then hold.
        options: keyword arguments of the function of that name.

    Raises:
        ValueError: for an unknown kind, or diagrams of different dimensions.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown diagram distance {kind!r}; {did_you_mean(kind, KINDS)}")
    wanted = tuple(dims) if dims is not None else a.dims
    if dims is None and a.dims != b.dims:
        raise ValueError(f"the diagrams hold different dimensions, {a.dims} and {b.dims}: name those to compare")
    result = {}
    for d in wanted:
        if kind == "chamfer":
            result[d] = chamfer(a[d], b[d], dim=d, **options)
        elif kind == "wasserstein":
            result[d] = wasserstein(a[d], b[d], dim=d, **options)
        else:
            result[d] = sliced_wasserstein(a[d], b[d], **options)
    return result
