"""Feature matching, attention transfer and similarity: definitions, finite differences, degenerate clouds."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pointcept.models.losses import DISTILL_LOSSES, AttentionTransferLoss, FeatureMatchingLoss, SimilarityLoss
from pointcept.models.losses.distill.base import OwnGenerator, mean_over_clouds
from pointcept.models.output import Latent
from pointcept.topology import normalise, rtd_lite
from pointcept.utils.errors import ConfigError, DataError

CASES = [
    {"type": "FeatureMatchingLoss"},
    {"type": "AttentionTransferLoss"},
    {"type": "AttentionTransferLoss", "p": 1.0},
    {"type": "SimilarityLoss"},
    {"type": "SimilarityLoss", "max_points": 6},
    {"type": "AffinityLoss", "edge": 1000, "difficult": False},
    {"type": "AffinityLoss", "edge": 8, "max_voxels": 3, "difficult": False},
    {"type": "RTDLiteLoss"},
]
IDS = [f"{i}-{c['type']}" for i, c in enumerate(CASES)]


def connected(cfg, channels=(4, 6), dtype=torch.float64):
    torch.manual_seed(0)
    loss = DISTILL_LOSSES.build(cfg)
    loss.connect([channels[0]], [channels[1]])
    return loss.to(dtype)


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_finite_differences(pair, cfg):
    loss = connected(cfg)
    state = loss.get_extra_state() if isinstance(loss, OwnGenerator) else None

    def value(feat):
        if state is not None:
            loss.set_extra_state(state)  # the same random rows each time
        return loss(pair.student(feat), pair.teacher, {})

    assert torch.autograd.gradcheck(value, (pair.student_feat,), eps=1e-6, atol=1e-7)
    result = value(pair.student_feat)
    result.backward()
    assert result > 0
    assert pair.student_feat.grad.abs().sum() > 0
    assert pair.teacher_feat.grad is None
    assert loss.report["matched"] == 1.0


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_order_of_voxels_does_not_matter(pair, build, cfg):
    order = torch.cat([torch.randperm(14), 14 + torch.randperm(9)])
    grid = build.grid(list(pair.grid.grid_coord[order].split([14, 9])))
    cfg = {key: value for key, value in cfg.items() if not key.startswith("max_")}  # random rows are other voxels then
    a = connected(cfg)(pair.student(pair.student_feat), pair.teacher, {})
    b = connected(cfg)(build.output(pair.student_feat[order], grid), pair.teacher, {})
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
@pytest.mark.parametrize("sizes", [(1,), (0, 2), (3, 1, 0)])
@pytest.mark.parametrize("equal", [0.0, 0.1, None])
def test_tiny_and_equal_clouds(build, cfg, sizes, equal):
    pair = build.Pair(sizes)
    feat = pair.student_feat if equal is None else torch.full((sum(sizes), 4), equal).double().requires_grad_()
    value = connected(cfg)(pair.student(feat), pair.teacher, {})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(feat.grad).all()


def test_feature_matching_is_half_the_mean_square(pair):
    loss = connected({"type": "FeatureMatchingLoss"})
    weight, bias = loss.regressor.weight, loss.regressor.bias
    assert weight.shape == (6, 4)
    expected = 0.5 * (pair.student_feat @ weight.T + bias - pair.teacher_feat).square().mean()
    value = loss(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, expected)
    value.backward()
    assert weight.grad.abs().sum() > 0


def test_attention_transfer_is_the_difference_of_unit_maps(pair):
    expected = []
    for s, t in zip(pair.student_feat.split([14, 9]), pair.teacher_feat.split([14, 9]), strict=True):
        maps = [x.square().sum(1) / x.square().sum(1).norm() for x in (s, t)]
        expected.append((maps[0] - maps[1]).square().mean())
    value = AttentionTransferLoss()(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, torch.stack(expected).mean())


def test_similarity_is_that_of_the_paper(pair):
    expected = []
    for s, t in zip(pair.student_feat.split([14, 9]), pair.teacher_feat.split([14, 9]), strict=True):
        maps = [F.normalize(x @ x.T, p=2, dim=1) for x in (s, t)]
        expected.append(torch.linalg.matrix_norm(maps[0] - maps[1]) ** 2 / len(s) ** 2)
    value = SimilarityLoss()(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, torch.stack(expected).mean())


def test_similarity_draws_its_own_rows(build):
    pair = build.Pair((60,))
    before = torch.get_rng_state()
    runs = []
    for _ in range(2):
        loss = SimilarityLoss(max_points=10, seed=2)
        runs.append([loss(pair.student(pair.student_feat), pair.teacher, {}).item() for _ in range(2)])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]
    assert torch.equal(before, torch.get_rng_state())
    whole = SimilarityLoss(max_points=60)
    state = whole.get_extra_state()
    whole(pair.student(pair.student_feat), pair.teacher, {})
    assert torch.equal(whole.get_extra_state(), state)  # nothing to draw
    assert torch.equal(SimilarityLoss().get_extra_state(), torch.Generator().manual_seed(0).get_state())
    student = pair.student(pair.student_feat)
    teacher = build.output(2.0 * pair.student_feat.detach(), pair.grid)
    assert SimilarityLoss(max_points=10)(student, teacher, {}) < 1e-20  # the same rows of both networks


def test_rtd_lite_is_that_of_normalised_clouds(pair):
    expected = [
        rtd_lite(normalise(t), normalise(s))
        for s, t in zip(pair.student_feat.split([14, 9]), pair.teacher_feat.split([14, 9]), strict=True)
    ]
    value = DISTILL_LOSSES.build({"type": "RTDLiteLoss"})(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, torch.stack(expected).mean())
    teacher = pair.teacher_feat.detach()
    assert DISTILL_LOSSES.build({"type": "RTDLiteLoss"})(pair.student(7 * teacher + 1), pair.teacher, {}) < 1e-12


STAGE_LOSSES = ["FeatureMatchingLoss", "AttentionTransferLoss", "SimilarityLoss", "GradGuidedLoss", "TopoLoss"]


@pytest.mark.parametrize("kind", STAGE_LOSSES)
def test_the_deepest_stage_is_the_default(pair, build, kind):
    def staged(output, channels, seed):
        finer = Latent(build.features(23, channels, seed), pair.grid)
        return replace(output, stages=[finer, *output.stages])

    def value(student, teacher, **options):
        torch.manual_seed(0)
        loss = DISTILL_LOSSES.build({"type": kind, **options})
        loss.connect([4] * len(student.stages), [6] * len(teacher.stages))
        return loss.double()(student, teacher, {})

    deepest = value(pair.student(pair.student_feat), pair.teacher)
    student, teacher = staged(pair.student(pair.student_feat), 4, 7), staged(pair.teacher, 6, 8)
    assert torch.equal(value(student, teacher), deepest)
    assert torch.equal(value(student, teacher, stage=1), deepest)
    if kind != "GradGuidedLoss":  # these features have no part in the segmentation loss
        assert value(student, teacher, stage=0) != deepest


@pytest.mark.parametrize("kind", STAGE_LOSSES)
def test_a_loss_without_a_common_voxel_is_named(pair, build, kind):
    far = build.output(pair.student_feat, build.grid([c + 500 for c in pair.grid.grid_coord.split([14, 9])]))
    with pytest.raises(DataError, match=rf"^{kind}: student and teacher have no voxel in common"):
        connected({"type": kind})(far, pair.teacher, {})


@pytest.mark.parametrize("kind", STAGE_LOSSES)
def test_autocast_changes_nothing(pair, build, kind):
    def outputs():
        found = []
        for feat, seed in ((pair.student_feat, 0), (pair.teacher_feat, 1)):
            found.append(build.output(feat.detach().float().requires_grad_(), pair.grid, seed))
            found[-1].gradient(-1)  # what the network computes may depend on autocast
        return found

    loss = connected({"type": kind}, dtype=torch.float32)
    outside, under = outputs(), outputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*under, {})
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(*outside, {}))


def test_the_mean_over_no_scan_is_zero_whatever_there_is():
    for like in (torch.zeros(0, 3), torch.zeros(4, 3), torch.ones(4, 3).half()):
        leaf = like.requires_grad_()
        value = mean_over_clouds([], leaf)
        value.backward()
        assert value == 0
        assert not leaf.grad.any()


def test_wrong_options():
    with pytest.raises(ConfigError, match=r"p: got 0\.5"):
        AttentionTransferLoss(p=0.5)
    with pytest.raises(ConfigError, match="max_points: got 1"):
        SimilarityLoss(max_points=1)
    with pytest.raises(ConfigError, match=r"stage: got 3, but the student's encoder has 2 stages"):
        FeatureMatchingLoss(stage=3).connect([8, 16], [8, 16, 32, 64])
