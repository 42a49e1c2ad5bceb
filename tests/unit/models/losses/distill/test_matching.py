"""Matching by voxel: any order of rows, any pair of strides, missing voxels, and both kinds of student."""

import pytest
import torch
import torch.nn.functional as F

from pointcept.models import build_model
from pointcept.models.losses.distill.matching import match_voxels
from pointcept.utils.errors import DataError


def voxel_values(grid, channels=3):
    """Features that depend on scan and voxel only, so that equal rows must be equal voxels."""
    mix = torch.tensor([[3.0, 5.0, 7.0], [11.0, 2.0, 1.0], [1.0, 13.0, 4.0]], dtype=torch.float64)[:, :channels]
    return grid.grid_coord.double() @ mix + 1000 * grid.batch[:, None]


def shuffled(clouds, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [c[torch.randperm(len(c), generator=generator)] for c in clouds]


def test_the_same_grid_costs_nothing(build):
    grid = build.grid(build.clouds([5, 7]))
    found = match_voxels(grid, grid)
    x = build.features(12, 3)
    assert found.student(x) is x
    assert found.counts == [5, 7]
    assert found.share == 1.0
    assert (found.stride, match_voxels(*[build.grid(build.clouds([5]), 4)] * 2).stride) == (1, 4)


def test_rows_in_another_order_are_matched(build):
    clouds = build.clouds([30, 20, 1])
    student, teacher = build.grid(shuffled(clouds)), build.grid(clouds)
    found = match_voxels(student, teacher)
    assert found.counts == [30, 20, 1]
    assert found.share == 1.0
    rows = found.student(voxel_values(student))
    assert torch.equal(rows, found.teacher(voxel_values(teacher)))
    assert len(rows.unique(dim=0)) == 51
    assert not torch.equal(voxel_values(student), voxel_values(teacher))


def test_a_voxel_of_another_scan_is_another_voxel(build):
    cloud = build.clouds([10])[0]
    student, teacher = build.grid([cloud[:6], cloud[6:]]), build.grid([cloud[4:], cloud[:4]])
    found = match_voxels(student, teacher)
    assert found.counts == [2, 0]  # 4 and 5 in the first scan; the second has nothing in common
    assert found.share == pytest.approx(2 / 18)
    assert torch.equal(found.student(voxel_values(student)), found.teacher(voxel_values(teacher)))


def test_missing_voxels_are_left_out_and_counted(build):
    cloud = build.clouds([20])[0]
    student, teacher = build.grid(shuffled([cloud[:15]])), build.grid([cloud[5:]])
    found = match_voxels(student, teacher)
    assert found.counts == [10]
    assert found.share == pytest.approx(10 / 20)
    assert torch.equal(found.student(voxel_values(student)), found.teacher(voxel_values(teacher)))


@pytest.mark.parametrize(("ours", "theirs"), [(1, 4), (8, 2), (2, 6)])
def test_finer_features_are_averaged_at_the_finest_common_stride(build, ours, theirs):
    """Against a dictionary filled voxel by voxel."""
    fine = build.clouds([60, 40], extent=24)
    grids = [build.grid([(c // s).unique(dim=0) for c in fine], s) for s in (ours, theirs)]
    found = match_voxels(*grids)
    assert found.stride == {(1, 4): 4, (8, 2): 8, (2, 6): 6}[ours, theirs]
    sides = []
    for grid, side in zip(grids, (found.student, found.teacher), strict=True):
        x = build.features(len(grid), 3, grid.stride)
        cells: dict = {}
        for row, scan, voxel in zip(x, grid.batch.tolist(), grid.grid_coord.tolist(), strict=True):
            cells.setdefault((scan, *(v * grid.stride // found.stride for v in voxel)), []).append(row)
        means = {key: torch.stack(rows).mean(0) for key, rows in cells.items()}
        sides.append((side(x), means))
    common = sorted(sides[0][1].keys() & sides[1][1].keys())
    assert len(common) == sum(found.counts)
    assert found.share == pytest.approx(len(common) / len(sides[0][1].keys() | sides[1][1].keys()))
    for rows, means in sides:
        torch.testing.assert_close(rows, torch.stack([means[key] for key in common]))


def test_duplicates_are_averaged(build):
    cloud = build.clouds([6])[0]
    student, teacher = build.grid([torch.cat([cloud, cloud[:2]])]), build.grid([cloud])
    found = match_voxels(student, teacher)
    x = build.features(8, 2)
    expected = torch.cat([(x[:2] + x[6:]) / 2, x[2:6]])
    assert found.counts == [6]
    assert {tuple(r) for r in found.student(x).tolist()} == {tuple(r) for r in expected.tolist()}


def test_half_precision_is_averaged_in_float32(build):
    cloud = build.clouds([12], extent=8)[0]
    found = match_voxels(build.grid([cloud]), build.grid([(cloud // 4).unique(dim=0)], 4))
    x = build.features(12, 2).half()
    assert found.student(x).dtype == torch.float32
    torch.testing.assert_close(found.student(x), found.student(x.double()).float())


def test_the_gradient_goes_to_the_rows_that_were_used(build):
    cloud = build.clouds([12], extent=8)[0]
    found = match_voxels(build.grid([cloud]), build.grid([(cloud[:9] // 4).unique(dim=0)], 4))
    x = build.features(12, 2).requires_grad_()
    assert torch.autograd.gradcheck(found.student, (x,))


def test_no_common_voxel_is_an_error_with_counts(build):
    cloud = build.clouds([9])[0]
    message = r"TopoLoss: .*no voxel in common at stride 2: the student has 9 .*stride 1, the teacher 4 .*stride 2"
    with pytest.raises(DataError, match=message):
        match_voxels(build.grid([cloud]), build.grid([cloud[:4] + 5000], 2), "TopoLoss")
    with pytest.raises(DataError, match="1 scans, the teacher's to 2"):
        match_voxels(build.grid([cloud]), build.grid([cloud, cloud]))


# --- real networks -------------------------------------------------------------------------------


def scan(seed=0, sizes=(150, 90)):
    generator = torch.Generator().manual_seed(seed)
    grids = [torch.randint(0, 14, (n, 3), generator=generator).unique(dim=0) for n in sizes]
    grid = torch.cat(grids)
    return {
        "grid_coord": grid,
        "feat": torch.cat([grid, grid.sum(1, keepdim=True)], 1).float(),
        "offset": torch.tensor([len(g) for g in grids]).cumsum(0),
    }


@pytest.mark.parametrize("student_kind", ["other order", "shuffled orders", "other stride", "unet"])
def test_latents_of_networks_are_matched(small_segmentor, small_unet, student_kind):
    """The voxel's own coordinates travel as features: they must agree after matching."""
    teacher = build_model(small_segmentor).eval()
    cfg = small_unet if student_kind == "unet" else {**small_segmentor, "backbone": dict(small_segmentor["backbone"])}
    if student_kind == "other order":
        cfg["backbone"]["order"] = ("hilbert", "z")
    if student_kind == "other stride":
        cfg["backbone"]["stride"] = (4,)
    student = build_model(cfg).train()
    batch = scan()
    with torch.no_grad():
        ours, theirs = student.network(batch).latent, teacher.network(batch).latent
    assert ours.grid is not theirs.grid
    found = match_voxels(ours.grid, theirs.grid)
    assert found.share == 1.0
    for latent, side in ((ours, found.student), (theirs, found.teacher)):
        centre = side((latent.grid.grid_coord * latent.grid.stride // found.stride).double())
        voxel = torch.cat([side(latent.grid.batch[:, None].double()), centre], 1)
        assert torch.equal(voxel.int(), voxel)
        if latent is ours:
            first = voxel
    assert torch.equal(first, voxel)


def test_permuting_the_points_of_a_scan_changes_no_matched_row(small_segmentor):
    model = build_model(small_segmentor).eval()
    batch = scan()
    order = torch.cat([torch.randperm(int(batch["offset"][0])), int(batch["offset"][0]) + torch.randperm(
        int(batch["offset"][1] - batch["offset"][0]))])  # fmt: skip
    other = {**batch, "grid_coord": batch["grid_coord"][order], "feat": batch["feat"][order]}
    with torch.no_grad():
        a, b = model.network(batch), model.network(other)
    assert not torch.equal(a.logits, b.logits)
    for x, y in zip(a.stages, b.stages, strict=True):
        found = match_voxels(x.grid, y.grid)
        assert F.mse_loss(found.student(x.feat), found.teacher(y.feat)) < 1e-10
