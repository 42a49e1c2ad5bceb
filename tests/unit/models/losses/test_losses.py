"""Segmentation losses against golden files, naive loops, closed forms and finite differences."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointcept.models.losses import LOSSES, build_criteria
from pointcept.models.losses.lovasz import LovaszLoss, lovasz_weights
from pointcept.utils.errors import ConfigError

CASES = [
    {"type": "CrossEntropyLoss"},
    {"type": "CrossEntropyLoss", "weight": [1.0, 2.0, 0.5, 0.1], "label_smoothing": 0.2},
    {"type": "SmoothCELoss", "smoothing_ratio": 0.2},
    {"type": "FocalLoss", "gamma": 2.0, "alpha": 0.25},
    {"type": "FocalLoss", "gamma": 0.5, "alpha": [0.1, 0.2, 0.3, 0.4]},
    {"type": "DiceLoss"},
    {"type": "DiceLoss", "smooth": 0.1, "exponent": 1.0},
    {"type": "LovaszLoss", "mode": "multiclass"},
    {"type": "LovaszLoss", "mode": "multiclass", "class_seen": [0, 2]},
    {"type": "LovaszLoss", "mode": "binary"},
]
IDS = [f"{i}-{c['type']}" for i, c in enumerate(CASES)]


def example(cfg: dict[str, Any], n: int = 24, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits and targets, a quarter of them ignored, for a loss of 4 classes (2 in binary mode)."""
    generator = torch.Generator().manual_seed(7)
    binary = cfg.get("mode") == "binary"
    pred = 3 * torch.randn(n, 1 if binary else 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2 if binary else 4, (n,), generator=generator)
    target[::4] = -1
    return pred.to(dtype).requires_grad_(), target


# --- every loss ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_gradient_matches_finite_differences(cfg: dict[str, Any]) -> None:
    pred, target = example(cfg)
    loss = LOSSES.build(cfg)
    assert torch.autograd.gradcheck(lambda p: loss(p, target), (pred,), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_ignored_points_do_not_matter(cfg: dict[str, Any]) -> None:
    pred, target = example(cfg)
    loss = LOSSES.build(cfg)
    value = loss(pred, target)
    (grad,) = torch.autograd.grad(value, pred)
    kept = target != -1
    assert torch.allclose(value, loss(pred[kept], target[kept]), rtol=1e-12)
    assert (grad[~kept] == 0).all()
    assert grad[kept].abs().sum() > 0
    other = LOSSES.build({**cfg, "ignore_index": 255})
    assert torch.equal(value, other(pred, torch.where(kept, target, 255)))


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
@pytest.mark.parametrize("n", [0, 5])
def test_nothing_to_learn_from_is_zero_with_a_zero_gradient(cfg: dict[str, Any], n: int) -> None:
    pred, _ = example(cfg, n)
    value = LOSSES.build(cfg)(pred, torch.full((n,), -1))
    (grad,) = torch.autograd.grad(value, pred)
    assert value == 0
    assert (grad == 0).all()
    assert grad.shape == pred.shape


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_loss_weight_and_order_of_points(cfg: dict[str, Any]) -> None:
    pred, target = example(cfg)
    value = LOSSES.build(cfg)(pred, target)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    assert value > 0
    assert value.shape == ()
    assert torch.allclose(LOSSES.build({**cfg, "loss_weight": 0.25})(pred, target), value / 4)
    assert torch.allclose(LOSSES.build(cfg)(pred[order], target[order].int()), value)


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(cfg: dict[str, Any], dtype: torch.dtype) -> None:
    pred, target = example(cfg, 3000, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES.build(cfg)(pred, target)
    assert value.dtype == torch.float32
    assert torch.allclose(value, LOSSES.build(cfg)(pred.detach().float(), target), rtol=1e-6)
    (grad,) = torch.autograd.grad(value, pred)
    assert grad.dtype == dtype
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_no_loss_looks_at_values_outside_the_cpu(cfg: dict[str, Any]) -> None:
    """Meta tensors have no values: ``.item()``, ``if tensor`` and boolean indexing, which make a GPU wait, fail."""
    pred, target = example(cfg)
    pred = pred.detach().to("meta").requires_grad_()
    value = LOSSES.build(cfg).to("meta")(pred, target.to("meta"))
    value.backward()
    assert pred.grad is not None
    assert pred.grad.shape == pred.shape


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
@pytest.mark.parametrize("scale", [1e3, 3e4])
def test_certain_predictions_stay_finite(cfg: dict[str, Any], scale: float) -> None:
    pred, target = example(cfg, dtype=torch.float32)
    pred = (pred.detach().sign() * scale).requires_grad_()
    value = LOSSES.build(cfg)(pred, target)
    (grad,) = torch.autograd.grad(value, pred)
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("cfg", CASES, ids=IDS)
def test_wrong_input_is_named(cfg: dict[str, Any]) -> None:
    loss = LOSSES.build(cfg)
    pred, target = example(cfg)
    with pytest.raises(ValueError, match=r"(?s)lie in 0 to [13].*1 others.*from 9 to 9"):
        loss(pred, torch.where(torch.arange(len(target)) == 1, 9, target))
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        loss(pred, target[:-1])
    with pytest.raises(ValueError, match="integer target"):
        loss(pred, target.float())
    with pytest.raises(ValueError, match="floating-point"):
        loss(pred.long(), target)


@pytest.mark.parametrize(
    "cfg",
    [
        {"type": "CrossEntropyLoss", "label_smoothing": 1.5},
        {"type": "SmoothCELoss", "smoothing_ratio": -0.1},
        {"type": "FocalLoss", "gamma": -1.0},
        {"type": "FocalLoss", "alpha": [0.5, 2.0]},
        {"type": "DiceLoss", "smooth": 0.0},
        {"type": "LovaszLoss", "mode": "multilabel"},
        {"type": "LovaszLoss", "mode": "binary", "class_seen": [1]},
    ],
)
def test_wrong_arguments_are_refused(cfg: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="llowed"):
        LOSSES.build(cfg)


@pytest.mark.parametrize(
    "cfg", [{"type": "CrossEntropyLoss", "weight": [1.0] * 3}, {"type": "FocalLoss", "alpha": [0.5] * 3}]
)
def test_class_weights_have_to_fit(cfg: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"got 3 .*4"):
        LOSSES.build(cfg)(*example(cfg))


def test_a_loss_for_other_classes_is_named_by_its_place() -> None:
    cfg = [{"type": "LovaszLoss"}, {"type": "CrossEntropyLoss", "weight": [1.0] * 3}]
    with pytest.raises(ConfigError, match=r"^criteria\.1\.weight: got 3 class weights"):
        build_criteria(cfg, num_classes=4)
    build_criteria(cfg, num_classes=3)
    binary = [{"type": "LovaszLoss", "mode": "binary"}]
    build_criteria(binary, num_classes=1)
    with pytest.raises(ConfigError, match=r"^criteria\.0\.mode: got 'binary' for 2 classes"):
        build_criteria(binary, num_classes=2)
    with pytest.raises(ConfigError, match=r"^criteria\.0\.class_seen: got class 2, allowed: 0 to 1"):
        build_criteria([{"type": "LovaszLoss", "class_seen": [2, 0]}], num_classes=2)


def test_criteria_know_what_all_of_them_ignore() -> None:
    def ignored(*indices: int) -> int | None:
        return build_criteria([{"type": "DiceLoss", "ignore_index": index} for index in indices]).ignore_index

    assert (ignored(-1), ignored(255, 255), ignored(-1, 255)) == (-1, 255, None)


def test_losses_add_nothing_to_checkpoints() -> None:
    assert not build_criteria(CASES).state_dict()


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [0, 1, 2])
def test_golden_lovasz_and_cross_entropy(golden_dir: Path, case: int) -> None:
    with np.load(golden_dir / "lovasz.npz") as golden:
        stored = {k: torch.as_tensor(golden[f"{case}_{k}"]) for k in ("logits", "target", "lovasz", "grad", "ce")}
    for dtype, share in ((torch.float32, 1e-3), (torch.float64, 1e-3)):
        pred = stored["logits"].to(dtype).requires_grad_()
        value = LOSSES.build({"type": "LovaszLoss", "mode": "multiclass", "ignore_index": -1})(pred, stored["target"])
        (grad,) = torch.autograd.grad(value, pred)
        assert abs(value.item() - stored["lovasz"].item()) < 1e-6
        worst = (grad - stored["grad"]).abs().max()
        assert worst < 1e-6
        assert worst < share * stored["grad"].abs().max()
        ce = LOSSES.build({"type": "CrossEntropyLoss", "ignore_index": -1})(pred, stored["target"])
        assert abs(ce.item() - stored["ce"].item()) < 1e-6 * stored["ce"].item()


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5, 0.1]])
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_cross_entropy_is_that_of_torch(weight: list[float] | None, smoothing: float) -> None:
    cfg = {"type": "CrossEntropyLoss", "weight": weight, "label_smoothing": smoothing}
    pred, target = example(cfg)
    w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    expected = F.cross_entropy(pred, target, weight=w, ignore_index=-1, label_smoothing=smoothing)
    assert torch.allclose(LOSSES.build(cfg)(pred, target), expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_smooth_cross_entropy_is_the_sum_over_the_smoothed_target(classes: int) -> None:
    pred, target = example({})
    pred, target = pred[:, :classes], target.clamp(max=classes - 1)
    kept = target != -1
    smooth = torch.full((int(kept.sum()), classes), 0.2 / (classes - 1), dtype=torch.float64)
    smooth[torch.arange(len(smooth)), target[kept]] = 0.8
    expected = F.cross_entropy(pred[kept], smooth)
    assert torch.allclose(LOSSES.build({"type": "SmoothCELoss", "smoothing_ratio": 0.2})(pred, target), expected)


@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "SmoothCELoss", "FocalLoss", "DiceLoss", "LovaszLoss"])
def test_one_class_alone_is_no_special_case(kind: str) -> None:
    pred = torch.tensor([[0.3], [-2.0], [5.0]], requires_grad=True)
    value = LOSSES.build({"type": kind})(pred, torch.tensor([0, -1, 0]))
    value.backward()
    assert torch.isfinite(value)
    if kind != "FocalLoss":  # the only one without a softmax
        assert value == 0
        assert pred.grad is not None
        assert not pred.grad.any()


def test_focal_loss_is_the_formula_point_by_point() -> None:
    pred, target = example({})
    terms = []
    for x, t in zip(pred.detach().tolist(), target.tolist(), strict=True):
        for k in range(4) if t != -1 else []:
            p = 1 / (1 + np.exp(-x[k]))
            p_t, alpha_t = (p, 0.25) if k == t else (1 - p, 0.75)
            terms.append(-alpha_t * (1 - p_t) ** 2 * np.log(p_t))
    value = LOSSES.build({"type": "FocalLoss", "gamma": 2.0, "alpha": 0.25})(pred, target)
    assert value.item() == pytest.approx(np.mean(terms), rel=1e-9)
    plain = LOSSES.build({"type": "FocalLoss", "gamma": 0.0, "alpha": 0.5})(pred, target)
    kept = target != -1
    bce = F.binary_cross_entropy_with_logits(pred[kept], F.one_hot(target[kept], 4).double())
    assert torch.allclose(plain, 0.5 * bce)


def test_dice_loss_is_the_formula_class_by_class() -> None:
    pred, target = example({})
    kept = target != -1
    p, y = pred.detach()[kept].softmax(1), F.one_hot(target[kept], 4)
    terms = [
        1 - (2 * (p[:, k] * y[:, k]).sum() + 1) / ((p[:, k] ** 2).sum() + (y[:, k] ** 2).sum() + 1) for k in range(4)
    ]
    assert torch.allclose(LOSSES.build({"type": "DiceLoss"})(pred, target), torch.stack(terms).mean())


def naive_extension(errors: list[float], truth: list[bool]) -> float:
    """The Lovász extension of 1 - IoU, straight from its definition with sets."""
    inside = {i for i, t in enumerate(truth) if t}

    def one_minus_iou(wrong: set[int]) -> float:
        # Predicted set = inside with the wrong points flipped.
        union = inside | wrong
        return len(wrong) / len(union) if union else 0.0

    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    steps = [one_minus_iou(set(order[: i + 1])) - one_minus_iou(set(order[:i])) for i in range(len(order))]
    return sum(errors[i] * g for i, g in zip(order, steps, strict=True))


def test_lovasz_weights_follow_the_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    errors = torch.rand(6, 15, generator=generator, dtype=torch.float64)
    truth = torch.rand(6, 15, generator=generator) < torch.tensor([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])[:, None]
    valid = torch.rand(15, generator=generator) < 0.7
    assert not truth[0].any()
    assert truth[5].all()
    got = (errors * lovasz_weights(errors, truth & valid, valid)).sum(1)
    for c in range(6):
        expected = naive_extension(errors[c][valid].tolist(), truth[c][valid].tolist())
        assert got[c].item() == pytest.approx(expected, rel=1e-12)


def test_lovasz_equals_one_minus_iou_at_hard_errors() -> None:
    """The extension agrees with the set function at its corners."""
    for wrong in itertools.product([False, True], repeat=4):
        pred = torch.where(torch.tensor(wrong), -1.0, 1.0) * torch.tensor([1.0, 1.0, -1.0, -1.0])
        target = torch.tensor([1, 1, 0, 0])
        # Errors 0 or 2 with this margin, so half the hinge is 1 - IoU.
        value = LovaszLoss(mode="binary")(pred[:, None], target) / 2
        hit = (pred > 0) & (target == 1)
        union = (pred > 0) | (target == 1)
        assert value.item() == pytest.approx(1 - (hit.sum() / union.sum()).item())


def test_lovasz_multiclass_is_the_mean_over_classes_present() -> None:
    pred, target = example({})
    target[target == 3] = 1
    kept = target != -1
    prob = pred.detach()[kept].softmax(1)
    terms = []
    for c in range(3):
        truth = target[kept] == c
        terms.append(naive_extension((truth.double() - prob[:, c]).abs().tolist(), truth.tolist()))
    loss = LovaszLoss(mode="multiclass")
    assert loss(pred, target).item() == pytest.approx(np.mean(terms), rel=1e-12)
    assert LovaszLoss(class_seen=[0, 3])(pred, target).item() == pytest.approx(terms[0], rel=1e-12)
    assert LovaszLoss(class_seen=[3])(pred, target).item() == 0


@pytest.mark.parametrize("errors_at_once", [1, 250])
def test_lovasz_sorts_some_classes_at_a_time(errors_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(6)
    pred = torch.randn(100, 7, generator=generator, requires_grad=True)
    target = torch.randint(-1, 7, (100,), generator=generator)
    whole = LovaszLoss()(pred, target)
    monkeypatch.setattr("pointcept.models.losses.lovasz._SORTED_AT_ONCE", errors_at_once)
    parts = LovaszLoss()(pred, target)
    assert torch.equal(parts, whole)
    assert torch.equal(*(torch.autograd.grad(loss, pred)[0] for loss in (parts, whole)))


def test_lovasz_weights_keep_their_digits_on_many_points() -> None:
    """Differences of 1 - IoU in float32 are off by percents here; the closed form is not."""
    generator = torch.Generator().manual_seed(5)
    errors = torch.rand(2, 200_000, generator=generator)
    truth = torch.rand(2, 200_000, generator=generator) < 0.3
    valid = torch.ones(200_000, dtype=torch.bool)
    got = lovasz_weights(errors, truth, valid).double()
    exact = lovasz_weights(errors.double(), truth, valid)
    assert ((got - exact).abs() / exact.clamp(min=1e-12)).max() < 1e-6
    assert torch.allclose(got.sum(1), torch.ones(2, dtype=torch.float64), atol=1e-5)


# --- criteria ------------------------------------------------------------------------------------


def test_criteria_sum_and_name_their_terms() -> None:
    pred, target = example({})
    criteria = build_criteria(
        [
            {"type": "CrossEntropyLoss", "loss_weight": 0.5},
            {"type": "LovaszLoss", "mode": "multiclass"},
            {"type": "CrossEntropyLoss", "label_smoothing": 0.1},
        ]
    )
    total, terms = criteria(pred, target)
    assert list(terms) == ["CrossEntropyLoss", "LovaszLoss", "CrossEntropyLoss_2"]
    assert torch.allclose(total, torch.stack(list(terms.values())).sum())
    assert terms["CrossEntropyLoss"].item() == pytest.approx(
        0.5 * F.cross_entropy(pred, target, ignore_index=-1).item()
    )
    assert not any(t.requires_grad for t in terms.values())
    total.backward()
    assert pred.grad is not None
    assert torch.isfinite(pred.grad).all()
    assert isinstance(criteria, nn.Module)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ([], "one or more"),
        ({"type": "CrossEntropyLoss"}, "one or more"),
        ([{"type": "CrossEntropyLoss"}, {"type": "LovasLoss"}], r"criteria\.1.*'LovaszLoss'"),
        ([{"type": "CrossEntropyLoss", "ignore": 0}], r"criteria\.0.*'ignore'.*'ignore_index'"),
    ],
)
def test_wrong_criteria(cfg: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_criteria(cfg)
