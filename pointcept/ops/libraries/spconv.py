"""Sparse convolution by spconv 2.3 (https://github.com/traveller59/spconv): float32 and float16."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from pointcept.ops.libraries import implicit_gemm


def sparse_convolution(
    x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """See :func:`pointcept.ops.libraries.implicit_gemm.sparse_convolution`; on a CUDA device."""
    ops = importlib.import_module("spconv.pytorch.ops")
    with torch.cuda.device(x.device):  # spconv asks CUDA for the current stream and takes every tensor to be there
        return implicit_gemm.sparse_convolution(x, weight, index, transposed, bias, ops)
