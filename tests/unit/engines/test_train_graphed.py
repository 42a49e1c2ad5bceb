"""The training loop on a network in fixed shapes, as graphs need them; the CPU does the same work without graphs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeDataset, make_config
from runs import Recorder, interrupt, run

from pointcept.models import build_model, graphed, use_graphs

BACKBONE = {
    "type": "PT-v3m1", "in_channels": 3, "order": ("z", "z-trans", "hilbert", "hilbert-trans"), "stride": (2,),
    "enc_depths": (1, 1), "enc_channels": (16, 16), "enc_num_head": (1, 1), "enc_patch_size": (32, 32),
    "dec_depths": (1,), "dec_channels": (16,), "dec_num_head": (1,), "dec_patch_size": (32,), "drop_path": 0.0,
}  # fmt: skip
CRITERIA = [{"type": "CrossEntropyLoss"}, {"type": "LovaszLoss", "mode": "multiclass"}]
PTV3 = {
    "type": "DefaultSegmentorV2", "num_classes": 3, "backbone_out_channels": 16, "backbone": BACKBONE,
    "criteria": CRITERIA,
}  # fmt: skip
UNET = {
    "type": "DefaultSegmentor",
    "backbone": {
        "type": "SpUNet-v1m1", "in_channels": 3, "num_classes": 3, "base_channels": 8, "channels": (8, 8),
        "layers": (1, 1),
    },
    "criteria": CRITERIA,
}  # fmt: skip
DISTILL = {
    "type": "Distiller",
    "teacher": PTV3,
    "student": UNET,
    "teacher_weight": "random",
    "losses": [{"type": "KLDLoss"}, {"type": "GradGuidedLoss"}, {"type": "TopoLoss", "max_points": 16}],
}


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trained network gets fixed shapes."""
    plain = graphed.why_not_graphed

    def why_not(segmentor: Any, where: torch.device) -> str | None:
        reason = plain(segmentor, where)
        return None if reason is not None and "need a GPU" in reason else reason

    def build(config: Any) -> torch.nn.Module:
        model = build_model(config)
        assert use_graphs(model, torch.device("cpu"))
        return model

    monkeypatch.setattr("pointcept.models.segmentor.why_not_graphed", why_not)
    monkeypatch.setattr("pointcept.engines.train.build_model", build)


def config(folder: Path, model: dict, **changes: Any) -> Any:
    """A config with Mix3D on every batch, and two batches in a step."""
    return make_config(folder, model=model, mix_prob=1, gradient_accumulation_steps=2, **changes)


@pytest.mark.parametrize("model", [PTV3, UNET, DISTILL], ids=["ptv3", "unet", "distillation"])
def test_training_goes_as_without(tmp_path: Path, request: pytest.FixtureRequest, model: dict) -> None:
    plain, expected = run(config(tmp_path / "plain", model))
    request.getfixturevalue("forced")
    trainer, found = run(config(tmp_path / "fixed", model))
    network = getattr(trainer.network, "student", trainer.network)
    assert network._graphed.runs == 12
    assert list(found.losses.values()) == pytest.approx(list(expected.losses.values()), rel=1e-3)
    assert trainer.evaluation is not None
    assert plain.evaluation is not None
    assert trainer.evaluation.metrics.iou == pytest.approx(plain.evaluation.metrics.iou, abs=0.05)


@pytest.mark.parametrize("model", [PTV3, DISTILL], ids=["ptv3", "distillation"])
def test_resuming(tmp_path: Path, forced: None, model: dict) -> None:
    whole, reference = run(config(tmp_path / "whole", model))
    cut = config(tmp_path / "cut", model)
    with pytest.raises(KeyboardInterrupt):
        run(cut, Recorder(3, interrupt))
    resumed, rest = run(config(tmp_path / "cut", model, resume=True))
    assert sorted(rest.losses) == [4, 5, 6]
    assert list(rest.losses.values()) == pytest.approx([reference.losses[i] for i in (4, 5, 6)], rel=1e-3)
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, forced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FakeDataset._tensors

    def bad(self: Any, coord: Any) -> dict[str, torch.Tensor]:
        return {**plain(self, coord), "feat": torch.full((len(coord), 3), float("nan"))}

    monkeypatch.setattr(FakeDataset, "_tensors", bad)
    with pytest.raises(FloatingPointError):
        run(config(tmp_path, PTV3))


def test_a_step_without_numbers_is_left_out(tmp_path: Path, forced: None) -> None:
    cfg = config(tmp_path, PTV3, skip_nonfinite=1, hooks=[{"type": "CheckpointSaver"}], evaluate=False)
    cfg.data.train = {"type": "PoisonedScans", "value": float("inf")}
    trainer, recorder = run(cfg)
    assert trainer.incidents.skipped["nonfinite"] == 1
    assert sum(math.isnan(loss) for loss in recorder.losses.values()) == 1
    assert trainer.network._graphed.runs == 12
    assert all(value.isfinite().all() for value in trainer.network.state_dict().values())


def test_batches_without_a_labelled_point(tmp_path: Path, forced: None) -> None:
    cfg = config(tmp_path, PTV3, evaluate=False, hooks=[])
    cfg.data.train.all_ignored = True
    trainer, recorder = run(cfg)
    assert trainer.completed
    assert set(recorder.losses.values()) == {0.0}
