"""Sparse convolution through the implicit matrix product that spconv and spconv-triton offer alike.

Both libraries read, beside the rows of every kernel cell, one bit mask per output row that names the
cells in use, with the rows sorted by it: rows of one tile then skip the same cells. These tables follow
from the neighbour map alone. They are made once per map and live as long as the map does.

The libraries' own modules and autograd functions are not used: under autocast these cast everything to
float16, bfloat16 too, and the modules fail in evaluation.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

# A mask has 32 bits. Of larger kernels spconv forgets its tuning from call to call (its tables know a
# "dynamic mask", its look-up does not), so their cells are taken in parts, and the parts are added up.
CELLS = 32
_EVERY_CELL = [np.array([0xFFFFFFFF], dtype=np.uint32)]


class Part(NamedTuple):
    """Up to 32 kernel cells k of a map of N output rows.

    Attributes:
        pairs: (k, N) int32 input row of every cell, -1 where there is none.
        mask: (N, 1) int32, bit k set where cell k has a row; ascending as unsigned numbers.
        order: (N,) int32 output row that each mask belongs to.
    """

    pairs: Tensor
    mask: Tensor
    order: Tensor


_tables: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def split_map(index: Tensor, rows: int) -> list[Part]:
    """The tables of a map.

    Args:
        index: (N, K) int32 input row of every kernel cell, ``rows`` where there is none.
        rows: number of input rows M.
    """
    parts = []
    for cells in index.split(CELLS, dim=1):
        used = cells < rows
        word = (used.long() << torch.arange(cells.shape[1], device=index.device)).sum(1)
        mask, order = word.sort(stable=True)
        signed = torch.where(mask < 2**31, mask, mask - 2**32).int()
        pairs = cells.masked_fill(~used, -1).t().contiguous()
        parts.append(Part(pairs, signed[:, None].contiguous(), order.int()))
    return parts


def _parts(index: Tensor, rows: int, mirrored: bool = False) -> list[Part]:
    """What :func:`split_map` makes of ``index``, or of ``index`` with its cells in reverse order; remembered."""
    known = _tables.setdefault(index, {})
    if mirrored not in known:
        known[mirrored] = split_map(index.flip(1) if mirrored else index, rows)
    return known[mirrored]


class _SparseConvolution(torch.autograd.Function):
    """See :func:`sparse_convolution`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None, ops: ModuleType, train: bool
    ) -> Tensor:
        x = x.contiguous()
        ctx.ops, ctx.tiles, out = ops, [], None
        for part, filters in zip(_parts(index, len(x)), weight.split(CELLS, dim=1), strict=True):
            total, tile_masks, tile_rows = ops.implicit_gemm(
                *(x, filters.contiguous(), part.pairs, [part.mask], [part.order]),
                *(len(index), _EVERY_CELL, train, False),
                fp32_accum=True,
            )
            ctx.tiles.append((tile_masks, tile_rows))
            out = total if out is None else out.add_(total)
        ctx.save_for_backward(x, weight, index, transposed)
        assert out is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        x, weight, index, transposed = ctx.saved_tensors
        grad, grad_x, by_cell = grad.contiguous(), None, []
        there = _parts(index, len(x))
        back = _parts(index, len(x), mirrored=True) if transposed is None else _parts(transposed, len(grad))
        for part, mirror, filters, (tile_masks, tile_rows) in zip(
            there, back, weight.split(CELLS, dim=1), ctx.tiles, strict=True
        ):
            part_x, part_weight = ctx.ops.implicit_gemm_backward(
                *(x, filters.contiguous(), grad, part.pairs, mirror.pairs),
                *([part.mask], [mirror.mask], [part.order], [mirror.order]),
                mask_output_fwd=tile_masks,
                masks=_EVERY_CELL,
                mask_width=tile_rows,
                is_subm=False,
                fp32_accum=True,
            )
            grad_x = part_x if grad_x is None else grad_x.add_(part_x)
            by_cell.append(part_weight)
        return grad_x, torch.cat(by_cell, dim=1), None, None, None, None


def sparse_convolution(
    x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None, bias: Tensor | None, ops: ModuleType
) -> Tensor:
    """out[j] = Σ_k weight[:, k] · x[index[j, k]] + bias, rows beyond the last counting as zero.

    Args:
        x: (M, C_in) features.
        weight: (C_out, K, C_in), or (C_out, k_x, k_y, k_z, C_in) with K = k_x·k_y·k_z.
        index: (N, K) int32 input row of every kernel cell, M where there is none; never changed in place.
        transposed: (M, K) int32 output row that reads input row i through cell k, N where there is none;
            None for a submanifold map.
        bias: (C_out,) added to every row.
        ops: ``spconv.pytorch.ops`` or ``spconv_triton.pytorch.ops``.

    Returns:
        (N, C_out) of the type of ``x``, summed in float32.
    """
    # Only with train=True do the libraries keep what their backward pass reads.
    train = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    out = _SparseConvolution.apply(x, weight.flatten(1, -2).to(x.dtype), index, transposed, ops, train)
    return out if bias is None else out + bias.to(out.dtype)
