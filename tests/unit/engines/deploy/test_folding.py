"""Folded maps give what the layers give one after the other."""

import torch
from torch import nn

from pointcept.engines.deploy.folding import Affine, Target, norm_scale
from pointcept.models.modules import BatchNorm, StridedConv, SubmanifoldConv

X = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def trained_norm(channels: int) -> BatchNorm:
    norm = BatchNorm(channels, eps=1e-3).double()
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm.eval()


@torch.no_grad()
def test_linear_with_norms_around_it():
    linear, norm, before = nn.Linear(6, 5).double(), trained_norm(5), nn.LayerNorm(6).double()
    nn.init.normal_(before.weight)
    nn.init.normal_(before.bias)
    folded = Affine.of_linear(linear).then_norm(norm)
    torch.testing.assert_close(X @ folded.weight + folded.bias, norm(linear(X)))
    folded = Affine.of_linear(linear).after_layer_norm(before)
    normal = nn.functional.layer_norm(X, (6,))
    torch.testing.assert_close(normal @ folded.weight + folded.bias, linear(before(X)))
    scale, shift = norm_scale(norm)
    torch.testing.assert_close(X[:, :5] * scale + shift, norm(X[:, :5]))


@torch.no_grad()
def test_convolutions():
    cells = torch.randn(20, 27, 6, dtype=torch.float64)
    conv, linear = SubmanifoldConv(6, 4, 3, bias=True).double(), nn.Linear(4, 3).double()
    folded = Affine.of_convolution(conv).then_linear(linear)
    expected = linear(torch.einsum("nki,oki->no", cells, conv.weight.flatten(1, 3)) + conv.bias)
    torch.testing.assert_close(cells.flatten(1) @ folded.weight + folded.bias, expected)
    single = SubmanifoldConv(6, 4, 1, bias=False).double()
    torch.testing.assert_close(X @ Affine.of_convolution(single).weight, X @ single.weight.view(6, 4))
    assert Affine.of_convolution(StridedConv(6, 4)).weight.shape == (48, 4)
    weight, bias = folded.finish(Target(torch.float16, torch.device("cpu")))
    assert (weight.dtype, bias.dtype) == (torch.float16, torch.float32)
    assert weight.is_contiguous()
