"""The pyramid of fixed shapes: the same voxels, orders, neighbours and patches, and harmless rows of padding."""

import gc
import weakref

import pytest
import torch

from pointcept.ops import api as ops
from pointcept.structures import Capacities, FixedPyramid, GridPyramid, Sizes, room_for, survey
from tests.fixed import NoWaiting, lay_out, padded_rows, poison, random_scans

STRIDES = (2, 4, 2)
SCANS = [((300,), 14), ((150, 3, 90), 30), ((64, 1), 6), ((80, 40), 5000)]


def both(sizes, extent, device, distinct=True, orders=ops.ORDERS):
    batch = random_scans(sizes, min(extent, 40), distinct=distinct)
    grid, offset = batch["grid_coord"] * max(1, extent // 40), batch["offset"]
    pyramid = GridPyramid(grid.to(device), offset.to(device), orders, STRIDES)
    return pyramid, *lay_out(grid.to(device), offset.to(device), orders, STRIDES)


@pytest.mark.parametrize(("sizes", "extent"), SCANS)
@pytest.mark.parametrize("distinct", [True, False])
def test_real_rows_are_those_of_the_ordinary_pyramid(sizes, extent, distinct, device):
    expected, fixed, host = both(sizes, extent, device, distinct)
    view = fixed.view()
    for i, (wanted, found) in enumerate(zip(expected.levels, view.levels, strict=True)):
        n, rows = len(wanted), wanted.permutations["z"]
        place = torch.empty_like(rows).scatter_(0, rows, torch.arange(n, device=device))  # row -> fixed row
        assert int(found.real) == n == host.rows[i]
        assert host.counts[i] == wanted.counts
        assert found.stride == (1, 2, 8, 16)[i]  # the ordinary ones stop where the octree is one voxel
        assert torch.equal(found.grid_coord[:n], wanted.grid_coord[rows])
        assert torch.equal(found.batch[:n], wanted.batch[rows])
        for order in ops.ORDERS:
            assert torch.equal(found.permutations[order][:n], place[wanted.permutations[order]])
            assert torch.equal(found.inverse(order)[found.permutations[order]], torch.arange(len(found), device=device))
        if wanted.duplicates is None:
            for size in (3, 5) if i == 0 else (3,):
                places = torch.cat([place, place.new_tensor([len(found)])])
                assert torch.equal(found.neighbours(size)[:n].long(), places[wanted.neighbours(size)[rows].long()])
    assert torch.equal(fixed.position[: host.rows[0]], expected.levels[0].inverse("z"))
    assert torch.equal(fixed.source[: host.rows[0]], expected.levels[0].permutations["z"])
    for pyramid, ordinary in ((view.poolings, expected.poolings), (view.distinct()[1], expected.distinct()[1])):
        levels = expected.levels if pyramid is view.poolings else expected.distinct()[0]
        for i, (found, wanted) in enumerate(zip(pyramid, ordinary, strict=True)):
            n, m = len(levels[i]), len(levels[i + 1])
            assert (int(found.fine_real), int(found.coarse_real)) == (n, m)
            if levels[i] is not expected.levels[0]:
                assert torch.equal(found.cluster[:n], wanted.cluster)
            assert torch.equal(found.lengths[:m], wanted.lengths)


@pytest.mark.parametrize(("sizes", "extent"), SCANS)
@pytest.mark.parametrize("distinct", [True, False])
def test_padding_keeps_to_itself(sizes, extent, distinct, device):
    _, fixed, host = both(sizes, extent, device, distinct)
    view = fixed.view()
    for levels, poolings in ((view.levels, view.poolings), view.distinct()):
        for i, level in enumerate(levels):
            n, room = int(level.real), len(level)
            padding = torch.arange(n, room, device=device)
            assert room > n
            assert (level.grid_coord[n:] == 0).all()
            assert (level.batch[n:] == len(sizes)).all()
            for table in level.permutations.values():
                assert torch.equal(table[n:], padding)
            if level.duplicates is None:
                assert (level.neighbours(3)[n:] == room).all()
            if i < len(poolings):
                pooling, m, above = poolings[i], int(levels[i + 1].real), len(levels[i + 1])
                assert torch.equal(pooling.permutation, torch.arange(room, device=device))
                assert (pooling.cluster.diff() >= 0).all()
                assert torch.equal(torch.bincount(pooling.cluster, minlength=above), pooling.lengths)
                assert (pooling.lengths[: int(pooling.coarse_real)] >= 1).all()
                j = torch.arange(room - n, device=device)
                assert torch.equal(pooling.cluster[n:], m + j * (above - m) // (room - n))
    assert torch.equal(fixed.source[host.rows[0] :], torch.arange(host.rows[0], len(fixed.source), device=device))


@pytest.mark.parametrize("seed", range(4))
def test_copies_are_counted(seed, device):
    batch = random_scans((150, 90, 2), 6, seed, distinct=False)
    _, sizes = lay_out(batch["grid_coord"].to(device), batch["offset"].to(device), ("z",), (2,))
    scans = torch.bucketize(torch.arange(242), batch["offset"], right=True)
    _, counts = torch.cat([scans[:, None], batch["grid_coord"]], 1).unique(dim=0, return_counts=True)
    assert sizes.repeated == int((counts > 1).sum())
    assert sizes.copies == int(counts[counts > 1].sum())
    assert sizes.distinct[-1] == len(counts)
    assert sizes.rows[0] == 242


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_maps_of_copies_are_transposes_of_each_other(kernel_size):
    _, fixed, host = both((150, 3, 90), 6, torch.device("cpu"), distinct=False)
    level = fixed.view().levels[0]
    n, repeated = len(level), fixed.capacities.repeated
    maps = level.duplicates.maps(kernel_size)
    assert maps.index.shape == (n + repeated, kernel_size**3)
    assert maps.transposed.shape == (n, kernel_size**3)
    assert len(maps.copies) == len(maps.around) == fixed.capacities.copies
    pairs = {(i, k, int(j)) for i, row in enumerate(maps.index) for k, j in enumerate(row) if j < n}
    turned = {(int(i), k, j) for j, row in enumerate(maps.transposed) for k, i in enumerate(row) if i < n + repeated}
    assert pairs == turned
    assert (maps.index[host.rows[0] : n] == n).all()
    assert (maps.index[n + host.repeated :] == n).all()
    assert (maps.copies[host.copies :] == n - 1).all()
    assert (maps.around[host.copies :] == n + repeated - 1).all()
    assert (maps.around[: host.copies] < n + host.repeated).all()


def test_strided_maps_leave_padding_out(device):
    expected, fixed, host = both((150, 3, 90), 30, device)
    levels, poolings = fixed.view().distinct()
    for i, pooling in enumerate(poolings):
        n, m, room, above = host.rows[i], host.rows[i + 1], len(levels[i]), len(levels[i + 1])
        assert pooling.strided_maps is not None
        children, parent_cell = pooling.strided_maps
        wanted, wanted_cell = ops.strided_maps(levels[i].grid_coord[:n], pooling.cluster[:n], m)
        if expected.strides[i] == 2:
            assert torch.equal(children[:m], wanted.masked_fill(wanted == n, room))
        assert torch.equal(parent_cell[:n], wanted_cell.masked_fill(wanted_cell == m, above))
        assert (children[m:] == room).all()
        assert (parent_cell[n:] == above).all()


@pytest.mark.parametrize("sizes", [(50,), (16,), (5,), (17, 3, 16, 32, 1), (3, 7), (40, 40, 15)])
def test_patches_are_the_same(sizes, device):
    batch = random_scans(sizes)
    grid, offset = batch["grid_coord"].to(device), batch["offset"].to(device)
    ordinary = GridPyramid(grid, offset, ("z", "hilbert"), ()).levels[0]
    fixed, _ = lay_out(grid, offset, ("z", "hilbert"), ())
    level = fixed.view().levels[0]
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(len(level), 24, dtype=torch.float64, generator=generator).to(device)
    direction = torch.randn(len(level), 8, dtype=torch.float64, generator=generator).to(device)
    direction[sum(sizes) :] = 0
    for order in ("z", "hilbert"):
        plan = level.patches(order, 16)
        assert plan.full == (0, 16)
        assert plan.short == (len(plan.lengths), 16)
        assert plan.lengths.sum() - len(grid) == sum(-n % 16 for n in sizes if n > 16)
        # what a kernel reads of a patch: points that have their slot there, and points of the patch before
        ours = qkv.clone().requires_grad_()
        out = ops.patch_attention(ours, plan, 2, 0.5)
        (out * direction).sum().backward()
        assert (out[sum(sizes) :] == 0).all()
        assert (ours.grad[sum(sizes) :] == 0).all()
        theirs = qkv[fixed.position[: sum(sizes)]].requires_grad_()
        wanted = ops.patch_attention(theirs, ordinary.patches(order, 16), 2, 0.5)
        (wanted * direction[fixed.position[: sum(sizes)]]).sum().backward()
        torch.testing.assert_close(out[fixed.position[: sum(sizes)]], wanted)
        torch.testing.assert_close(ours.grad[fixed.position[: sum(sizes)]], theirs.grad)
        rows, place = plan.rows.view(-1, 16), torch.arange(16, device=device)
        assert (rows[place >= plan.lengths[:, None]] == len(level) - 1).all()
        assert torch.equal(plan.rows[plan.slot[: sum(sizes)]], torch.arange(sum(sizes), device=device))
        assert (plan.slot[sum(sizes) :] == -1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("sizes", [(50,), (17, 3, 16, 32, 1), (3, 7), (2000, 300, 1300)])
@pytest.mark.parametrize("patch_size", [16, 1024])
def test_kernels_read_the_patches(sizes, patch_size):
    batch = random_scans(sizes, 20)
    fixed, _ = lay_out(batch["grid_coord"].cuda(), batch["offset"].cuda(), ("z", "hilbert"), ())
    level, n = fixed.view().levels[0], sum(sizes)
    qkv = torch.randn(len(level), 3 * 32, device="cuda", dtype=torch.float16)
    direction = torch.randn(len(level), 32, device="cuda").double()
    direction[n:] = 0
    results = []
    for kind in (torch.float64, torch.float16):
        x = qkv.to(kind, copy=True).requires_grad_()
        out = ops.patch_attention(x, level.patches("hilbert", patch_size), 2, 0.3)
        (out.double() * direction).sum().backward()
        assert (out[n:] == 0).all()
        assert (x.grad[n:] == 0).all()
        results.append((out.detach().double(), x.grad.double()))
    for exact, half in zip(*results, strict=True):
        assert (half - exact).norm() <= 2e-3 * exact.norm()


def test_views_choose_orders_and_have_tensors_of_their_own():
    _, fixed, _ = both((150, 90), 14, torch.device("cpu"))
    choice = torch.stack([torch.randperm(4) for _ in range(4)])
    views = fixed.view(), fixed.view(), fixed.view(choice)
    for i, (one, other, chosen) in enumerate(zip(*(view.levels for view in views), strict=True)):
        assert one.neighbours(3) is not other.neighbours(3)
        assert one.neighbours(3).data_ptr() == other.neighbours(3).data_ptr()
        for j, order in enumerate(ops.ORDERS):
            table = ops.ORDERS[choice[i, j]]
            assert torch.equal(chosen.permutations[order], one.permutations[table])
            assert torch.equal(chosen.inverse(order), one.inverse(table))
    assert views[0].poolings[0].cluster is not views[1].poolings[0].cluster
    assert views[0].fixed
    assert not GridPyramid.fixed
    assert views[0].serves(("hilbert",), STRIDES)
    assert not views[0].serves(("hilbert",), (2,))
    with pytest.raises(AssertionError, match="on the device alone"):
        _ = views[0].levels[0].counts
    with pytest.raises(AssertionError, match="no map of kernel size 5"):
        views[0].levels[1].neighbours(5)


@pytest.mark.parametrize("distinct", [True, False])
def test_stage_grids_hold_the_real_rows(distinct):
    expected, fixed, host = both((150, 90), 10, torch.device("cpu"), distinct)
    for grids, wanted in (
        (fixed.stage_grids(host), expected.levels),
        (fixed.stage_grids(host, distinct=True), expected.distinct()[0]),
    ):
        for found, level in zip(grids, wanted, strict=True):
            assert found.counts == level.counts
            assert found.stride == level.stride
            assert torch.equal(found.grid_coord, level.grid_coord[level.permutations["z"]])
    assert fixed.stage_grids(host)[1] is fixed.stage_grids(host, distinct=True)[1]
    assert (fixed.stage_grids(host)[0] is fixed.stage_grids(host, distinct=True)[0]) == distinct


def test_what_memory_held_before_does_not_matter(monkeypatch):
    batch = random_scans((150, 3, 90), 8, distinct=False)
    arguments = batch["grid_coord"], batch["offset"], ops.ORDERS, STRIDES

    def contents():
        view = lay_out(*arguments)[0].view()
        found = []
        for levels, poolings in ((view.levels, view.poolings), view.distinct()):
            for level in levels:
                found += [level.grid_coord, level.batch, *level.permutations.values()]
                if level.permutations:
                    plan = level.patches("hilbert", 16)
                    found += [plan.rows, plan.slot, plan.lengths, plan.short_mask, plan.repeated]
                found.append(level.neighbours(3) if level.duplicates is None else level.duplicates.maps(3).index)
            for pooling in poolings:
                found += [pooling.cluster, pooling.lengths, *(pooling.strided_maps or ())]
        return found

    expected = contents()
    poison(monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(contents(), expected, strict=True))


@pytest.mark.parametrize("distinct", [True, False])
def test_nothing_waits_for_the_device(distinct):
    with pytest.raises(AssertionError, match="makes the host wait"), NoWaiting():
        torch.tensor([3])[0].item()
    batch = random_scans((150, 3, 90), 8, distinct=distinct)
    capacities = lay_out(batch["grid_coord"], batch["offset"], ops.ORDERS, STRIDES)[0].capacities
    ends, shifts = batch["offset"].int(), (0, 1, 3, 4)
    grid_coord = padded_rows(batch["grid_coord"], capacities.rows[0])
    choice = torch.arange(4).repeat(4, 1)
    sorted_batch = survey(grid_coord, None, ends, ops.ORDERS, shifts)
    with NoWaiting():
        view = FixedPyramid(sorted_batch, ends, ops.ORDERS, STRIDES, capacities).view(choice)
        for levels, _ in ((view.levels, view.poolings), view.distinct()):
            for level in levels:
                for order in level.permutations:
                    plan = level.patches(order, 16)
                    ops.patch_attention(torch.zeros(len(level), 24), plan, 2, 0.5)
                if level.duplicates is not None:
                    level.duplicates.maps(3)
                    level.duplicates.mean(torch.zeros(len(level), 4))


def sizes_of(rows, copies=0):
    return Sizes([[n] for n in rows], [rows[0] - copies], copies, 2 * copies)


def test_capacities_fit_the_batch_and_similar_ones():
    for rows in ([120000, 70000, 35000, 14000, 5000], [23112, 23000, 12614, 7925, 4499], [90000, 89000, 85000, 3]):
        room = room_for(rows[0])
        chosen = Capacities.choose(room, sizes_of(rows))
        assert all(1.003 * n < capacity < 1.4 * n + 512 for n, capacity in zip(rows, chosen.rows, strict=True))
        assert all(capacity % 64 == 0 for capacity in chosen.rows)
        for factor in (0.5, 0.9, 1.01):
            assert chosen.fits(sizes_of([max(1, int(n * factor)) for n in rows]))
        assert not chosen.fits(sizes_of([2 * n for n in rows]))


def test_capacities_of_any_batch_fit():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        top = int(10 ** (1 + 4 * torch.rand(1, generator=generator)))
        rows = (torch.rand(5, generator=generator) * top).long().clamp(min=1).sort(descending=True)[0].tolist()
        for room in (rows[0] + 1, rows[0] + 7, room_for(rows[0])):
            assert Capacities.choose(room, sizes_of(rows)).fits(sizes_of(rows))


def test_capacities_with_and_without_copies():
    plain, mixed = (sizes_of([5000, 3000, 900], copies) for copies in (0, 200))
    chosen = Capacities.choose(6000, mixed)
    assert chosen.fits(mixed)
    assert chosen.fits(plain)
    assert not Capacities.choose(6000, plain).fits(mixed)
    full = Capacities(chosen.rows, 200, 400)
    assert not full.fits(mixed), "one row of each must be spare"


def test_similar_batches_share_their_room():
    sizes = range(50, 200000, 97)
    rooms = [room_for(n) for n in sizes]
    assert rooms == sorted(rooms)
    assert all(room > n for n, room in zip(sizes, rooms, strict=True))
    assert all(1.02 * n <= room <= 1.09 * n for n, room in zip(sizes, rooms, strict=True) if n > 8000)
    assert len(set(rooms)) < 400


@pytest.mark.parametrize("kind", ["ordinary", "fixed"])
def test_a_used_pyramid_is_free_without_the_garbage_collector(kind, device):
    ordinary, fixed, _ = both((80, 40), 6, device, distinct=False)
    levels = ordinary.levels if kind == "ordinary" else fixed.view().levels
    maps = levels[0].duplicates.maps(3)
    assert maps.transposed.shape == (len(levels[0]), 27)
    gc.collect()
    gc.disable()
    try:
        held = [weakref.ref(item) for item in (levels[0], levels[0].duplicates, maps)]
        del levels, maps, ordinary, fixed
        assert [ref() for ref in held] == [None, None, None]
    finally:
        gc.enable()
