"""Sparse convolution by spconv-triton (https://github.com/L-Reichardt/spconv-triton): float32, float16, bfloat16."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from pointcept.ops.libraries import implicit_gemm


def sparse_convolution(
    x: Tensor, weight: Tensor, index: Tensor, transposed: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """See :func:`pointcept.ops.libraries.implicit_gemm.sparse_convolution`; on a CUDA device."""
    ops = importlib.import_module("spconv_triton.pytorch.ops")
    with torch.cuda.device(x.device):  # Triton launches on the current device
        return implicit_gemm.sparse_convolution(x, weight, index, transposed, bias, ops)
