"""The look at the gradients of a distiller's terms, and weights that change over the training."""

from __future__ import annotations

import copy

import pytest
import torch

from pointcept.models import build_model
from pointcept.models.gradient_norms import gradient_norms

LOSSES = [
    {"type": "KLDLoss", "loss_weight": 0.3},
    {"type": "GradGuidedLoss", "loss_weight": 10.0},
    {"type": "SimilarityLoss", "stage": 0, "max_points": 32},
]


@pytest.fixture
def config(small_segmentor) -> dict:
    """A distiller without chance; one of its losses reads another stage than the deepest."""
    student = copy.deepcopy(small_segmentor)
    student["backbone"].update(drop_path=0.0, shuffle_orders=False)
    parts = {"teacher": copy.deepcopy(student), "student": student, "teacher_weight": "random", "losses": LOSSES}
    return {"type": "Distiller", **parts}


def test_norms_and_cosines_against_their_definition():
    x, y = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    terms = {"seg": x.square().sum() / 2, "a": 1e-9 * x[0], "b": -2 * x.square().sum() + 5 * y.sum(), "c": 0 * x.sum()}
    found = {name: float(value) for name, value in gradient_norms(terms, {"x": x, "y": y}).items()}
    assert found == pytest.approx(
        {
            "grad/seg/x": 5.0, "grad/a/x": 1e-9, "grad/a/x_cos": 0.6, "grad/b/x": 20.0, "grad/b/x_cos": -1.0,
            "grad/b/y": 5.0, "grad/c/x": 0.0, "grad/c/x_cos": 0.0,
        }
    )  # fmt: skip


def test_rows_of_a_distiller(config, batch):
    torch.manual_seed(0)
    model = build_model({**config, "gradients_every": 1}).train()
    rows = {name: value for name, value in model(batch)["losses"].items() if name.startswith("grad/")}
    places = {"seg": ("logits", "stage0", "stage1"), "KLDLoss": ("logits", "stage0", "stage1")}
    places |= {"GradGuidedLoss": ("stage0", "stage1"), "SimilarityLoss": ("stage0",)}
    names = {f"grad/{term}/{place}" for term, there in places.items() for place in there}
    assert set(rows) == names | {f"{name}_cos" for name in names if "/seg/" not in name}
    model.losses[2].seed(0)
    model.zero_grad()
    student, teacher = model.outputs(batch)
    weighed = 10.0 * model.losses[1](student, teacher, batch)
    (at_logits,) = torch.autograd.grad(student.seg_loss, student.logits, retain_graph=True)
    (deep,) = torch.autograd.grad(weighed, student.stages[-1].feat)
    torch.testing.assert_close(rows["grad/seg/logits"], at_logits.norm(), rtol=1e-3, atol=0)
    torch.testing.assert_close(rows["grad/GradGuidedLoss/stage1"], deep.norm(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("recompute", [None, "mlp", "linear", "block"])
def test_a_look_changes_nothing_and_comes_every_so_many_steps(config, batch, recompute):
    config["student"]["backbone"]["recompute"] = recompute
    models = []
    for every in (None, 3):
        torch.manual_seed(0)
        models.append(build_model({**config, "gradients_every": every}).train())
    for done in range(4):
        results = []
        for model in models:
            model.set_progress(done, 4)
            model.zero_grad()
            results.append(model(batch))
            results[-1]["loss"].backward()
        assert results[0]["loss"] == results[1]["loss"]
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
        assert not any(name.startswith("grad/") for name in results[0]["losses"])
        assert any(name.startswith("grad/") for name in results[1]["losses"]) == (done in (0, 3))


def test_weights_follow_the_progress(config, batch):
    growing = {"start": 0.0, "end": 4.0, "until": 0.5}
    losses = [{"type": "KLDLoss", "loss_weight": growing}, {"type": "KLDLoss", "loss_weight": 0.3}]
    model = build_model({**config, "losses": losses}).train()
    found = []
    for done in (0, 2, 8):
        model.set_progress(done, 8)
        terms = model(batch)["losses"]
        torch.testing.assert_close(terms["KLDLoss"], terms["KLDLoss/raw"] * terms["KLDLoss/weight"])
        assert "KLDLoss_2/weight" not in terms
        found.append(float(terms["KLDLoss/weight"]))
    assert found == [0.0, 2.0, 4.0]
    assert not any("weight" in name for name in model.state_dict() if name.startswith("losses"))


def test_a_number_of_steps_below_one(config):
    with pytest.raises(ValueError, match="gradients_every: got 0, allowed: an integer at least 1"):
        build_model({**config, "gradients_every": 0})
