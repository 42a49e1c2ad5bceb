"""Patch attention against attention computed scan by scan, patch by patch."""

import pytest
import torch

from pointcept.ops import api as ops
from pointcept.ops import backend
from pointcept.ops.reference.attention import from_slots, to_slots


def _plan(counts, patch_size, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    batch = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    begin = torch.tensor([0, *counts]).cumsum(0)
    rows = torch.cat([torch.randperm(n, generator=generator) + b for n, b in zip(counts, begin.tolist(), strict=False)])
    inverse = rows.argsort()
    plan = ops.patch_plan(rows.to(device), inverse.to(device), ops.patch_layout(batch.to(device), counts, patch_size))
    return plan, rows, begin.tolist()


def _naive(qkv, rows, begin, counts, patch_size, heads, scale):
    n, channels = qkv.shape[0], qkv.shape[1] // 3
    out = torch.zeros(n, channels, dtype=qkv.dtype)
    for start, count in zip(begin, counts, strict=False):
        order = rows[start : start + count]
        for first in range(0, count, patch_size):
            kept = order[first : first + patch_size]
            members = kept
            if len(kept) < patch_size < count:
                members = torch.cat([kept, order[first - patch_size + len(kept) : first]])
            q, k, v = (t.view(-1, heads, channels // heads) for t in qkv[members].split(channels, 1))
            weights = (torch.einsum("qhd,khd->hqk", q, k) * scale).softmax(-1)
            out[kept] = torch.einsum("hqk,khd->qhd", weights, v).reshape(-1, channels)[: len(kept)]
    return out


CASES = [
    ([16], 16),
    ([16, 32], 16),
    ([50], 16),
    ([5], 16),
    ([1], 4),
    ([50, 3, 16, 17, 9], 16),
    ([3, 7], 16),
    ([7, 1], 16),
    ([40, 40], 8),
]


@pytest.mark.parametrize(("counts", "patch_size"), CASES)
def test_against_naive_patches(counts, patch_size, device):
    plan, rows, begin = _plan(counts, patch_size, device=device)
    qkv = torch.randn(sum(counts), 3 * 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = ops.patch_attention(qkv.to(device), plan, 2, 0.5)
    torch.testing.assert_close(out.cpu(), _naive(qkv, rows, begin, counts, patch_size, 2, 0.5))


@pytest.mark.parametrize(("counts", "patch_size"), CASES)
def test_gradient_equals_the_naive_one(counts, patch_size, device):
    plan, rows, begin = _plan(counts, patch_size, device=device)
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(sum(counts), 3 * 8, dtype=torch.float64, generator=generator)
    direction = torch.randn(sum(counts), 8, dtype=torch.float64, generator=generator)
    ours = qkv.clone().to(device).requires_grad_()
    (ops.patch_attention(ours, plan, 2, 0.5) * direction.to(device)).sum().backward()
    naive = qkv.clone().requires_grad_()
    (_naive(naive, rows, begin, counts, patch_size, 2, 0.5) * direction).sum().backward()
    torch.testing.assert_close(ours.grad.cpu(), naive.grad)


def test_every_point_has_one_slot_and_last_patches_are_completed():
    plan, rows, _ = _plan([50, 3], 16)
    assert plan.full == (4, 16)
    assert plan.short == (1, 3)
    assert torch.equal(plan.rows[plan.slot], torch.arange(53))
    assert len(plan.repeated) == 14
    assert torch.equal(plan.rows[plan.repeated], rows[34:48])


def _padded_plan(counts, patch_size, room, patches, seed=0):
    """Patches in shapes that stay, slot by slot from the definition: ``room`` rows of padding, ``patches`` in all."""
    generator = torch.Generator().manual_seed(seed)
    n, k = sum(counts), patch_size
    capacity, begin = n + room, 0
    rows, slot, lengths, repeated, orders = [], torch.full((capacity,), -1), [], [], []
    for count in counts:
        order = torch.randperm(count, generator=generator) + begin
        begin += count
        orders.append(order)
        for first in range(0, count, k):
            kept = order[first : first + k]
            slot[kept] = len(rows) + torch.arange(len(kept))
            if count > k:  # the last patch is completed by points of the one before it
                again = order[first + len(kept) - k : first]
                repeated += range(len(rows) + len(kept), len(rows) + k)
                lengths.append(k)
            else:
                again = kept.new_full((k - len(kept),), capacity - 1)
                lengths.append(len(kept))
            rows += [*kept.tolist(), *again.tolist()]
    empty = patches - len(lengths)
    rows += [capacity - 1] * (empty * k)
    repeated += [patches * k - 1] * 3  # slots without a point, as fixed shapes need them
    lengths = torch.tensor(lengths + [0] * empty, dtype=torch.int32)
    mask = (torch.arange(k) < lengths[:, None]) | (lengths[:, None] == 0)
    plan = ops.PatchPlan(
        torch.tensor(rows), slot, torch.tensor(repeated), (0, k), (patches, k), mask[:, None, None], lengths, True
    )
    return plan, torch.cat(orders)


@pytest.mark.parametrize("counts", [[50, 3, 16, 17, 9], [5], [40, 33], [16]])
def test_rows_of_padding_neither_give_nor_take(counts):
    """A batch in fixed shapes: real rows as patch by patch, zeros and a gradient of zero for the others."""
    n, k, room = sum(counts), 16, 7
    plan, order = _padded_plan(counts, k, room, patches=sum(-(-count // k) for count in counts) + 2)
    generator = torch.Generator().manual_seed(3)
    qkv = torch.randn(n, 3 * 8, dtype=torch.float64, generator=generator)
    direction = torch.randn(n + room, 8, dtype=torch.float64, generator=generator)
    padded = torch.cat([qkv, torch.full((room, 24), 7.0, dtype=torch.float64)]).requires_grad_()
    out = ops.patch_attention(padded, plan, 2, 0.5)
    begin = torch.tensor([0, *counts]).cumsum(0).tolist()
    qkv.requires_grad_()
    expected = _naive(qkv, order, begin, counts, k, 2, 0.5)
    torch.testing.assert_close(out[:n], expected)
    assert not out[n:].any()
    (out * direction).sum().backward()
    (expected * direction[:n]).sum().backward()
    torch.testing.assert_close(padded.grad[:n], qkv.grad)
    assert not padded.grad[n:].any()


def test_features_go_to_slots_and_come_back_without_the_padding():
    """The two ways of a backend that brings its own attention, with what completes patches in the gradient."""
    counts, n, room = [20, 3, 5], 28, 4
    plan, _ = _padded_plan(counts, 8, room, patches=6)
    x = torch.randn(n + room, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    slots = to_slots(x, plan)
    assert torch.equal(slots, x[plan.rows])
    held = (torch.arange(8) < plan.lengths[:, None]).view(-1, 1)
    assert torch.autograd.gradcheck(lambda rows: to_slots(rows, plan) * held, (x,))
    back = from_slots(slots, plan)
    assert torch.equal(back[:n], x[:n])
    assert not back[n:].any()
    leaf = slots.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: from_slots(rows, plan), (leaf,))


def test_bias_is_added_to_the_scores():
    counts, heads = [20, 3, 5], 2
    plan, rows, begin = _plan(counts, 8)
    qkv = torch.randn(28, 3 * 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    zero = (torch.zeros(3, heads, 8, 8, dtype=torch.float64), torch.zeros(2, heads, 5, 5, dtype=torch.float64))
    out = ops.patch_attention(qkv, plan, heads, 0.7, bias=zero)
    torch.testing.assert_close(out, _naive(qkv, rows, begin, counts, 8, heads, 0.7))
    far = (zero[0].clone(), zero[1].clone())
    far[0][..., 1:] = -1e9  # every point of a full patch sees the first one only
    value = qkv[plan.rows[:24:8], 8:]
    first = ops.patch_attention(qkv, plan, heads, 0.7, bias=far)
    torch.testing.assert_close(first[plan.rows[:8]], value[:1].expand(8, -1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("counts", "patch_size"), [*CASES, ([3000, 700, 1500], 1024), ([130], 48), ([5000], 200)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
@pytest.mark.parametrize(("heads", "size"), [(1, 16), (3, 16), (2, 32), (2, 64), (1, 128)])
def test_kernels_stay_near_float64(heads, size, dtype, tolerance, counts, patch_size):
    plan, _, _ = _plan(counts, patch_size, device="cuda")
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(sum(counts), 3 * heads * size, generator=generator).to(dtype)
    direction = torch.randn(sum(counts), heads * size, generator=generator).double().cuda()
    results = []
    for kind in (torch.float64, dtype):
        x = qkv.to("cuda", kind).detach().clone().requires_grad_()
        with backend.override("patch_attention=triton" if kind == dtype else ""):
            out = ops.patch_attention(x, plan, heads, 0.3)
        assert out.dtype == kind
        (out.double() * direction).sum().backward()
        results.append((out.detach().double(), x.grad.double()))
    for exact, half in zip(*results, strict=True):
        # The gradient through a softmax over one point is zero, and rounding is measured against the others.
        assert (half - exact).norm() <= tolerance * exact.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_give_the_same_bits_twice_and_leave_the_rest_to_pytorch():
    plan, _, _ = _plan([3000, 700], 1024, device="cuda")
    x = torch.randn(3700, 96, device="cuda", dtype=torch.float16, requires_grad=True)
    with backend.override("patch_attention=triton"):
        grads = [torch.autograd.grad(ops.patch_attention(x, plan, 2, 0.25).float().square().sum(), x)[0] for _ in "ab"]
        assert torch.equal(*grads)
        wide = ops.patch_attention(x.float(), plan, 2, 0.25)
        odd = ops.patch_attention(x, plan, 4, 0.25)  # heads of 8 channels
    assert wide.dtype is torch.float32
    torch.testing.assert_close(odd, ops.patch_attention(x.double(), plan, 4, 0.25).half(), rtol=1e-2, atol=1e-3)
