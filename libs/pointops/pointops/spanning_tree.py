"""Minimum spanning tree and farthest points of a stored matrix of weights, without waiting for the device.

A round of Boruvka's algorithm is four launches. An edge is one 64-bit integer, the bits of its weight above
its id, so that one atomic minimum per component finds the lightest edge and breaks ties; the minimum does not
depend on the order in which threads arrive, and two runs give the same tree. Rounds that find all points
joined do nothing.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

_NO_EDGE = torch.iinfo(torch.int64).max
_BLOCK = 256


@triton.jit
def _root(parent_ptr, label, inside):
    """Follow the links that the last round made to the label that kept its name."""
    above = tl.load(parent_ptr + label, mask=inside, other=0)
    while tl.max((above != label).to(tl.int32), axis=0) > 0:
        label = above
        above = tl.load(parent_ptr + label, mask=inside, other=0)
    return label


@triton.jit
def _edge_key(weight, i, j, n):
    # abs: the bits of -0.0 would be negative
    bits = tl.abs(weight).to(tl.int32, bitcast=True).to(tl.int64)
    return (bits << 32) | (tl.minimum(i, j).to(tl.int64) * n + tl.maximum(i, j))


@triton.jit(do_not_specialize=["n"])
def _offer_kernel(comp_ptr, parent_ptr, joined_ptr, near_ptr, near_w_ptr, best_ptr, n, BLOCK: tl.constexpr):
    """Bring labels up to date; points whose remembered neighbour is still foreign offer their edge."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    own = _root(parent_ptr, tl.load(comp_ptr + i, mask=inside, other=0), inside)
    tl.store(joined_ptr + i, own, mask=inside)
    near = tl.load(near_ptr + i, mask=inside, other=0)
    other = _root(parent_ptr, tl.load(comp_ptr + near, mask=inside, other=0), inside)
    weight = tl.load(near_w_ptr + i, mask=inside, other=0.0)
    tl.atomic_min(best_ptr + own, _edge_key(weight, i, near, n), mask=inside & (other != own))


@triton.jit(do_not_specialize=["n"])
def _search_kernel(matrix_ptr, joined_ptr, near_ptr, near_w_ptr, best_ptr, found_ptr, n, BLOCK: tl.constexpr):
    """A point whose neighbour was swallowed looks for a new one, unless its component knows a shorter edge.

    What it finds goes to ``found``: the threads of a program must agree on whether to search, so nothing may
    write to ``best`` while they ask.
    """
    i = tl.program_id(0)
    own = tl.load(joined_ptr + i)
    swallowed = tl.load(joined_ptr + tl.load(near_ptr + i)) == own
    lower_bound = tl.load(near_w_ptr + i).to(tl.int32, bitcast=True).to(tl.int64)
    if swallowed & (lower_bound <= (tl.load(best_ptr + own) >> 32)):
        least = tl.full((BLOCK,), float("inf"), dtype=tl.float32)
        at = tl.zeros((BLOCK,), dtype=tl.int32)
        row = matrix_ptr + i.to(tl.int64) * n
        for start in range(0, n, BLOCK):
            j = start + tl.arange(0, BLOCK)
            weight = tl.abs(tl.load(row + j, mask=j < n, other=float("inf")))
            foreign = tl.load(joined_ptr + j, mask=j < n, other=own) != own
            closer = foreign & (weight < least)
            least = tl.where(closer, weight, least)
            at = tl.where(closer, j, at)
        weight = tl.min(least, axis=0)
        j = tl.min(tl.where(least == weight, at, n), axis=0)
        tl.store(near_w_ptr + i, weight)
        tl.store(near_ptr + i, j)
        if weight < float("inf"):
            tl.atomic_min(found_ptr + own, _edge_key(weight, i, j, n))


@triton.jit
def _lighter(best_ptr, found_ptr, label, inside, NO_EDGE: tl.constexpr):
    best = tl.load(best_ptr + label, mask=inside, other=NO_EDGE)
    return tl.minimum(best, tl.load(found_ptr + label, mask=inside, other=NO_EDGE))


@triton.jit(do_not_specialize=["n"])
def _link_kernel(joined_ptr, best_ptr, found_ptr, link_ptr, n, NO_EDGE: tl.constexpr, BLOCK: tl.constexpr):
    """Every label that has chosen an edge points at the label on its other end."""
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = label < n
    key = _lighter(best_ptr, found_ptr, label, inside, NO_EDGE)
    chosen = key != NO_EDGE
    edge = key & 0xFFFFFFFF
    u = tl.load(joined_ptr + edge // n, mask=chosen, other=0)
    v = tl.load(joined_ptr + edge % n, mask=chosen, other=0)
    tl.store(link_ptr + label, tl.where(chosen, u + v - label, label), mask=inside)


@triton.jit(do_not_specialize=["n"])
def _merge_kernel(best_ptr, found_ptr, link_ptr, parent_ptr, tree_ptr, n, NO_EDGE: tl.constexpr, BLOCK: tl.constexpr):
    """Of two labels that chose the same edge the smaller keeps its name; all others give theirs up for an edge."""
    label = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = label < n
    link = tl.load(link_ptr + label, mask=inside, other=0)
    back = tl.load(link_ptr + link, mask=inside, other=0)
    parent = tl.where((back == label) & (label < link), label, link)
    tl.store(parent_ptr + label, parent, mask=inside)
    key = _lighter(best_ptr, found_ptr, label, inside, NO_EDGE)
    tl.store(tree_ptr + label, key & 0xFFFFFFFF, mask=inside & (parent != label))
    nothing = tl.full((BLOCK,), NO_EDGE, dtype=tl.int64)
    tl.store(best_ptr + label, nothing, mask=inside)
    tl.store(found_ptr + label, nothing, mask=inside)


def spanning_tree(matrix: torch.Tensor) -> torch.Tensor:
    """The minimum spanning tree of a complete graph; ties go to the edge with the smaller end points.

    Args:
        matrix: (N, N) float32 weights >= 0 on a CUDA device, bitwise symmetric, 2 <= N < 65 536.

    Returns:
        (N-1, 2) int64 end points, the smaller one first.
    """
    n, device = len(matrix), matrix.device
    point = torch.arange(n, dtype=torch.int32, device=device)
    comp, joined, parent, near = (point.clone() for _ in range(4))
    link = torch.empty_like(point)
    near_w = torch.zeros(n, device=device)
    best = torch.full((n,), _NO_EDGE, dtype=torch.int64, device=device)
    found, tree = best.clone(), best.clone()
    points = (triton.cdiv(n, _BLOCK),)
    with torch.cuda.device(device):
        for _ in range(math.ceil(math.log2(n))):
            _offer_kernel[points](comp, parent, joined, near, near_w, best, n, _BLOCK)
            _search_kernel[(n,)](matrix, joined, near, near_w, best, found, n, 1024)
            _link_kernel[points](joined, best, found, link, n, _NO_EDGE, _BLOCK)
            _merge_kernel[points](best, found, link, parent, tree, n, _NO_EDGE, _BLOCK)
            comp, joined = joined, comp
    # Every label but one lost its name once, together with one edge; the last root has none.
    index = torch.arange(n - 1, device=device)
    edge = tree[index + (index >= tree.argmax())]
    return torch.stack([edge // n, edge % n], dim=1)


@triton.jit(do_not_specialize=["n", "count"])
def _farthest_kernel(matrix_ptr, first_ptr, out_ptr, n, count, BLOCK: tl.constexpr):
    j = tl.arange(0, BLOCK)
    gap = tl.where(j < n, float("inf"), float("-inf"))
    current = tl.load(first_ptr).to(tl.int32)
    tl.store(out_ptr, current.to(tl.int64))
    for k in range(1, count):
        row = tl.load(matrix_ptr + current.to(tl.int64) * n + j, mask=j < n, other=float("-inf"))
        gap = tl.where(j == current, float("-inf"), tl.minimum(gap, row))
        current = tl.min(tl.where(gap == tl.max(gap, axis=0), j, BLOCK), axis=0)
        tl.store(out_ptr + k, current.to(tl.int64))


def farthest_rows(matrix: torch.Tensor, first: torch.Tensor, count: int) -> torch.Tensor:
    """Greedy farthest points: each one has the largest weight to the nearest of those before it (Gonzalez 1985).

    One program holds the gaps of all points in registers, up to some ten thousand points.

    Args:
        matrix: (N, N) float32 symmetric weights >= 0 on a CUDA device that grow with the distance.
        first: (1,) int64 the point to start with.
        count: how many distinct points, 1 to N.

    Returns:
        (count,) int64 in order of choice; ties go to the smallest index.
    """
    n = len(matrix)
    out = torch.empty(count, dtype=torch.int64, device=matrix.device)
    block = max(32, triton.next_power_of_2(n))
    with torch.cuda.device(matrix.device):
        _farthest_kernel[(1,)](matrix, first, out, n, count, block, num_warps=min(16, max(1, block // 256)))
    return out
