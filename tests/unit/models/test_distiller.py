"""The distiller: a frozen teacher, checkpoints of the student alone, losses that add up, errors."""

import copy

import pytest
import torch

from pointcept.models import build_inference_model, build_model, deployable
from pointcept.models.losses import KLDLoss
from pointcept.models.output import Output
from pointcept.structures import GridPyramid
from pointcept.utils.errors import CheckpointError


@pytest.fixture
def config(small_segmentor) -> dict:
    """A distiller with an untrained teacher."""
    teacher = copy.deepcopy(small_segmentor)
    teacher["backbone"].update(enc_depths=(2, 2), shuffle_orders=True)
    return {
        "type": "Distiller",
        "teacher": teacher,
        "student": small_segmentor,
        "teacher_weight": "random",
        "losses": [{"type": "KLDLoss", "loss_weight": 0.3}],
    }


def test_the_teacher_is_frozen_and_no_part_of_the_checkpoint(config, batch):
    model = build_model(config).train()
    before = copy.deepcopy(model.teacher.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(batch)["loss"].backward()
    optimizer.step()
    assert not model.teacher.training
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.teacher.state_dict().items())
    assert all(p.grad is not None for p in model.student.parameters())
    assert {name.split(".")[0] for name in model.state_dict()} == {"student"}


def test_the_deployable_network_is_the_student(config, batch):
    model = build_model(config)
    assert deployable(model) is model.student
    student = build_inference_model(config)
    student.load_state_dict(deployable(model).state_dict())
    with torch.no_grad():
        logits = student.eval()(batch)["seg_logits"]
        assert torch.equal(logits, model.eval()(batch)["seg_logits"])


def test_terms_add_up_and_are_named(config, batch):
    config["losses"] *= 2
    result = build_model(config).train()(batch)
    terms = result["losses"]
    assert set(terms) == {
        "CrossEntropyLoss", "LovaszLoss", "KLDLoss", "KLDLoss/raw", "KLDLoss_2", "KLDLoss_2/raw"
    }  # fmt: skip
    torch.testing.assert_close(terms["KLDLoss"], 0.3 * terms["KLDLoss/raw"])
    total = sum(value for name, value in terms.items() if not name.endswith("/raw"))
    torch.testing.assert_close(result["loss"].detach(), total)


def test_moving_the_distiller_moves_its_teacher(config):
    model = build_model(config).double()
    assert next(model.teacher.parameters()).dtype is torch.float64


def test_a_student_of_another_kind_gets_its_own_grids(config, small_unet, batch):
    config["student"] = small_unet
    result = build_model(config).train()(batch)
    assert torch.isfinite(result["loss"])


def test_wrong_configs_are_explained(config, batch, tmp_path):
    def expect(error, message, **changes):
        with pytest.raises(error, match=message):
            build_model({**config, **changes}).train()(batch)

    expect(ValueError, "num_classes: the teacher has 7", teacher={**config["teacher"], "num_classes": 7})
    expect(ValueError, "at least one loss", losses=[])
    expect(ValueError, "did you mean 'KLDLoss'", losses=[{"type": "KLDLos"}])
    expect(ValueError, "criteria", student={**config["student"], "criteria": None})
    wide = copy.deepcopy(config["student"])
    wide["backbone"]["in_channels"] = 6
    expect(ValueError, "in_channels are 4 and 6", student=wide)
    expect(CheckpointError, "does not exist", teacher_weight=str(tmp_path / "none.pth"))
    torch.save({"state_dict": build_model(config).student.state_dict()}, tmp_path / "student.pth")
    expect(CheckpointError, "missing from the file", teacher_weight=str(tmp_path / "student.pth"))
    del batch["segment"]
    expect(ValueError, "needs labels")


def test_a_teacher_checkpoint_is_loaded(config, tmp_path):
    teacher = build_model(config["teacher"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in teacher.state_dict().items()}}, tmp_path / "teacher.pth")
    model = build_model({**config, "teacher_weight": str(tmp_path / "teacher.pth")})
    assert all(torch.equal(v, model.teacher.state_dict()[k]) for k, v in teacher.state_dict().items())


def _output(logits):
    grid = GridPyramid(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([1]), ("z",), ())
    return Output(logits, [(logits, grid.levels[0])])


def test_kld_against_its_definition():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 4, generator=generator, dtype=torch.float64).unbind()
    for temperature in (1.0, 2.5):
        p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
        expected = (p * (p / q).log()).sum(1).mean() * temperature**2
        found = KLDLoss(temperature=temperature)(_output(student), _output(teacher), {})
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_kld_is_zero_for_equal_logits_and_its_gradient_reaches_the_student_only():
    logits = torch.randn(7, 4, requires_grad=True)
    teacher = logits.detach().clone().requires_grad_()
    assert KLDLoss()(_output(logits), _output(teacher), {}).abs() < 1e-6
    KLDLoss()(_output(logits + 1.0 * torch.arange(4)), _output(teacher), {}).backward()
    assert logits.grad.abs().sum() > 0
    assert teacher.grad is None


def test_kld_stays_finite_for_extreme_logits():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = KLDLoss()(_output(student), _output(torch.tensor([[-1e4, 1e4, 0.0]])), {})
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        KLDLoss(temperature=0)
