"""Scores that are NaN or infinite: an error that names scan and network, in every door, and nothing written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from runs import Recorder, make_trainer
from torch import nn

from pointcept.engines import test as tester
from pointcept.engines.data import eval_loader
from pointcept.engines.evaluate import evaluate_quick
from pointcept.engines.inference import Precision, predict_scan
from pointcept.engines.launch import exit_code
from pointcept.engines.scores import check_scores, network_name, spoiled
from pointcept.engines.test import build_tester
from pointcept.utils.checkpoint import load_weights, read_checkpoint

BAD = [math.nan, math.inf, -math.inf]


class OneBadScore(fakes.FakeModel):
    """Gives one score of one point of one call another value."""

    def __init__(self, value: float, call: int = 0, row: int = 7) -> None:
        super().__init__()
        self.value, self.call, self.row, self.seen = value, call, row, 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = super().forward(batch)
        if self.seen == self.call:
            result["seg_logits"] = result["seg_logits"].clone()
            result["seg_logits"][self.row, 1] = self.value
        self.seen += 1
        return result


def poison(model: nn.Module, value: float = math.nan) -> None:
    with torch.no_grad():
        model.seg_head.bias[1] = value  # type: ignore[union-attr, operator, index]


def loads_and_poisons(model: nn.Module, *given: Any, **named: Any) -> None:
    """What ``load_weights`` does, and a NaN behind its back."""
    load_weights(model, *given, **named)
    poison(model)


@pytest.fixture
def weight(tmp_path: Path) -> str:
    path = tmp_path / "weights.pth"
    torch.save(fakes.FakeModel().state_dict(), path)
    return str(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", BAD)
def test_rows_are_told_apart(value: float, dtype: torch.dtype) -> None:
    scores = torch.linspace(-6e4, 6e4, 40, dtype=torch.float32).view(10, 4).to(dtype)
    assert torch.equal(spoiled(scores), torch.zeros(10, dtype=dtype))
    assert check_scores(scores, "a network", "") is scores
    scores[3, 2] = scores[8, 0] = value
    assert spoiled(scores).isnan().nonzero().flatten().tolist() == [3, 8]
    with pytest.raises(FloatingPointError, match="2 of 10 voxels have scores that are NaN or infinite from a network"):
        check_scores(scores, "a network", "")


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("call", [0, 3])
def test_one_bad_score_of_one_fragment_is_found(value: float, call: int) -> None:
    sample = fakes.FakeDataset(test_mode=True)[2]  # type: ignore[index]
    words = r"scan2: 1 of 42 points have scores that are NaN or infinite from the net: look at the weights"
    with pytest.raises(FloatingPointError, match=words):
        predict_scan(OneBadScore(value, call).eval(), sample, network="the net")


def test_half_precision_that_overflows_says_so() -> None:
    sample = fakes.FakeDataset(test_mode=True)[0]  # type: ignore[index]
    model = fakes.FakeModel().eval()
    with torch.no_grad():
        model.seg_head.weight *= 1e7
    assert len(predict_scan(model, sample).pred) == 40
    with pytest.raises(
        FloatingPointError, match=r"FakeModel: float16 ends at 65504: try enable_amp=False or amp_dtype"
    ):
        predict_scan(model, sample, 1, Precision(True, torch.float16))
    assert len(predict_scan(model, sample, 1, Precision(True, torch.bfloat16)).pred) == 40


@pytest.mark.parametrize("value", BAD)
def test_quick_evaluation_names_the_scan(tmp_path: Path, value: float) -> None:
    dataset = fakes.FakeDataset(full_resolution=True)
    loader = eval_loader(dataset, fakes.make_config(tmp_path, batch_size_val=3))
    model = OneBadScore(value, call=1, row=43 + 44 + 2).train()
    with pytest.raises(FloatingPointError, match=r"sample 5 \(scan5\): 1 of 132 voxels have scores .* OneBadScore"):
        evaluate_quick(model, loader, dataset, Precision())
    assert model.training


def test_losses_of_an_evaluation_have_to_be_finite(tmp_path: Path) -> None:
    class BadLoss(fakes.FakeModel):
        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            result = super().forward(batch)
            return {**result, "losses": {"ce": result["loss"] * math.nan}}

    loader = eval_loader(fakes.FakeDataset(), fakes.make_config(tmp_path))
    with pytest.raises(FloatingPointError, match=r"evaluation: losses are not finite.*: ce nan"):
        evaluate_quick(BadLoss(), loader, fakes.FakeDataset(), Precision())


@pytest.mark.parametrize(("quick", "labels"), [(True, True), (False, True), (False, False)])
def test_the_tester_writes_nothing(
    tmp_path: Path, weight: str, quick: bool, labels: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(tester, "load_weights", loads_and_poisons)
    cfg = fakes.make_config(tmp_path, weight=weight, test={"type": "SemSegTester", "quick": quick, "submit": True})
    cfg.data.test.labels = labels
    assert exit_code(lambda: build_tester(cfg).test()) == 1  # type: ignore[arg-type, return-value]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: sample 0 (scan0): 40 of 40 voxels" if quick else "error: scan0: 40 of 40 points")
    assert f"from FakeModel ({weight})" in line
    assert not (tmp_path / "result").exists()


def spoil_after(iteration: int, spoil: Callable[[nn.Module], None], cfg: Any) -> Any:
    """A trainer whose network is spoiled once so many steps are done."""
    recorder = Recorder(iteration, lambda: spoil(trainer.network))
    trainer = make_trainer(cfg, recorder)
    return trainer


def spoil_mean(network: nn.Module) -> None:
    network.block[1].running_mean[2] = math.nan  # type: ignore[union-attr, operator, index]


def spoil_variance(network: nn.Module) -> None:
    network.block[1].running_var[2] = -1.0  # type: ignore[union-attr, operator, index]


@pytest.mark.parametrize(
    ("spoil", "entry"), [(poison, "seg_head.bias"), (spoil_mean, "running_mean"), (spoil_variance, "running_var")]
)
def test_a_network_that_is_lost_in_training_is_neither_evaluated_nor_saved(
    tmp_path: Path, spoil: Callable[[nn.Module], None], entry: str
) -> None:
    """Statistics are not read in training, so no loss tells of them."""
    trainer = spoil_after(8, spoil, fakes.make_config(tmp_path / "a"))
    with pytest.raises(FloatingPointError, match=rf"model: 1 of 9 entries hold .*{entry} .* after iteration 8"):
        trainer.train()
    trainer = spoil_after(8, spoil, fakes.make_config(tmp_path / "b", evaluate=False))
    with pytest.raises(FloatingPointError, match=rf"model: 1 of 9 entries hold .*{entry} \(1 of \d+ values\)"):
        trainer.train()
    for run in "ab":
        assert read_checkpoint(tmp_path / run / "model" / "model_last.pth")["iteration"] == 4


def test_moments_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """Adam never moves a weight again whose second moment is infinite."""

    def spoil(network: nn.Module) -> None:
        trainer.optimizer.state[network.seg_head.bias]["exp_avg_sq"][0] = math.inf  # type: ignore[index, union-attr]

    trainer = spoil_after(8, spoil, fakes.make_config(tmp_path))
    with pytest.raises(FloatingPointError, match=r"optimizer: 1 of 18 entries .*exp_avg_sq \(1 of 3 values\)"):
        trainer.train()
    assert read_checkpoint(tmp_path / "model" / "model_last.pth")["iteration"] == 4


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # as in a run whose scaler is on
def test_gradients_that_overflow_in_every_step_are_told(tmp_path: Path) -> None:
    """The loss is finite, and the scaler skips step after step."""
    trainer = make_trainer(fakes.make_config(tmp_path, model={"type": "FakeModel", "dropout": 0.0}, clip_grad=None))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-10)
    trainer.network.block[0].weight.register_hook(lambda grad: grad * math.inf)  # type: ignore[union-attr, operator, index]
    before = trainer.network.seg_head.weight.clone()  # type: ignore[union-attr, operator]
    with pytest.raises(FloatingPointError, match=r"step after step, all of which were skipped: .* fallen to 3\.8e-06"):
        trainer.train()
    assert torch.equal(trainer.network.seg_head.weight, before)  # type: ignore[arg-type]


def test_a_network_is_described_with_its_backbone() -> None:
    model = nn.Module()
    assert network_name(model) == "Module"
    model.backbone = nn.Linear(1, 1)
    assert network_name(model, Path("a.pth")) == "Module with Linear (a.pth)"
