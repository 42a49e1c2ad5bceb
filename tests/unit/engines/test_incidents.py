"""Steps without numbers or memory: named with their scans, kept, left out where the config allows it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from fakes import make_config
from runs import Recorder, interrupt, make_trainer, run, same_weights
from torch import nn

from pointcept.datasets.base import Draw
from pointcept.engines.evaluate import evaluate_quick
from pointcept.engines.inference import Precision, predict_scan
from pointcept.engines.memory import describe_scans, is_out_of_memory, memory_for
from pointcept.models import MODELS
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError, MemoryShortage


def poisoned(folder: Path, value: float, **changes: Any) -> Config:
    """A run on such scans; the first pass has 4 steps."""
    cfg = make_config(folder, mix_prob=0, **{"log_freq": 100, "evaluate": False, **changes})
    cfg.data.train = Config(type="PoisonedScans", value=value)
    return cfg


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The step of the first pass that has scan 5."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        incidents = make_trainer(make_config(tmp_path_factory.mktemp("where"), hooks=[])).incidents
    return next(i for i in range(1, 5) if 5 in [draw.index for draw in incidents._draws(i, [0])])


def test_draws_of_every_step_are_those_that_the_loader_reads(tmp_path: Path) -> None:
    for number, changes in enumerate(
        (
            {"gradient_accumulation_steps": 3, "epoch": 2, "eval_epoch": 2},
            {"train": {"type": "DefaultTrainer", "max_iter": 5}, "eval_epoch": 2},
        )
    ):
        cfg = make_config(tmp_path / str(number), hooks=[], evaluate=False, **changes)
        cfg.data.train.scans = 7
        trainer = make_trainer(cfg)
        step = trainer.run_step
        names: list[list[str]] = []

        def watched(batches: list[Any], trainer: Any = trainer, names: Any = names, step: Any = step) -> Any:
            names.append([name for batch in batches for mixed in batch["name"] for name in mixed.split("+")])
            made = trainer.incidents._make_again(trainer.incidents._draws(trainer.iteration + 1, [0]))[0]
            assert all(torch.equal(a["feat"], b["feat"]) for a, b in zip(made, batches, strict=True))
            return step(batches)

        trainer.run_step = watched  # type: ignore[method-assign]
        trainer.train()
        assert len(names) == trainer.plan.total_steps
        for i, read in enumerate(names, start=1):
            drawn = trainer.incidents._draws(i, [0])
            assert read == [f"scan{draw.index}" for draw in drawn]


@pytest.mark.parametrize("value", [1e30, math.nan, math.inf])
def test_a_scan_that_poisons_the_statistics_is_named(tmp_path: Path, where: int, value: float) -> None:
    with pytest.raises(FloatingPointError) as error:
        run(poisoned(tmp_path, value, hooks=[{"type": "CheckpointSaver", "save_freq": 1}]))
    text = str(error.value)
    assert f"at iteration {where} (epoch 1, step {where})" in text
    assert "scan5 (45 voxels, features up to " + {1e30: "1e+30", math.nan: "nan", math.inf: "inf"}[value] in text
    if value == 1e30:  # the loss is as ever
        assert text.startswith("the largest running variance is inf")
    kept = torch.load(tmp_path / "incidents" / f"iteration_{where}.pth")
    assert f"kept in {tmp_path}/incidents/iteration_{where}.pth" in text
    (batch,) = kept["batches"]
    assert "scan5" in batch["name"]
    assert kept["iteration"] == where
    assert not (tmp_path / "model").exists()


def test_the_right_step_is_named_however_late_it_is_read(tmp_path: Path) -> None:
    for number, save_iter in enumerate((1, 3, 12)):
        hooks = [{"type": "CheckpointSaver", "save_iter": save_iter}]
        cfg = make_config(tmp_path / str(number), log_freq=100, hooks=hooks, model={"type": "FakeModel", "bad_call": 7})
        cfg.eval_epoch = 1
        with pytest.raises(FloatingPointError, match=r"iteration 7 .*; its scans: scan\d.*kept in .*iteration_7\.pth"):
            run(cfg)


@MODELS.register_module("BadGradient")
class BadGradient(fakes.FakeModel):
    """The gradient of one call is NaN, its loss is not."""

    def __init__(self, bad: int, **options: Any) -> None:
        super().__init__(**options)
        self.bad = bad

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = super().forward(batch)
        if self.training and self.calls == self.bad:
            zero = self.seg_head.weight[0, 0] * 0
            result["loss"] = result["loss"] + zero.sqrt() * 0
        return result


def test_a_gradient_that_is_no_number_names_its_step(tmp_path: Path) -> None:
    model = {"type": "BadGradient", "bad": 6}
    with pytest.raises(FloatingPointError, match=r"the norm of the gradient is nan at iteration 6 .*its scans: scan"):
        run(make_config(tmp_path / "a", model=model, clip_grad=1.0))
    # Without a norm the step after it is the first one that shows; both are named.
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at iteration 7 .*; if the gradient of the step before"
    ):
        run(make_config(tmp_path / "b", model=model, log_freq=100))
    # In the last step before a checkpoint the weights alone show it.
    with pytest.raises(
        FloatingPointError, match=r"NaN.* after iteration 6; its scans: scan.*kept in .*iteration_6\.pth"
    ):
        run(make_config(tmp_path / "c", model=model, hooks=[{"type": "CheckpointSaver", "save_iter": 6}]))


def test_scans_that_cannot_be_read_again_are_named_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_config(tmp_path))

    def gone(draw: Draw) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(trainer.train_set), "__getitem__", lambda self, draw: gone(draw))
    text = trainer.incidents.explain(2, "the loss is nan")
    assert re.match(
        r"its scans: sample \d \(scan\d\), sample \d \(scan\d\); they cannot be read again: .* the disk", text
    )
    assert not (tmp_path / "incidents").exists()


def test_a_file_of_an_incident_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointcept.engines.incidents.MOST_BYTES", 8000)
    trainer = make_trainer(make_config(tmp_path, gradient_accumulation_steps=4))
    text = trainer.incidents.explain(1, "the loss is nan")
    assert text.endswith("iteration_1.pth without 3 of 4 batches")
    assert torch.load(tmp_path / "incidents" / "iteration_1.pth")["left_out"] == 3


def test_a_step_is_left_out_as_if_it_had_not_been(tmp_path: Path, where: int, caplog: pytest.LogCaptureFixture) -> None:
    cfg = poisoned(tmp_path, math.nan, skip_nonfinite=2, log_freq=1)
    trainer = make_trainer(cfg)
    states: list[Any] = []
    step = trainer.run_step

    def watched(batches: list[Any]) -> Any:
        before = {k: v.clone() for k, v in trainer.network.state_dict().items()}, torch.get_rng_state()
        result = step(batches)
        states.append(
            (before, ({k: v.clone() for k, v in trainer.network.state_dict().items()}, torch.get_rng_state()))
        )
        return result

    trainer.run_step = watched  # type: ignore[method-assign]
    trainer.train()
    (weights, random), (weights_after, random_after) = states[where - 1]
    assert all(torch.equal(weights[key], weights_after[key]) for key in weights)
    assert torch.equal(random, random_after)
    assert trainer.incidents.skipped == {"nonfinite": 1, "out_of_memory": 0}
    assert trainer.scheduler.last_epoch == trainer.iteration == 12
    assert "left out a step (1 of at most 2): loss nan" in caplog.text
    assert "scan5 (45 voxels, features up to nan)" in caplog.text
    assert (tmp_path / "incidents" / f"iteration_{where}.pth").exists()


def test_a_step_left_out_is_left_out_after_a_resume_too(tmp_path: Path, where: int) -> None:
    options: dict[str, Any] = {"skip_nonfinite": 1, "hooks": [{"type": "CheckpointLoader"}]}
    whole, reference = run(poisoned(tmp_path / "whole", 1e30, **options))
    with pytest.raises(KeyboardInterrupt):
        run(poisoned(tmp_path / "cut", 1e30, **options), Recorder(where + 1, interrupt))
    resumed, rest = run(poisoned(tmp_path / "cut", 1e30, resume=True, **options))
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > where + 1}
    assert same_weights(whole.network, resumed.network)
    assert resumed.incidents.skipped["nonfinite"] == 1


def test_too_many_steps_to_leave_out_end_the_run(tmp_path: Path) -> None:
    model = {"type": "BadGradient", "bad": 6, "bad_call": 3}
    with pytest.raises(
        FloatingPointError, match=r"gradient nan at iteration 6; .*skip_nonfinite=1 steps have been left out"
    ):
        run(make_config(tmp_path, model=model, skip_nonfinite=1, evaluate=False))
    trainer, _ = run(make_config(tmp_path / "b", model=model, skip_nonfinite=2, hooks=[], epoch=2, eval_epoch=2))
    assert trainer.incidents.skipped["nonfinite"] == 2


MESSAGES = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
    np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(float)),  # type: ignore[attr-defined]
)


@MODELS.register_module("Greedy")
class Greedy(fakes.FakeModel):
    """Has used its dropout and its statistics when memory is short, in the given calls."""

    def __init__(self, calls: list[int], message: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.greedy, self.message = calls, message
        self.tries = 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = super().forward(batch)
        self.tries += self.training
        if self.training and self.tries in self.greedy:
            raise MESSAGES[self.message]
        return result


@pytest.mark.parametrize("message", range(len(MESSAGES)))
def test_lack_of_memory_names_scans_and_voxels(tmp_path: Path, message: int) -> None:
    model = {"type": "Greedy", "calls": [3], "message": message}
    words = r"^out of memory for iteration 3: scan\d \(4\d voxels\), scan\d \(4\d voxels\); lower batch_size"
    with pytest.raises(MemoryShortage, match=words):
        run(make_config(tmp_path, model=model, mix_prob=0))


def test_steps_without_memory_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = {"type": "Greedy", "calls": [3, 8]}
    trainer, recorder = run(make_config(tmp_path, model=model, skip_out_of_memory=2, evaluate=False))
    assert trainer.incidents.skipped == {"nonfinite": 0, "out_of_memory": 2}
    assert [i for i, loss in recorder.losses.items() if math.isnan(loss)] == [3, 8]
    assert "left out a step (2 of at most 2): out of memory for iteration 8" in caplog.text
    # As if those steps had not been: the same as with batches that give nothing.
    assert int(trainer.network.block[1].num_batches_tracked) == 10  # type: ignore[index, union-attr]
    with pytest.raises(MemoryShortage, match="skip_out_of_memory=1 steps have been left out already"):
        run(make_config(tmp_path / "b", model=model, skip_out_of_memory=1, hooks=[]))


def test_memory_for_moments_is_named_and_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryShortage, match=r"out of memory for iteration 1: scan"):
        run(make_config(tmp_path, skip_out_of_memory=5))


def test_steps_without_memory_are_no_option_for_graphs_or_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(tmp_path, skip_out_of_memory=1)
    make_trainer(cfg)
    with monkeypatch.context() as patch:
        patch.setattr("pointcept.utils.device.device_count", lambda: 1)
        with pytest.raises(ConfigError, match="skip_out_of_memory: allowed with cuda_graphs=False"):
            make_trainer(cfg)
    monkeypatch.setattr("pointcept.utils.comm.world_size", lambda: 2)
    with pytest.raises(ConfigError, match="skip_out_of_memory: allowed with one process"):
        make_trainer(cfg)


def test_other_errors_pass_as_they_are() -> None:
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match=r"^shapes"), memory_for(lambda: "nothing"):
        raise RuntimeError("shapes do not match")


def test_lack_of_memory_in_evaluation_and_test_names_the_scan(tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tmp_path))

    class Full(nn.Module):
        def forward(self, batch: Any) -> Any:
            raise MESSAGES[1]

    assert trainer.val_loader is not None
    with pytest.raises(MemoryShortage, match=r"the evaluation of scan0 \(40 voxels\) \(\[enforce fail"):
        evaluate_quick(Full(), trainer.val_loader, trainer.val_set, Precision())
    sample = fakes.FakeDataset(test_mode=True)[Draw(3, 0)]
    with pytest.raises(MemoryShortage, match=r"for scan3 \(43 points in 4 fragments of up to 22 voxels\)"):
        predict_scan(Full(), sample)


def test_scans_without_names_are_counted() -> None:
    batch = {"offset": torch.tensor([2, 5]), "feat": torch.tensor([[1.0], [-2.0], [0.0], [0.5], [0.0]])}
    assert describe_scans(batch) == ["scan 0 of the batch (2 voxels)", "scan 1 of the batch (3 voxels)"]
    assert describe_scans(batch, values=True)[1] == "scan 1 of the batch (3 voxels, features up to 0.5)"
