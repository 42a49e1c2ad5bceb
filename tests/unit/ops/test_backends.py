"""The backends of other packages against the PyTorch twins.

On a CPU stand-ins with the packages' signatures read the tables and packings that we make for them; on a GPU
the packages themselves run (``spconv``, ``spconv_triton``, ``flash_attn``; each test skips what is not installed).
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pointcept.models.modules import SubmanifoldConv
from pointcept.ops import api as ops
from pointcept.ops import backend
from pointcept.ops.libraries import flash_attn, implicit_gemm
from pointcept.structures.voxel_grid import GridPyramid
from pointcept.utils.errors import ConfigError

MODULES = {"triton": "triton", "spconv": "spconv.pytorch", "spconv_triton": "spconv_triton.pytorch"}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# relative error of a whole tensor; spconv stores the partial sums of float16 weight gradients in float16
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 1.5e-2}
KINDS = {  # channels in and out
    "submanifold": (32, 48),
    "stem": (4, 32),
    "odd": (5, 19),
    "strided": (80, 160),
    "inverse": (160, 80),
}


def _random_voxels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 24, (6000, 3), generator=generator).unique(dim=0)


def _scan_voxels(shared_dir: Path) -> Tensor:
    """Voxels of 5 cm of a real nuScenes sweep."""
    scan = np.fromfile(shared_dir / "data" / "nuscenes_sweep.pcd.bin", dtype=np.float32).reshape(-1, 5)[:, :3]
    coord = torch.from_numpy(scan)
    return ((coord - coord.amin(0)) / 0.05).long().unique(dim=0)


def _problem(grid: Tensor, kind: str) -> tuple[Tensor, Tensor | None, int]:
    """Map, transposed map and number of input rows."""
    coarse, parent = (grid >> 1).unique(dim=0, return_inverse=True)
    children, parent_cell = ops.strided_maps(grid, parent, len(coarse))
    if kind == "strided":
        return children, parent_cell, len(grid)
    if kind == "inverse":
        return parent_cell, children, len(coarse)
    batch = torch.zeros(len(grid), dtype=torch.int64, device=grid.device)
    return ops.submanifold_map(grid, batch, 5 if kind == "stem" else 3), None, len(grid)


# --- stand-ins ---

TILE = 16


def _product(x: Tensor, weight: Tensor, pairs: Tensor, mask: Tensor, order: Tensor, rows: int) -> Tensor:
    """What both libraries compute: tiles of sorted rows, in each the cells that one of its masks names."""
    out = x.new_zeros(rows, weight.shape[2])
    for start in range(0, rows, TILE):
        place = order[start : start + TILE].long()
        for cell in range(len(pairs)):
            if not (mask[start : start + TILE, 0] >> cell & 1).any():
                continue
            source = pairs[cell, place].long()
            out[place[source >= 0]] += x[source[source >= 0]] @ weight[cell]
    return out


def _implicit_gemm(
    features: Tensor,
    filters: Tensor,
    pair_fwd: Tensor,
    masks_fwd: list[Tensor],
    argsort_fwd: list[Tensor],
    num_activate_out: int,
    masks: list[np.ndarray],
    is_train: bool,
    is_subm: bool,
    fp32_accum: bool,
) -> tuple[Tensor, Tensor | None, int]:
    assert all(t.is_contiguous() for t in (features, filters, pair_fwd, *masks_fwd, *argsort_fwd))
    assert pair_fwd.dtype is masks_fwd[0].dtype is argsort_fwd[0].dtype is torch.int32
    assert filters.shape[1] == len(pair_fwd) <= 32
    assert masks[0].item() == 2**32 - 1
    assert (is_subm, fp32_accum) == (False, True)
    out = _product(features, filters.permute(1, 2, 0), pair_fwd, masks_fwd[0], argsort_fwd[0], num_activate_out)
    return out, torch.zeros(1) if is_train else None, TILE


def _implicit_gemm_backward(
    features: Tensor,
    filters: Tensor,
    out_bp: Tensor,
    pair_fwd: Tensor,
    pair_bwd: Tensor,
    masks_fwd: list[Tensor],
    masks_bwd: list[Tensor],
    argsort_fwd: list[Tensor],
    argsort_bwd: list[Tensor],
    mask_output_fwd: Tensor | None,
    masks: list[np.ndarray],
    mask_width: int,
    is_subm: bool,
    fp32_accum: bool,
) -> tuple[Tensor, Tensor]:
    assert mask_output_fwd is not None
    assert mask_width == TILE
    assert out_bp.is_contiguous()
    grad_x = _product(out_bp, filters.transpose(0, 1), pair_bwd, masks_bwd[0], argsort_bwd[0], len(features))
    cells = []
    for source in pair_fwd.long():
        cells.append(out_bp[source >= 0].t() @ features[source[source >= 0]])
    return grad_x, torch.stack(cells, 1)


LIBRARY: Any = SimpleNamespace(implicit_gemm=_implicit_gemm, implicit_gemm_backward=_implicit_gemm_backward)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_tables_give_the_convolution_and_its_gradients(kind: str) -> None:
    grid = _random_voxels()[::20]
    index, transposed, rows = _problem(grid, kind)
    width_in, width_out = KINDS[kind]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, width_in, dtype=torch.float64, generator=generator)
    weight = torch.randn(width_out, index.shape[1], width_in, dtype=torch.float64, generator=generator)
    direction = torch.randn(len(index), width_out, dtype=torch.float64, generator=generator)
    results = []
    for convolve in (
        ops.sparse_convolution,
        lambda *a: implicit_gemm.sparse_convolution(*a, bias=None, ops=LIBRARY),
    ):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = convolve(a, w, index, transposed)
        (out * direction).sum().backward()
        results.append((out.detach(), a.grad, w.grad))
    for twin, library in zip(*results, strict=True):
        torch.testing.assert_close(library, twin)


def test_tables_are_made_once_per_map_and_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, rows = _problem(_random_voxels()[::100], "submanifold")
    made = []
    split = implicit_gemm.split_map
    monkeypatch.setattr(implicit_gemm, "split_map", lambda *a: made.append(1) or split(*a))
    before = len(implicit_gemm._tables)
    for _ in range(3):
        x = torch.randn(rows, 2, requires_grad=True)
        implicit_gemm.sparse_convolution(x, torch.randn(3, 27, 2), index, None, None, LIBRARY).sum().backward()
    assert len(made) == 2  # the map, and its mirror image for the gradient
    assert len(implicit_gemm._tables) == before + 1
    del index, x
    gc.collect()
    assert len(implicit_gemm._tables) == before


def test_no_tables_for_a_gradient_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    index, _, rows = _problem(_random_voxels()[::100], "submanifold")
    trained = []
    library: Any = SimpleNamespace(implicit_gemm=lambda *a, **k: trained.append(a[7]) or _implicit_gemm(*a, **k))
    weight = torch.randn(3, 3, 3, 3, 2, requires_grad=True)
    with torch.no_grad():
        out = implicit_gemm.sparse_convolution(torch.randn(rows, 2), weight, index, None, None, library)
    assert trained == [False]
    assert out.shape == (rows, 3)
    assert set(implicit_gemm._tables[index]) == {False}


def test_masks_are_words_of_32_bits_in_ascending_order() -> None:
    generator = torch.Generator().manual_seed(2)
    index = torch.randint(0, 10, (50, 40), generator=generator, dtype=torch.int32)
    for begin, part in zip((0, 32), implicit_gemm.split_map(index, 8), strict=True):
        words = part.mask[:, 0].long() & 0xFFFFFFFF
        assert (words.diff() >= 0).all()
        cells = index[:, begin : begin + 32]
        for word, row in zip(words.tolist(), part.order.tolist(), strict=True):
            assert word == sum(1 << k for k, source in enumerate(cells[row].tolist()) if source < 8)
        assert torch.equal(part.pairs.t(), cells.where(cells < 8, -1))


def _flash(qkv: Tensor, dropout_p: float, softmax_scale: float, deterministic: bool) -> Tensor:
    assert qkv.dim() == 5
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, scale=softmax_scale, dropout_p=dropout_p).transpose(1, 2)


def _flash_varlen(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, **options: Any) -> Tensor:
    assert cu_seqlens.dtype is torch.int32
    assert int(cu_seqlens.diff().max()) == max_seqlen
    assert int(cu_seqlens[-1]) == len(qkv)
    return torch.cat([_flash(part[None], **options)[0] for part in qkv.split(cu_seqlens.diff().tolist())])


FLASH: Any = SimpleNamespace(flash_attn_qkvpacked_func=_flash, flash_attn_varlen_qkvpacked_func=_flash_varlen)
SCANS = [([16, 32], 16), ([50], 16), ([5], 16), ([50, 3, 16, 17, 9], 16), ([3, 7], 16), ([7, 7], 16)]


def _plan(counts: list[int], patch_size: int, device: str = "cpu") -> ops.PatchPlan:
    generator = torch.Generator().manual_seed(0)
    batch = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    begin = torch.tensor([0, *counts]).cumsum(0)
    rows = torch.cat([torch.randperm(n, generator=generator) + b for n, b in zip(counts, begin, strict=False)])
    inverse = rows.argsort()
    return ops.patch_plan(rows.to(device), inverse.to(device), ops.patch_layout(batch.to(device), counts, patch_size))


@pytest.mark.parametrize(("counts", "patch_size"), SCANS)
def test_the_packing_gives_the_attention_and_its_gradient(
    counts: list[int], patch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", FLASH)
    plan = _plan(counts, patch_size)
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(sum(counts), 24, dtype=torch.float64, generator=generator)
    direction = torch.randn(sum(counts), 8, dtype=torch.float64, generator=generator)
    results = []
    for attend in (ops.patch_attention, flash_attn.patch_attention):
        x = qkv.clone().requires_grad_()
        out = attend(x, plan, 2, 0.5)
        (out * direction).sum().backward()
        results.append((out.detach(), x.grad))
    for twin, library in zip(*results, strict=True):
        torch.testing.assert_close(library, twin)


def test_a_position_bias_goes_to_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)  # importing it fails
    plan, qkv = _plan([20], 8), torch.randn(20, 12)
    bias = (torch.randn(3, 2, 8, 8), None)
    torch.testing.assert_close(
        flash_attn.patch_attention(qkv, plan, 2, 0.7, 0.0, bias), ops.patch_attention(qkv, plan, 2, 0.7, 0.0, bias)
    )


# --- the packages ---


@functools.cache
def _tune_less() -> None:
    """Let spconv-triton choose among two tilings: to try all of them for every new shape takes minutes."""
    autotuner = importlib.import_module("triton.runtime.autotuner").Autotuner
    for name, module in list(sys.modules.items()):
        if name.startswith("spconv_triton"):
            for value in vars(module).values():
                if isinstance(value, autotuner):
                    value.configs = value.configs[:2]


def _need(backend_name: str, dtype: torch.dtype) -> None:
    pytest.importorskip(MODULES[backend_name])
    if backend_name == "spconv_triton":
        _tune_less()
    if backend_name == "spconv" and dtype is torch.bfloat16:
        pytest.skip("spconv has no bfloat16")


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("voxels", ["random", "scan"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend_name", list(MODULES))
def test_convolution_against_the_twin_in_float64(
    backend_name: str, dtype: torch.dtype, kind: str, voxels: str, request: pytest.FixtureRequest
) -> None:
    _need(backend_name, dtype)
    grid = _random_voxels() if voxels == "random" else _scan_voxels(request.getfixturevalue("shared_dir"))
    index, transposed, rows = _problem(grid.cuda(), kind)
    width_in, width_out = KINDS[kind]
    generator = torch.Generator("cuda").manual_seed(3)
    draw = {"generator": generator, "device": "cuda"}
    # both sides start from numbers that the type holds
    x = torch.randn(rows, width_in, **draw).to(dtype)
    weight = (torch.randn(width_out, index.shape[1], width_in, **draw) / 30).to(dtype)
    direction = torch.randn(len(index), width_out, **draw).to(dtype)
    results = []
    for kind_of, name in ((torch.float64, "torch"), (dtype, backend_name)):
        a, w = x.to(kind_of).requires_grad_(), weight.to(kind_of).requires_grad_()
        with backend.override(f"sparse_convolution={name}"):
            out = ops.sparse_convolution(a, w, index, transposed)
        assert out.dtype is kind_of
        out.backward(direction.to(kind_of))
        results.append((out.detach().double(), a.grad.double(), w.grad.double()))
    for name, exact, found in zip(("output", "grad of x", "grad of weight"), *results, strict=True):
        error = float((found - exact).norm() / exact.norm())
        assert error < TOLERANCE[dtype], f"{name}: {error:.2e}"


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend_name", list(MODULES))
def test_a_layer_trains_and_evaluates_under_autocast(
    backend_name: str, dtype: torch.dtype, training: bool, shared_dir: Path
) -> None:
    _need(backend_name, dtype)
    voxels = _scan_voxels(shared_dir).cuda()
    offset = torch.tensor([len(voxels)], device="cuda")
    grid = GridPyramid(voxels, offset, ("z",), ()).levels[0]
    torch.manual_seed(0)
    layers = torch.nn.Sequential(SubmanifoldConv(4, 32, 5, bias=False), SubmanifoldConv(32, 32, 3, bias=True))
    layers = layers.cuda().train(training)
    feat = torch.randn(len(voxels), 4, device="cuda")

    def run() -> Tensor:
        x = feat
        for layer in layers:
            x = layer(x, grid)
        return x

    with torch.no_grad(), backend.override("torch"):
        exact = run()
    half = dtype is not torch.float32
    with (
        backend.override(f"sparse_convolution={backend_name}"),
        torch.autocast("cuda", dtype=dtype if half else torch.float16, enabled=half),
        torch.set_grad_enabled(training),
    ):
        out = run()
    assert out.dtype is dtype
    assert (out - exact).norm() / exact.norm() < 3 * TOLERANCE[dtype]
    if training:
        out.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layers.parameters())


@pytest.mark.gpu
@gpu
def test_spconv_and_bfloat16_is_an_error_where_asked_for_and_no_choice_otherwise() -> None:
    pytest.importorskip("spconv.pytorch")
    index, _, rows = _problem(_random_voxels().cuda(), "submanifold")
    x, weight = torch.randn(rows, 8, device="cuda").bfloat16(), torch.randn(8, 27, 8, device="cuda").bfloat16()
    with backend.override("spconv"), pytest.raises(ConfigError, match="takes float32 and float16, not bfloat16"):
        ops.sparse_convolution(x, weight, index)
    assert ops.sparse_convolution(x, weight, index).isfinite().all()


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("counts", [[5000], [30000, 700, 1024, 1025, 12], [300, 20]])
@pytest.mark.parametrize("heads_and_width", [(4, 64), (2, 24)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("backend_name", ["sdpa", "flash_attn"])
def test_attention_against_the_twin_in_float64(
    backend_name: str, dtype: torch.dtype, tolerance: float, heads_and_width: tuple[int, int], counts: list[int]
) -> None:
    if backend_name == "flash_attn":
        pytest.importorskip("flash_attn")
        if dtype is torch.float32:
            pytest.skip("flash_attn has no float32")
    heads, width = heads_and_width
    plan = _plan(counts, 1024, "cuda")
    generator = torch.Generator("cuda").manual_seed(4)
    qkv = torch.randn(sum(counts), 3 * width, generator=generator, device="cuda").to(dtype)
    direction = torch.randn(sum(counts), width, generator=generator, device="cuda").to(dtype)
    results = []
    for kind_of, name in ((torch.float64, "torch"), (dtype, backend_name)):
        x = qkv.to(kind_of).requires_grad_()
        with backend.override(f"patch_attention={name}"):
            out = ops.patch_attention(x, plan, heads, (width // heads) ** -0.5)
        out.backward(direction.to(kind_of))
        results.append((out.detach().double(), x.grad.double()))
    for name, exact, found in zip(("output", "gradient"), *results, strict=True):
        error = float((found - exact).norm() / exact.norm())
        assert error < tolerance, f"{name}: {error:.2e}"
