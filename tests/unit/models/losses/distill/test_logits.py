"""Losses on scores against loops over points, closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pointcept.models.losses import DISTILL_LOSSES
from pointcept.models.output import Output
from tests.fixed import NoWaiting

K = 4


def scores(seed: int, n: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, K, generator=generator, dtype=torch.float64)


SEGMENT = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, -1, -1, 255, -1])
CASES = [
    {"type": kind, **options}
    for kind in ("KLDLoss", "DKDLoss")
    for options in (
        {},
        {"temperature": 3.0},
        {"standardise": True, "temperature": 2.0},
        {"balanced": True},
        {"sure": 0.6},
        {"right": True},
        {"balanced": True, "sure": 0.5, "right": True, "standardise": True},
    )
]
CASES.append({"type": "DKDLoss", "alpha": 0.5, "beta": 8.0})


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def naive(cfg: dict, student: Tensor, teacher: Tensor, segment: Tensor) -> Tensor:
    """Point by point, by definition."""
    temperature, by_class, everything = cfg.get("temperature", 1.0), {}, []
    for s, t, label in zip(student, teacher, segment, strict=True):
        p = t.softmax(0)
        labelled = 0 <= label < K
        c = int(label) if labelled else int(p.argmax())
        if p.max() < cfg.get("sure", 0.0) or (cfg.get("right") and labelled and p.argmax() != label):
            continue
        if cfg.get("standardise"):
            s, t = ((x - x.mean()) / x.std(correction=0) for x in (s, t))
        q, p = (s / temperature).softmax(0), (t / temperature).softmax(0)
        if cfg["type"] == "KLDLoss":
            value = kl(p, q)
        else:
            others = [k for k in range(K) if k != c]
            binary = [torch.stack([x[c], 1 - x[c]]) for x in (p, q)]
            value = cfg.get("alpha", 1.0) * kl(*binary)
            value = value + cfg.get("beta", 2.0) * kl(p[others] / (1 - p[c]), q[others] / (1 - q[c]))
        by_class.setdefault(c, []).append(value)
        everything.append(value)
    groups = by_class.values() if cfg.get("balanced") else [everything]
    return torch.stack([torch.stack(group).mean() for group in groups]).mean() * temperature**2


@pytest.mark.parametrize("cfg", CASES, ids=lambda cfg: "-".join(map(str, cfg.values())))
def test_against_the_definition(cfg):
    student, teacher = scores(0).requires_grad_(), scores(1).requires_grad_()
    loss, batch = DISTILL_LOSSES.build(cfg), {"segment": SEGMENT}
    found = loss(Output(student, []), Output(teacher, []), batch)
    torch.testing.assert_close(found, naive(cfg, student, teacher, SEGMENT))
    assert torch.autograd.gradcheck(lambda x: loss(Output(x, []), Output(teacher.detach(), []), batch), (student,))
    found.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None
    equal = loss(Output(teacher, []), Output(teacher, []), batch)
    torch.testing.assert_close(equal, torch.zeros_like(equal), atol=1e-12, rtol=0)


@pytest.mark.parametrize("cfg", CASES, ids=lambda cfg: "-".join(map(str, cfg.values())))
def test_batches_without_labels(cfg):
    """The key is not there, or nothing is labelled: the teacher's class takes its place."""
    student, teacher, loss = Output(scores(0), []), Output(scores(1), []), DISTILL_LOSSES.build(cfg)
    guessed = loss(student, teacher, {"segment": teacher.logits.argmax(1)})
    for batch in ({}, {"segment": torch.full((12,), -1)}):
        assert torch.equal(loss(student, teacher, batch), guessed)


@pytest.mark.parametrize("cfg", CASES, ids=lambda cfg: "-".join(map(str, cfg.values())))
def test_extreme_and_equal_scores(cfg):
    student = torch.tensor([[1e4, -1e4, 0.0, 0.0], [5.0] * K, [-3e4, 0.0, 1.0, 2.0]]).requires_grad_()
    teacher = torch.tensor([[-1e4, 1e4, 0.0, 0.0], [1e4, 0.0, 0.0, 0.0], [0.0] * K])
    value = DISTILL_LOSSES.build(cfg)(Output(student, []), Output(teacher, []), {"segment": torch.tensor([1, 0, -1])})
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_kld_is_its_two_parts():
    student, teacher = Output(scores(0), []), Output(scores(1), [])
    kinds = ({"type": "KLDLoss"}, {"type": "DKDLoss", "beta": 0.0}, {"type": "DKDLoss", "alpha": 0.0, "beta": 1.0})
    first = [{"segment": SEGMENT[:1]}, Output(student.logits[:1], []), Output(teacher.logits[:1], [])]
    whole, target, others = (DISTILL_LOSSES.build(cfg)(first[1], first[2], first[0]) for cfg in kinds)
    torch.testing.assert_close(whole, target + (1 - teacher.logits[0].softmax(0)[SEGMENT[0]]) * others)


def test_points_that_all_are_left_out():
    student, loss = scores(0).requires_grad_(), DISTILL_LOSSES.build({"type": "KLDLoss", "sure": 0.99999})
    value = loss(Output(student, []), Output(scores(1), []), {"segment": SEGMENT})
    value.backward()
    assert value == 0
    assert not student.grad.any()
    assert loss.report["kept"] == 0


def test_the_share_that_counts_is_reported():
    teacher = torch.eye(K, dtype=torch.float64)[[0, 1, 2, 3]] * torch.tensor([9.0, 9.0, 9.0, 0.1])[:, None]
    batch = {"segment": torch.tensor([0, 3, -1, 3])}
    for options, kept in (({"right": True}, 0.75), ({"sure": 0.9}, 0.75), ({"right": True, "sure": 0.9}, 0.5)):
        loss = DISTILL_LOSSES.build({"type": "DKDLoss", **options})
        loss(Output(scores(0, 4), []), Output(teacher, []), batch)
        assert loss.report["kept"] == kept
    plain = DISTILL_LOSSES.build({"type": "KLDLoss"})
    plain(Output(scores(0, 4), []), Output(teacher, []), batch)
    assert not plain.report


@pytest.mark.parametrize("cfg", CASES, ids=lambda cfg: "-".join(map(str, cfg.values())))
def test_the_host_does_not_wait(cfg):
    loss = DISTILL_LOSSES.build(cfg)
    with NoWaiting():
        loss(Output(scores(0), []), Output(scores(1), []), {"segment": SEGMENT.clone()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "^temperature: got 0"),
        ({"sure": 1.0}, "^sure: got 1.0, allowed: a finite number at least 0 and below 1"),
        ({"right": 1}, "^right: got 1, allowed: True or False"),
        ({"beta": -1.0}, "^beta: got -1.0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        DISTILL_LOSSES.build({"type": "DKDLoss", **options})
