"""Sparse convolution against a dense one, its gradients, and its splitting into parts."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from pointcept.ops import api as ops
from pointcept.ops import backend
from pointcept.ops.reference import convolution


def _scene(n: int = 120, extent: int = 7, channels: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randint(0, extent, (n, 3), generator=generator).unique(dim=0)
    grid = grid[torch.randperm(len(grid), generator=generator)]
    feat = torch.randn(len(grid), channels, generator=generator, dtype=torch.float64)
    return grid, torch.zeros(len(grid), dtype=torch.int64), feat


def _dense(grid, feat, extent):
    volume = feat.new_zeros(1, feat.shape[1], extent, extent, extent)
    volume[0, :, grid[:, 0], grid[:, 1], grid[:, 2]] = feat.t()
    return volume


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_submanifold_equals_a_dense_convolution_at_the_voxels(kernel_size, device):
    grid, batch, feat = _scene()
    weight = torch.randn(4, kernel_size, kernel_size, kernel_size, 5, dtype=torch.float64)
    dense = F.conv3d(_dense(grid, feat, 7), weight.permute(0, 4, 1, 2, 3), padding=kernel_size // 2)
    expected = dense[0, :, grid[:, 0], grid[:, 1], grid[:, 2]].t()
    index = ops.submanifold_map(grid.to(device), batch.to(device), kernel_size)
    out = ops.sparse_convolution(feat.to(device), weight.to(device), index)
    torch.testing.assert_close(out.cpu(), expected)


def test_strided_equals_a_dense_convolution_with_stride(device):
    grid, _, feat = _scene(extent=8)
    weight = torch.randn(4, 2, 2, 2, 5, dtype=torch.float64)
    dense = F.conv3d(_dense(grid, feat, 8), weight.permute(0, 4, 1, 2, 3), stride=2)
    coarse, parent = (grid >> 1).unique(dim=0, return_inverse=True)
    children, parent_cell = ops.strided_maps(grid.to(device), parent.to(device), len(coarse))
    out = ops.sparse_convolution(feat.to(device), weight.to(device), children, parent_cell)
    torch.testing.assert_close(out.cpu(), dense[0, :, coarse[:, 0], coarse[:, 1], coarse[:, 2]].t())


def test_inverse_reads_the_parent_through_the_cell_of_the_child():
    grid, _, feat = _scene(extent=8)
    coarse, parent = (grid >> 1).unique(dim=0, return_inverse=True)
    weight = torch.randn(4, 8, 5, dtype=torch.float64)
    children, parent_cell = ops.strided_maps(grid, parent, len(coarse))
    x = feat[: len(coarse)]
    cell = (grid & 1) @ torch.tensor([4, 2, 1])
    expected = torch.einsum("noi,ni->no", weight[:, cell].transpose(0, 1), x[parent])
    torch.testing.assert_close(ops.sparse_convolution(x, weight, parent_cell, children), expected)


@pytest.mark.parametrize("kind", ["submanifold", "strided", "inverse"])
def test_gradients_by_finite_differences(kind):
    grid, batch, feat = _scene(n=24, extent=4, channels=2)
    coarse, parent = (grid >> 1).unique(dim=0, return_inverse=True)
    children, parent_cell = ops.strided_maps(grid, parent, len(coarse))
    index, transposed, rows = {
        "submanifold": (ops.submanifold_map(grid, batch, 3), None, len(grid)),
        "strided": (children, parent_cell, len(grid)),
        "inverse": (parent_cell, children, len(coarse)),
    }[kind]
    x = feat[:rows].clone().requires_grad_()
    weight = torch.randn(3, index.shape[1], 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w: ops.sparse_convolution(a, w, index, transposed), (x, weight))


def test_parts_give_the_same_result(monkeypatch):
    grid, batch, feat = _scene()
    index = ops.submanifold_map(grid, batch, 3)
    results = []
    for limit in (2**30, 27 * 5 * 8 * 10):
        monkeypatch.setattr(convolution, "GATHER_BYTES", limit)
        x = feat.clone().requires_grad_()
        torch.manual_seed(1)
        weight = torch.randn(4, 27, 5, dtype=torch.float64, requires_grad=True)
        out = ops.sparse_convolution(x, weight, index)
        out.square().sum().backward()
        results.append((out.detach(), x.grad, weight.grad))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts)


def test_a_bias_is_added_to_every_row():
    grid, batch, feat = _scene(n=24, extent=4, channels=2)
    index = ops.submanifold_map(grid, batch, 3)
    x, weight = feat.requires_grad_(), torch.randn(3, 27, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    expected = ops.sparse_convolution(x, weight, index) + bias
    torch.testing.assert_close(ops.sparse_convolution(x, weight, index, bias=bias), expected)
    assert torch.autograd.gradcheck(lambda *t: ops.sparse_convolution(*t[:2], index, None, t[2]), (x, weight, bias))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["submanifold", "wide", "stem", "strided", "inverse"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)]
)
@pytest.mark.parametrize("backend_name", ["triton", "torch"])
def test_every_precision_and_backend_stays_near_float64(backend_name, dtype, tolerance, kind):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randint(0, 24, (6000, 3), generator=generator).unique(dim=0).cuda()
    coarse, parent = (grid >> 1).unique(dim=0, return_inverse=True)
    children, parent_cell = ops.strided_maps(grid, parent, len(coarse))
    batch = torch.zeros(len(grid), dtype=torch.int64, device="cuda")
    index, transposed, rows, channels = {
        "submanifold": (ops.submanifold_map(grid, batch, 3), None, len(grid), (32, 48)),
        "wide": (ops.submanifold_map(grid, batch, 3), None, len(grid), (256, 200)),
        "stem": (ops.submanifold_map(grid, batch, 5), None, len(grid), (4, 32)),
        "strided": (children, parent_cell, len(grid), (80, 160)),
        "inverse": (parent_cell, children, len(coarse), (160, 80)),
    }[kind]
    x = torch.randn(rows, channels[0], generator=generator).cuda().requires_grad_()
    weight = (torch.randn(channels[1], index.shape[1], channels[0], generator=generator) / 30).cuda().requires_grad_()
    direction = torch.randn(len(index), channels[1], generator=generator).cuda()
    results = []
    for kind_of in (torch.float64, dtype):
        a, w = x.detach().to(kind_of).requires_grad_(), weight.detach().to(kind_of).requires_grad_()
        b = torch.linspace(-1, 1, channels[1], device="cuda", dtype=kind_of, requires_grad=True)
        with backend.override(f"sparse_convolution={backend_name}"):
            out = ops.sparse_convolution(a, w, index, transposed, b)
        assert out.dtype == kind_of
        (out.double() * direction).sum().backward()
        results.append((out.detach().double(), a.grad.double(), w.grad.double(), b.grad.double()))
    for exact, half in zip(*results, strict=True):
        assert (half - exact).norm() / exact.norm() < tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", ["submanifold", "strided", "inverse"])
def test_an_order_of_the_rows_changes_no_bit(kind, monkeypatch):
    kernels = importlib.import_module("pointops.convolution")
    grid, batch, feat = (t.cuda() for t in _scene(n=4000, extent=40, channels=64))
    coarse, parent = (grid >> 1).unique(dim=0, return_inverse=True)
    children, parent_cell = ops.strided_maps(grid, parent, len(coarse))
    maps = {
        "submanifold": lambda: (ops.submanifold_map(grid, batch, 3), None),
        "strided": lambda: (children.clone(), parent_cell.clone()),
        "inverse": lambda: (parent_cell.clone(), children.clone()),
    }[kind]
    results = []
    for smallest in (10**12, 1):
        monkeypatch.setattr(kernels, "ORDERED_WORK", smallest)
        index, transposed = maps()
        x = feat[: len(coarse) if kind == "inverse" else len(feat)].half().requires_grad_()
        weight = torch.ones(48, index.shape[1], 64, device="cuda", dtype=torch.float16).cumsum(1) / 64
        with backend.override("sparse_convolution=triton"):
            out = ops.sparse_convolution(x, weight, index, transposed)
        results.append((out.detach(), torch.autograd.grad(out.float().square().mean(), x)[0]))
        assert (index in kernels._orders) == (smallest == 1)
    for plain, ordered in zip(*results, strict=True):
        assert torch.equal(plain, ordered)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_autocast_computes_in_half_precision():
    grid, batch, feat = _scene()
    index = ops.submanifold_map(grid.cuda(), batch.cuda(), 3)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = ops.sparse_convolution(feat.float().cuda(), torch.randn(4, 27, 5, device="cuda"), index)
    assert out.dtype is torch.bfloat16
