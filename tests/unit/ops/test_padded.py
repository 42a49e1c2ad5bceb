"""Layers on padded arrays: the twins against the layers of torch, the kernels against the twins."""

import pytest
import torch
import torch.nn.functional as F

from pointcept.ops import api as ops
from pointcept.ops import padded
from pointcept.ops.backend import override
from pointcept.structures import GridPyramid

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]


def random(*shape, seed=0, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


def number(n, device="cpu"):
    return torch.tensor([n], dtype=torch.int32, device=device)


@pytest.mark.parametrize("patch_size", [16, 48, 1024])
@pytest.mark.parametrize("counts", [[130], [130, 7, 48], [1]])
@pytest.mark.parametrize("name", DEVICES)
def test_windows_are_the_patches_of_the_models(counts, patch_size, name):
    grid = torch.cat(
        [torch.randperm(500, generator=torch.Generator().manual_seed(i))[:n] for i, n in enumerate(counts)]
    )
    ends = torch.tensor(counts).cumsum(0)
    level = GridPyramid(torch.stack([grid, grid % 7, grid % 3], 1), ends, ("z",), ()).levels[0]
    n, heads, dim = len(grid), 2, 16
    qkv = random(n, 3 * heads * dim)
    expected = ops.patch_attention(qkv, level.patches("z", patch_size), heads, dim**-0.5)[level.permutations["z"]]
    room = torch.full((n + 11, qkv.shape[1]), float("nan"))
    room[:n] = qkv[level.permutations["z"]]
    found = padded.window_attention(room.to(name), ends.int().to(name), heads, dim**-0.5, patch_size)
    torch.testing.assert_close(found[:n].cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DEVICES)
def test_linear(name):
    x, weight, bias = random(50, 24, device=name), random(24, 40, seed=1, device=name), random(40, seed=2, device=name)
    rows = torch.randint(0, 50, (30,), device=name).int()
    residual = random(30, 40, seed=3, device=name)
    out = padded.linear(x, weight, bias, number(28, name), torch.float32, rows, "gelu", residual)
    expected = F.gelu(x[rows.long()] @ weight + bias) + residual
    torch.testing.assert_close(out[:28], expected[:28], rtol=1e-4, atol=1e-4)
    copy = torch.empty_like(out, dtype=torch.float16)
    again = padded.linear(x, weight, bias, number(28, name), torch.float32, rows, "gelu", residual, copy)
    assert torch.equal(copy[:28], again[:28].half())
    layer = (x, weight, bias, number(28, name), torch.float32, rows, "gelu")
    assert torch.equal(padded.linear(*layer, residual, copy, copy_branch=True)[:28], again[:28])
    assert torch.equal(copy[:28], padded.linear(*layer)[:28].half())
    plain = padded.linear(x, weight, bias, number(50, name), torch.float32, activation="relu")
    torch.testing.assert_close(plain, F.relu(x @ weight + bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DEVICES)
def test_block_tail(name):
    x, attended, rows = random(40, 32, device=name), random(40, 32, seed=1, device=name), torch.randperm(40)
    layers = [
        (random(i, o, seed=s, device=name) / i**0.5, random(o, seed=s + 9, device=name))
        for s, (i, o) in enumerate(((32, 32), (32, 128), (128, 32)))
    ]
    copy = torch.empty_like(x, dtype=torch.float16)
    out = padded.block_tail(x, attended, rows.int().to(name), *layers, 1e-5, number(33, name), copy)
    assert torch.equal(copy[:33], out[:33].half())
    y = x + attended[rows.to(name)] @ layers[0][0] + layers[0][1]
    hidden = F.gelu(F.layer_norm(y, (32,)) @ layers[1][0] + layers[1][1])
    branch = hidden @ layers[2][0] + layers[2][1]
    torch.testing.assert_close(out[:33], (y + branch)[:33], rtol=1e-4, atol=1e-4)
    apart = torch.empty_like(x)
    again = padded.block_tail(x, attended, rows.int().to(name), *layers, 1e-5, number(33, name), apart, True)
    torch.testing.assert_close(again[:33], out[:33], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(apart[:33], branch[:33], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [24, 64])
@pytest.mark.parametrize("name", DEVICES)
def test_residual_norm(name, width):
    n, real = 40, 33
    residual, branch = random(n, width, device=name), random(n, width, seed=1, device=name)
    gamma, beta = random(width, seed=2, device=name), random(width, seed=3, device=name)
    rows, places = (torch.randperm(real).int().to(name) for _ in "ab")
    pad = torch.zeros(n - real, dtype=torch.int32, device=name)
    rows, places = torch.cat([rows, pad]), torch.cat([places, pad])
    count = number(real, name)

    y, normal = padded.residual_norm(
        residual, branch, count, 1e-5, torch.float32, inner=(gamma, beta, 1e-3), places=places
    )
    expected = residual + F.layer_norm(branch, (width,), gamma, beta, 1e-3)
    torch.testing.assert_close(y[:real], expected[:real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        normal[places[:real].long()], F.layer_norm(expected, (width,))[:real], rtol=1e-4, atol=1e-4
    )
    y, normal = padded.residual_norm(residual, branch, count, 1e-5, torch.float16, rows)
    expected = residual + branch[rows.long()]
    torch.testing.assert_close(y[:real], expected[:real])
    torch.testing.assert_close(normal[:real], F.layer_norm(expected, (width,))[:real].half(), rtol=2e-3, atol=2e-3)


def _map_of_sparse_voxels(n: int = 3000, name: str = "cpu") -> torch.Tensor:
    grid = torch.randint(0, 30, (n, 3), generator=torch.Generator().manual_seed(0)).unique(dim=0)
    return ops.submanifold_map(grid.to(name), torch.zeros(len(grid), dtype=torch.int64, device=name), 3)


@pytest.mark.parametrize("name", DEVICES)
def test_row_orders_put_rows_with_equal_cells_together_and_padding_last(name):
    index = _map_of_sparse_voxels(name=name)
    n, room = len(index), len(index) + 50
    padded_map = torch.full((27, room), room, dtype=torch.int32, device=name)
    padded_map[:, :n] = index.t().where(index.t() < n, room)
    padded_map[:, n:] = 0  # what padding holds does not matter
    small = padded_map[:, :300].clone().contiguous()
    orders = padded.row_orders([padded_map, small], [number(n, name), number(200, name)])
    for order, count, size in zip(orders, (n, 200), (room, 300), strict=True):
        assert torch.equal(order.long().sort().values, torch.arange(size, device=name))
        assert torch.equal(order[count:].long(), torch.arange(count, size, device=name))
    used = index < n
    tiles = [used[order].split(64) for order in (torch.arange(n, device=name), orders[0][:n].long())]
    natural, ordered = (sum(int(tile.any(0).sum()) for tile in split) for split in tiles)
    assert ordered < 0.7 * natural


@pytest.mark.parametrize("name", DEVICES)
def test_row_orders_change_one_cell_at_a_time(name):
    """Rows with every set of cells: each order of Gray's has neighbours that differ in one pair of opposite cells."""
    n, pairs = 1 << 13, 13
    used = (torch.arange(n, device=name) >> torch.arange(pairs, device=name)[:, None] & 1).bool()
    index = torch.full((27, n), n, dtype=torch.int32, device=name)
    index[:pairs] = torch.where(used & (torch.arange(n, device=name) % 3 > 0), 0, n)
    index[14:] = torch.where(used & (torch.arange(n, device=name) % 3 < 2), 0, n).flip(0)
    (order,) = padded.row_orders([index], [number(n, name)])
    rows = used[:, order.long()]
    assert ((rows[:, 1:] ^ rows[:, :-1]).sum(0) == 1).all()


@pytest.mark.parametrize("name", DEVICES)
def test_pool_max_with_negative_scales_and_gather_add(name):
    x, lengths = random(12, 5, device=name), torch.tensor([3, 1, 8], device=name)
    x[10:] = float("nan")  # padding
    parent = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 0, 0], dtype=torch.int32, device=name)
    begin = torch.tensor([0, 3, 4, 0], dtype=torch.int32, device=name)
    scale, shift = random(5, seed=1, device=name), random(5, seed=2, device=name)
    assert (scale < 0).any()
    out = padded.pool_max(x, parent, begin, scale, shift, number(10, name), number(3, name), torch.float32)
    largest = torch.stack([x[0:3].amax(0), x[3], x[4:10].amax(0)])
    torch.testing.assert_close(out[:3], F.gelu(largest * scale + shift))
    assert len(lengths) == 3
    copy = torch.empty_like(out, dtype=torch.float16)
    padded.pool_max(x, parent, begin, scale, shift, number(10, name), number(3, name), torch.float32, copy)
    assert torch.equal(copy[:3], out[:3].half())
    added = padded.gather_add(x, out, parent, number(10, name), torch.float32)
    torch.testing.assert_close(added[:10], x[:10] + out[parent[:10].long()])


@pytest.mark.parametrize("channels", [(4, 16), (24, 40)])
@pytest.mark.parametrize("name", DEVICES)
def test_gathered_linear_is_a_sparse_convolution(channels, name):
    rows, n, cells = 30, 25, 27
    x = random(rows, channels[0], device=name)
    index = torch.randint(0, 3 * rows, (n, cells), generator=torch.Generator().manual_seed(1)).clamp(max=rows).int()
    weight = random(channels[1], cells, channels[0], seed=2, device=name)
    bias = random(channels[1], seed=4, device=name)
    expected = ops.sparse_convolution(x, weight, index.to(name)) + bias
    flat, columns = weight.permute(1, 2, 0).flatten(0, 1).contiguous(), index.t().contiguous().to(name)
    out = padded.gathered_linear(x, columns, flat, bias, number(n, name), torch.float32)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    order = torch.randperm(n).int().to(name)
    copy = torch.empty_like(out, dtype=torch.float16)
    out = padded.gathered_linear(x, columns, flat, bias, number(n, name), torch.float32, "relu", order, copy)
    torch.testing.assert_close(out, F.relu(expected), rtol=1e-4, atol=1e-4)
    assert torch.equal(copy, out.half())


@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
@pytest.mark.parametrize("name", DEVICES)
def test_nan_is_handed_on(name, activation):
    """A maximum that leaves NaN out would make an ordinary number of it."""
    n, width = 40, 32
    x, count = random(n, width, device=name), number(n, name)
    x[5, 3] = float("nan")
    weight, bias = torch.eye(width, device=name), torch.zeros(width, device=name)
    out = padded.linear(x, weight, bias, count, torch.float32, activation=activation)
    assert out[5].isnan().any()
    index = torch.arange(n, device=name).int()[None]
    out = padded.gathered_linear(x, index, weight, bias, count, torch.float32, activation)
    assert out[5].isnan().any()
    parent = torch.arange(n, device=name).int() // 4
    begin = 4 * torch.arange(n // 4, device=name).int()
    pooled = padded.pool_max(x, parent, begin, bias + 1, bias, count, number(n // 4, name), torch.float32)
    assert pooled.isnan().nonzero().tolist() == [[1, 3]]
    qkv = random(n, 3 * width, seed=1, device=name)
    qkv[5, width] = float("nan")  # one key, that all queries of its patch read
    attended = padded.window_attention(qkv, count, 2, 0.25, 16)
    assert attended[:16].isnan().any(1).all()
    assert not attended[16:32].isnan().any()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("n", [3000, 40000])  # small and large tiles, which are other instructions on an H100
@pytest.mark.parametrize("width", [16, 64, 128, 256])
def test_half_precision_kernels_stay_near_their_twins(dtype, tolerance, width, n):
    real = n - 100
    count = number(real, "cuda")
    x = random(n, width, device="cuda")
    index = torch.randint(0, 3 * n, (27, n), device="cuda").clamp(max=n).int()
    rows = torch.randperm(n, device="cuda").int()
    order = torch.cat([torch.randperm(real, device="cuda"), torch.arange(real, n, device="cuda")]).int()
    layers = [
        ((random(i, o, seed=s, device="cuda") / i**0.5).to(dtype), random(o, seed=s + 9, device="cuda"))
        for s, (i, o) in enumerate(((width, width), (width, 4 * width), (4 * width, width)))
    ]
    kernel = (random(27 * width, width, seed=5, device="cuda") / (9 * width) ** 0.5).to(dtype)
    ends = torch.tensor([1500, real], dtype=torch.int32, device="cuda")
    qkv = random(n, 3 * width, seed=6, device="cuda").to(dtype)

    def everything():
        yield padded.gathered_linear(x, index, kernel, layers[0][1], count, torch.float32, "gelu")
        yield padded.gathered_linear(x.to(dtype), index, kernel, layers[0][1], count, dtype, order=order)
        yield padded.linear(x, *layers[1], count, dtype, rows=rows)
        yield from padded.residual_norm(x, qkv[:, :width].contiguous(), count, 1e-5, dtype, rows=rows)
        yield padded.window_attention(qkv, ends, width // 16, 0.25, 1024)
        if width <= padded.fused_channels(dtype):
            yield padded.block_tail(x, qkv[:, :width].contiguous(), rows, *layers, 1e-5, count)

    found = list(everything())
    with override("torch"):
        expected = list(everything())
    differences = [
        float((out[:real].float() - other[:real].float()).norm() / other[:real].float().norm())
        for out, other in zip(found, expected, strict=True)
    ]
    assert max(differences) < tolerance, differences
