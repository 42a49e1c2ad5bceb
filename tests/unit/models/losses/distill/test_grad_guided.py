"""L_grad against its definition, finite differences, and degenerate clouds."""

import pytest
import torch
import torch.nn.functional as F

from pointcept.models.losses import GradGuidedLoss
from pointcept.models.losses.distill.grad_guided import normalise_scores
from pointcept.models.output import Output
from pointcept.utils.errors import ConfigError

NORMALISED = {
    "minmax": lambda m: (m - m.min()) / (m.max() - m.min()),
    "zscore": lambda m: (m - m.mean()) / m.var(correction=0).sqrt(),
    "none": lambda m: m,
}


def by_definition(pair, feat, kind="minmax"):
    """The paper's formula, scan by scan, with autograd for ∂L/∂F of every network."""
    total = []
    begin = 0
    for n in pair.grid.counts:
        maps = []
        for x, seed in ((feat, None), (pair.teacher_feat, 1)):
            output = pair.student(x) if seed is None else pair.teacher
            (gradient,) = torch.autograd.grad(output.seg_loss, x, retain_graph=True)
            w = gradient[begin : begin + n].abs().mean(0)
            m = (x[begin : begin + n] * w).sum(1)
            maps.append(NORMALISED[kind](m))
        total.append(F.smooth_l1_loss(maps[0], maps[1].detach()))
        begin += n
    return torch.stack(total).mean()


def test_the_paper_s_formula(pair):
    loss = GradGuidedLoss()
    assert loss.loss_weight == 10.0
    value = loss(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, by_definition(pair, pair.student_feat), rtol=1e-10, atol=0)
    assert value > 0.001
    assert loss.report["matched"] == 1.0


@pytest.mark.parametrize("kind", NORMALISED)
def test_the_gradient_of_every_normalisation_reaches_the_student_only(pair, kind):
    value = GradGuidedLoss(normalisation=kind)(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(value, by_definition(pair, pair.student_feat, kind), rtol=1e-10, atol=0)
    value.backward()
    assert pair.student_feat.grad.abs().sum() > 0
    assert pair.teacher_feat.grad is None


@pytest.mark.parametrize("kind", ["minmax", "zscore", "none"])
def test_finite_differences_with_constant_weights(pair, kind):
    """w is a constant by definition, so it is frozen here as well."""
    loss = GradGuidedLoss(normalisation=kind)
    gradient = pair.student(pair.student_feat).gradient(0)

    def value(feat):
        output = pair.student(feat)
        output.gradients[0] = gradient
        return loss(output, pair.teacher, {})

    assert torch.autograd.gradcheck(value, (pair.student_feat,), eps=1e-6, atol=1e-7)
    (found,) = torch.autograd.grad(loss(pair.student(pair.student_feat), pair.teacher, {}), pair.student_feat)
    (expected,) = torch.autograd.grad(value(pair.student_feat), pair.student_feat)
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0
    assert pair.teacher_feat.grad is None


def test_a_scan_does_not_depend_on_the_rest_of_the_batch(pair, build):
    """Scans alone and together: the segmentation loss is a mean over points, which min-max takes out."""
    loss = GradGuidedLoss()
    values = []
    for part in (slice(0, 14), slice(14, 23)):
        grid = build.grid([pair.grid.grid_coord[part]])
        outputs = []
        for whole, x in ((pair.student(pair.student_feat), pair.student_feat), (pair.teacher, pair.teacher_feat)):
            output = Output(x[part], [type(whole.stages[0])(x[part], grid)])
            output.gradients[0] = 7.0 * whole.gradient(0)[part]
            outputs.append(output)
        values.append(loss(*outputs, {}))
    together = loss(pair.student(pair.student_feat), pair.teacher, {})
    torch.testing.assert_close(torch.stack(values).mean(), together)


def test_scans_without_a_label_are_left_out(pair):
    """Even if batch norm brings a gradient to them; without any label the loss is 0 and moves nothing."""
    loss, offset = GradGuidedLoss(), torch.tensor([14, 23])
    segment = torch.zeros(23, dtype=torch.int64)
    both = loss(pair.student(pair.student_feat), pair.teacher, {"segment": segment, "offset": offset})
    torch.testing.assert_close(both, loss(pair.student(pair.student_feat), pair.teacher, {}))
    parts = []
    for unlabelled in (slice(14, 23), slice(0, 14)):
        one = segment.clone()
        one[unlabelled] = -1
        one[unlabelled.start] = 255  # no class either
        parts.append(loss(pair.student(pair.student_feat), pair.teacher, {"segment": one, "offset": offset}))
        (gradient,) = torch.autograd.grad(parts[-1], pair.student_feat)
        assert not gradient[unlabelled].any()
        assert gradient.any()
    torch.testing.assert_close(torch.stack(parts).mean(), both)
    value = loss(pair.student(pair.student_feat), pair.teacher, {"segment": segment - 1, "offset": offset})
    assert value == 0
    assert not torch.autograd.grad(value, pair.student_feat)[0].any()


def test_equal_maps_are_zero_whatever_the_scale(pair):
    teacher = pair.student(3.0 * pair.student_feat)
    teacher.gradients[0] = 0.1 * pair.student(pair.student_feat).gradient(0)
    for kind in ("minmax", "zscore"):
        assert GradGuidedLoss(normalisation=kind)(pair.student(pair.student_feat), teacher, {}) < 1e-12
    assert GradGuidedLoss(normalisation="none")(pair.student(pair.student_feat), teacher, {}) > 1e-9


@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 1), (1, 0, 5), (0, 1)])
@pytest.mark.parametrize("kind", ["minmax", "zscore", "none"])
def test_tiny_clouds(build, sizes, kind):
    pair = build.Pair(sizes)
    value = GradGuidedLoss(normalisation=kind)(pair.student(pair.student_feat), pair.teacher, {})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(pair.student_feat.grad).all()
    if max(sizes) == 1 and kind != "none":
        assert value == 0


@pytest.mark.parametrize("kind", ["minmax", "zscore", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_points_have_a_finite_gradient(build, kind, dtype):
    pair = build.Pair((50,))
    feat = torch.full((50, 4), 0.1, dtype=dtype, requires_grad=True)
    value = GradGuidedLoss(normalisation=kind)(pair.student(feat), pair.teacher, {})
    value.backward()
    assert torch.isfinite(value)
    assert feat.grad.abs().max() < 1e3
    assert normalise_scores(feat @ torch.ones(4, 1, dtype=dtype), "zscore").abs().max() < 1e-3


def test_gradients_of_half_precision_do_not_vanish():
    """A mean over a million points: its gradient is below what float16 can hold unless the loss is scaled."""
    feat = torch.ones(8, 4, dtype=torch.float16, requires_grad=True)
    output = Output(feat, [], (feat.float() * 1e-8).sum())
    output.stages.append(type("L", (), {"feat": feat})())
    torch.testing.assert_close(output.gradient(-1), torch.full((8, 4), 1e-8), rtol=2e-3, atol=0)


def test_labels_are_needed(pair):
    student = pair.student(pair.student_feat)
    student.seg_loss = None
    with pytest.raises(ConfigError, match="needs the segmentation loss"):
        GradGuidedLoss()(student, pair.teacher, {})


def test_wrong_options():
    with pytest.raises(ConfigError, match=r"'min_max': did you mean 'minmax'"):
        GradGuidedLoss(normalisation="min_max")
    with pytest.raises(ConfigError, match=r"stage: got 5, but the teacher's encoder has 5 stages: allowed are -5 to 4"):
        GradGuidedLoss(stage=5).connect([1] * 6, [1] * 5)
