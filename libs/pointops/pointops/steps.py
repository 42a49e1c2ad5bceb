"""Steps that several kernels take: of a running softmax, through the kernel cells in use, of a search."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softmax_step(score, v, top, total, result, scale, PRECISION: tl.constexpr):
    """Take the keys of ``score`` (queries, keys), as the products gave it, into a softmax over powers of two.

    ``top`` is the largest scaled score of each query so far, ``total`` the sum of its weights, ``result`` the sum of
    the weighted rows of ``v``; the scale is positive.
    """
    larger = tl.maximum(top, tl.max(score, axis=1) * scale)
    shrink = tl.exp2(top - larger)
    weight = tl.exp2(score * scale - larger[:, None])
    total = total * shrink + tl.sum(weight, axis=1)
    result = tl.dot(weight.to(v.dtype), v, result * shrink[:, None], input_precision=PRECISION)
    return larger, total, result


@triton.jit
def lowest_cell(cells):
    """The lowest bit that is set, and its number."""
    lowest = cells & (-cells)
    return lowest, (tl.log2(lowest.to(tl.float32)) + 0.5).to(tl.int32)


@triton.jit
def first_not_below(keys_ptr, query, inside, low, high, steps):
    """Binary search in ascending keys: the first place from ``low`` on, up to ``high``, whose key is not below."""
    for _ in range(steps):
        middle = (low + high) >> 1
        searching = inside & (low < high)
        smaller = tl.load(keys_ptr + middle, mask=searching, other=0) < query
        low = tl.where(searching & smaller, middle + 1, low)
        high = tl.where(searching & (smaller == 0), middle, high)
    return low
