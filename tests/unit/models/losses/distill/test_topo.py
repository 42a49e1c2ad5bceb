"""L_topo: finite differences, invariances, one set of rows, random state, degenerate and bad input."""

import logging
import sys

import pytest
import torch

from pointcept.models.losses import TopoLoss
from pointcept.models.output import Latent
from pointcept.topology import (
    diagram_distance,
    farthest_points,
    normalise,
    persistence,
    published_diagram,
    published_distance,
)
from pointcept.utils.errors import ConfigError

OPTIONS = [
    {},
    {"distance": "wasserstein"},
    {"distance": "sliced_wasserstein"},
    {"normalisation": "none", "dims": (0,)},
    {"max_points": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_finite_differences(pair, options):
    loss = TopoLoss(**options)
    value = lambda feat: loss(pair.student(feat), pair.teacher, {})  # noqa: E731
    assert torch.autograd.gradcheck(value, (pair.student_feat,), eps=1e-7, atol=1e-6)
    value(pair.student_feat).backward()
    assert pair.student_feat.grad.abs().sum() > 0
    assert pair.teacher_feat.grad is None


def scaled(pair, factor):
    pair.student_feat = (factor * pair.student_feat).detach().requires_grad_()
    pair.teacher_feat = (factor * pair.teacher_feat).detach().requires_grad_()
    pair.teacher.stages[0] = Latent(pair.teacher_feat, pair.grid)
    return pair


@pytest.mark.parametrize("distance", ["chamfer", "wasserstein", "sliced_wasserstein"])
def test_the_value_is_the_mean_over_scans_of_the_sum_over_dimensions(pair, distance):
    loss = TopoLoss(distance=distance)
    assert loss.loss_weight == 0.1
    expected = []
    for s, t in zip(pair.student_feat.split([14, 9]), pair.teacher_feat.split([14, 9]), strict=True):
        terms = diagram_distance(persistence(normalise(t)), persistence(normalise(s)), distance)
        expected.append(terms[0] + terms[1])
    value = loss(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, torch.stack(expected).mean())
    assert loss.report["points_h0"] == (13 + 8) / 2
    assert set(loss.report) == {"matched", "points_h0", "points_h1"}


@pytest.mark.parametrize("dims", [(0,), (1,), (0, 1, 2)])
def test_only_the_dimensions_asked_for_count(build, dims):
    pair = build.Pair((40,), (3, 3))
    diagrams = [persistence(normalise(x), (0, 1, 2)) for x in (pair.teacher_feat, pair.student_feat)]
    terms = diagram_distance(*diagrams)
    value = TopoLoss(dims=dims)(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, torch.stack([terms[dim] for dim in dims]).sum())
    assert all(terms.values())


def test_a_scan_of_two_voxels_counts_and_one_of_a_single_one_does_not(build):
    pair = build.Pair((14, 2, 1))
    value = TopoLoss(normalisation="none")(pair.student(pair.student_feat), pair.teacher, {})
    expected = []
    for rows in (slice(0, 14), slice(14, 16)):
        terms = diagram_distance(persistence(pair.teacher_feat[rows]), persistence(pair.student_feat[rows]))
        expected.append(terms[0] + terms[1])
    assert all(expected)
    torch.testing.assert_close(value, torch.stack(expected).mean())


def test_loops_are_those_of_256_farthest_points(build):
    pair = build.Pair((270, 200), (3, 3))
    loss = TopoLoss()
    loss.begin(pair.teacher, [pair.grid])
    large, small = pair.teacher.shared[loss]
    assert torch.equal(large.index, farthest_points(normalise(pair.teacher_feat.detach()[:270]), 256))
    assert small.index is None
    student = pair.student(pair.student_feat)
    loss.submit(student, pair.teacher)
    assert [pending.index is large.index for pending in student.shared[loss]] == [True, False]
    assert large.result().dims == (0, 1)
    assert persistence(pair.teacher_feat.detach()[:270]).index.shape == (256,)  # the default of the mathematics, too


def rotated(x: torch.Tensor, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64)).Q
    return torch.nn.functional.pad(x, (0, channels - x.shape[1])) @ basis


@pytest.mark.parametrize("subsample", ["farthest", "random"])
def test_padded_rotated_and_scaled_features_are_equal(build, subsample):
    pair = build.Pair((60, 40), (8, 8))
    wide = rotated(5.0 * pair.student_feat.detach() + 2.0, 512)
    loss = TopoLoss(subsample=subsample, max_points=24)
    assert loss(pair.student(pair.student_feat), build.output(wide, pair.grid), {}) <= 1e-10
    assert loss(pair.student(pair.student_feat), pair.teacher, {}) > 1e-4  # the same rows of other features


@pytest.mark.parametrize("options", [{}, {"subsample": "random"}])
def test_rows_of_both_networks_are_the_same_voxels_in_any_order(build, options):
    """Voxels in another order: the subsample must still take the same ones."""
    pair = build.Pair((60,), (8, 8))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(5))
    grid = build.grid([pair.grid.grid_coord[order]])
    student = build.output(pair.student_feat[order], grid)
    teacher = build.output(rotated(pair.student_feat.detach(), 32), pair.grid)
    assert TopoLoss(max_points=16, **options)(student, teacher, {}) <= 1e-10


def test_different_scales_and_dimensions_give_a_loss_and_a_gradient(build):
    """Unit-variance 512-d against 128-d features, where the published code returns 0."""
    pair = build.Pair((120,), (128, 512))
    TopoLoss()(pair.student(pair.student_feat), pair.teacher, {}).backward()
    assert pair.student_feat.grad.abs().sum() > 0
    assert TopoLoss()(pair.student(pair.student_feat), pair.teacher, {}) > 1e-6


def test_the_global_random_state_is_left_alone_and_one_seed_gives_one_loss(build):
    pair = build.Pair((80,))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    runs = []
    for _ in range(2):
        loss = TopoLoss(subsample="random", max_points=16, seed=4)
        runs.append([loss(pair.student(pair.student_feat), pair.teacher, {}).item() for _ in range(3)])
    assert torch.equal(before, torch.get_rng_state())
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3  # every step draws other rows


def test_the_draws_go_on_from_a_checkpoint(build):
    pair = build.Pair((80,))
    one, other = (TopoLoss(subsample="random", max_points=16) for _ in range(2))
    step = lambda loss: loss(pair.student(pair.student_feat), pair.teacher, {}).item()  # noqa: E731
    step(one)
    other.load_state_dict(one.state_dict())
    assert step(one) == step(other)


def test_begin_and_submit_change_nothing(pair):
    loss = TopoLoss()
    alone = loss(pair.student(pair.student_feat), pair.teacher, {})
    student = pair.student(pair.student_feat)
    loss.begin(pair.teacher, [pair.grid])
    loss.submit(student, pair.teacher)
    assert torch.equal(alone, loss(student, pair.teacher, {}))


@pytest.mark.parametrize("sizes", [(0, 1), (1,), (2,), (3,), (1, 9), (2, 3, 0, 4)])
@pytest.mark.parametrize("published", [False, True])
def test_tiny_clouds(build, sizes, published):
    pair = build.Pair(sizes)
    value = TopoLoss(published=published)(pair.student(pair.student_feat), pair.teacher, {})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(pair.student_feat.grad).all()
    if max(sizes) < 2:
        assert value == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"max_points": 8}, {"distance": "wasserstein"}, {"published": True}], ids=str)
def test_equal_points(build, dtype, options):
    pair = build.Pair((30,))
    feat = torch.full((30, 4), 0.1, dtype=dtype, requires_grad=True)
    for teacher in (pair.teacher, pair.student(feat.detach().clone())):
        feat.grad = None
        value = TopoLoss(**options)(pair.student(feat), teacher, {})
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(feat.grad).all()
    assert value == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("network", ["student", "teacher"])
@pytest.mark.parametrize("published", [False, True])
def test_values_that_are_not_finite_are_an_error(pair, bad, network, published):
    with torch.no_grad():
        (pair.student_feat if network == "student" else pair.teacher_feat)[2:5, 1] = bad
    with pytest.raises(
        FloatingPointError, match=rf"TopoLoss: 3 of (14|23) rows of the {network}'s features.* stage -1"
    ):
        TopoLoss(published=published)(pair.student(pair.student_feat), pair.teacher, {})


def test_half_precision_is_computed_in_float32(pair):
    feat, theirs = pair.student_feat.detach().half().requires_grad_(), pair.teacher_feat.detach().half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = TopoLoss()(pair.student(feat), pair.student(theirs), {})
    value.backward()
    assert feat.grad.dtype is torch.float16
    expected = TopoLoss()(pair.student(feat.detach().double()), pair.student(theirs.double()), {})
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)


def test_the_published_behaviour(build, caplog):
    pair = build.Pair((20,), (128, 512))
    loss = TopoLoss(published=True)
    with caplog.at_level(logging.WARNING):
        value = loss(pair.student(pair.student_feat), pair.teacher, {})
    assert value == 0
    assert "empty" in caplog.text
    assert loss.report["points_h0"] == 0
    assert loss.report["empty"] == 1
    caplog.clear()
    loss(pair.student(pair.student_feat), pair.teacher, {})
    assert not caplog.text  # once is enough
    pair = scaled(pair, 0.05)
    student = published_diagram(pair.student_feat)
    expected = published_distance(published_diagram(pair.teacher_feat), student)
    torch.testing.assert_close(loss(pair.student(pair.student_feat), pair.teacher, {}), expected)
    assert loss.report["empty"] == 0
    assert (loss.report["points_h0"], loss.report["points_h1"]) == (len(student[0]), len(student[1]))


@pytest.mark.parametrize("size", [1, 2])
def test_the_published_loss_counts_scans_from_two_voxels_on(build, size):
    clouds = scaled(build.Pair((20, size), (8, 8)), 0.05)
    value = TopoLoss(published=True)(clouds.student(clouds.student_feat), clouds.teacher, {})
    terms = []
    for rows in (slice(0, 20), slice(20, None)):
        sides = [published_diagram(x[rows]) for x in (clouds.teacher_feat, clouds.student_feat)]
        terms.append(published_distance(*sides))
    assert all(terms[:size])
    torch.testing.assert_close(value, torch.stack(terms[:size]).mean())


@pytest.mark.parametrize("empty", ["student", "teacher"])
def test_the_published_loss_with_one_empty_diagram(build, empty, caplog):
    """0 and no gradient, where the distance of the other side from the diagonal would be neither."""
    pair = scaled(build.Pair((20,), (512, 512)), 0.05)
    wide = build.features(20, 512, 7).requires_grad_()
    ours, theirs = (wide, pair.student_feat) if empty == "student" else (pair.student_feat, wide)
    loss = TopoLoss(published=True)
    value = loss(pair.student(ours), pair.student(theirs), {})
    value.backward()
    assert value == 0
    assert not ours.grad.any()
    assert loss.report["empty"] == 0.5
    assert f"the published diagram of a {empty}'s features is empty" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "chamfre"}, "did you mean 'chamfer'"),
        ({"normalisation": "median"}, "normalisation: got 'median'"),
        ({"subsample": "first"}, "subsample: got 'first'"),
        ({"engine": "ripser"}, "engine: got 'ripser'"),
        ({"dims": (0, 3)}, r"dims: got \(0, 3\)"),
        ({"dims": ()}, r"dims: got \(\)"),
        ({"max_points": 2}, "max_points: got 2, allowed: an integer at least 4"),
        ({"published": True, "dims": (0,)}, "published: True fixes"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        TopoLoss(**options)


def test_a_missing_engine_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "redzed_tda", None)
    with pytest.raises(ConfigError, match="'redzed-tda'"):
        TopoLoss()
    assert TopoLoss(dims=(0,)).dims == (0,)
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(ConfigError, match=r"engine: .*'gudhi'"):
        TopoLoss(engine="gudhi")
