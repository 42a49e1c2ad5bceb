"""The training loop: accumulation, NaN, interrupts, hooks, schedules, the log."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fakes import make_config
from runs import Recorder, make_trainer, run, same_weights

from pointcept.datasets import DATASETS
from pointcept.datasets.base import seed_all
from pointcept.engines.data import train_loader
from pointcept.engines.defaults import train_main
from pointcept.engines.hooks import HOOKS, HookBase, Phase
from pointcept.engines.step import StepResult
from pointcept.engines.test import build_tester
from pointcept.engines.train import DefaultTrainer
from pointcept.models import MODELS
from pointcept.utils.checkpoint import read_checkpoint
from pointcept.utils.errors import ConfigError, DataError


def test_accumulation_equals_a_large_batch(tmp_path: Path) -> None:
    # Equal scans and a loss that is a mean: then the mean of gradients is the gradient of the mean.
    common = {
        "model": {"type": "FakeModel", "dropout": 0.0, "norm": False},
        "evaluate": False,
        "mix_prob": 0,
        "optimizer": {"type": "SGD", "lr": 0.1},  # AdamW would not notice a gradient of the wrong size
        "epoch": 2,
        "eval_epoch": 2,
    }
    equal = {"type": "EqualScans", "scans": 8}
    data = {
        "num_classes": 3,
        "ignore_index": -1,
        "names": list(fakes.NAMES),
        "train": equal,
        "val": equal,
        "test": equal,
    }
    large, one = run(make_config(tmp_path / "a", batch_size=4, data=data, **common))
    small, two = run(make_config(tmp_path / "b", batch_size=1, gradient_accumulation_steps=4, data=data, **common))
    assert large.plan.total_steps == small.plan.total_steps == 4
    assert list(one.losses.values()) == pytest.approx(list(two.losses.values()), rel=1e-5)
    for a, b in zip(large.network.parameters(), small.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_last_partial_group_weighs_its_batches_fully(tmp_path: Path) -> None:
    equal = {"type": "EqualScans", "scans": 3}
    data = {
        "num_classes": 3,
        "ignore_index": -1,
        "names": list(fakes.NAMES),
        "train": equal,
        "val": equal,
        "test": equal,
    }
    cfg = make_config(
        tmp_path, data=data, batch_size=1, gradient_accumulation_steps=2, epoch=1, eval_epoch=1, evaluate=False,
        model={"type": "FakeModel", "dropout": 0.0, "norm": False}, optimizer={"type": "SGD", "lr": 0.0},
        scheduler={"type": "ConstantLR"}, mix_prob=0, hooks=[],
    )  # fmt: skip
    norms = []

    class Norm(Recorder):
        def after_step(self, result: StepResult) -> None:
            norms.append(float(result.grad_norm))  # type: ignore[arg-type]

    cfg.clip_grad = 1e9
    trainer, _ = run(cfg, Norm())
    trainer.network.zero_grad()
    trainer.sampler.set_range(2, 3)
    trainer.network(next(iter(train_loader(trainer.train_set, trainer.sampler, cfg))))["loss"].backward()
    alone = torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm()  # type: ignore[union-attr]
    assert trainer.plan.total_steps == 2
    assert norms[1] == pytest.approx(float(alone), rel=1e-5)


@fakes.DATASETS.register_module("EqualScans")
class EqualScans(fakes.FakeDataset):
    """Scans of one size with every point labelled."""

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        sample = super().__getitem__(draw)
        kept = {k: v[1:31] if isinstance(v, torch.Tensor) and k != "offset" else v for k, v in sample.items()}
        return {**kept, "offset": torch.tensor([30])}


@fakes.DATASETS.register_module("SeedingScans")
class SeedingScans(fakes.FakeDataset):
    """Seeds every generator for each sample, as the data sets of the package do."""

    def __getitem__(self, draw: Any) -> dict[str, Any]:
        seed_all(draw.seed)
        return super().__getitem__(draw)


def test_the_number_of_loading_processes_changes_nothing(tmp_path: Path) -> None:
    losses = []
    for workers in (0, 1):
        cfg = make_config(tmp_path / str(workers), num_worker=workers)
        for split in ("train", "val", "test"):
            cfg.data[split].type = "SeedingScans"
        losses.append(run(cfg)[1].losses)
    assert losses[0] == losses[1]


def test_one_scan_is_enough(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    for split in ("train", "val", "test"):
        cfg.data[split].scans = 1
    trainer, recorder = run(cfg)
    assert sorted(recorder.losses) == [1, 2, 3]
    assert trainer.best_metric > 0


def test_what_hooks_see_of_a_step_keeps_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results wait for the next log line: with their graphs they would fill the memory."""
    forward = fakes.FakeModel.forward

    def careless(self: fakes.FakeModel, batch: dict[str, Any]) -> dict[str, Any]:
        result = forward(self, batch)
        return {**result, "losses": {"ce": result["loss"] * 1.0}}

    monkeypatch.setattr(fakes.FakeModel, "forward", careless)
    seen = []

    class Probe(Recorder):
        def after_step(self, result: StepResult) -> None:
            seen.extend(result.read().values())

    run(make_config(tmp_path, clip_grad=1.0, gradient_accumulation_steps=2), Probe())
    assert len(seen) == 3 * 6
    assert not any(value.requires_grad for value in seen)


def test_nan_stops_the_run_and_nothing_is_saved(tmp_path: Path) -> None:
    model = {"type": "FakeModel", "bad_call": 7}
    recorder = Recorder()
    with pytest.raises(FloatingPointError, match=r"loss is nan at iteration 7 \(epoch 2, step 3\).*ce nan, size 0\.0"):
        run(make_config(tmp_path, model=model, log_freq=100), recorder)
    assert recorder.ended == 1  # hooks end in any case
    assert read_checkpoint(tmp_path / "model" / "model_last.pth")["iteration"] == 4
    # Also right before a checkpoint within the epoch, long before a log line is due.
    hooks = [{"type": "CheckpointSaver", "save_iter": 1}]
    with pytest.raises(FloatingPointError, match="iteration 7"):
        run(make_config(tmp_path / "b", model=model, log_freq=100, hooks=hooks))
    assert read_checkpoint(tmp_path / "b" / "model" / "model_last.pth")["iteration"] == 6


def test_a_term_that_hides_its_nan_from_the_loss_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = fakes.FakeModel.forward

    def hiding(self: fakes.FakeModel, batch: dict[str, Any]) -> dict[str, Any]:
        result = forward(self, batch)
        return {**result, "losses": {**result["losses"], "ce/fact": result["loss"].detach() * math.nan}}

    monkeypatch.setattr(fakes.FakeModel, "forward", hiding)
    run(make_config(tmp_path / "a", evaluate=False))  # what stands behind a slash is no part of the sum

    def masking(self: fakes.FakeModel, batch: dict[str, Any]) -> dict[str, Any]:
        result = forward(self, batch)
        return {**result, "loss": result["loss"].nan_to_num(0.0) if self.training else result["loss"]}

    monkeypatch.setattr(fakes.FakeModel, "forward", masking)
    with pytest.raises(FloatingPointError, match="the term 'ce' of the loss is nan at iteration 3"):
        run(make_config(tmp_path / "b", model={"type": "FakeModel", "bad_call": 3}))


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    def spoil() -> None:
        with torch.no_grad():
            trainer.network.seg_head.bias[0] = math.inf  # type: ignore[union-attr, operator, index]

    recorder = Recorder(12, spoil)
    trainer = make_trainer(make_config(tmp_path, evaluate=False), recorder)
    with pytest.raises(FloatingPointError, match=r"seg_head\.bias"):
        trainer.train()
    assert read_checkpoint(tmp_path / "model" / "model_last.pth")["iteration"] == 8


def test_sigint_within_a_step_ends_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = fakes.FakeModel.forward

    def interrupting(self: fakes.FakeModel, batch: dict[str, Any]) -> dict[str, Any]:
        result = forward(self, batch)
        if self.training and self.calls == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    monkeypatch.setattr(fakes.FakeModel, "forward", interrupting)
    before = signal.getsignal(signal.SIGINT)
    recorder = Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tmp_path), recorder)
    content = read_checkpoint(tmp_path / "model" / "model_last.pth")
    assert (content["iteration"], content["epoch"], content["sampler"]["position"]) == (6, 1, 12)
    assert sorted(recorder.losses) == [1, 2, 3, 4, 5, 6]  # hooks have seen the last step too
    assert recorder.ended == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_within_a_step_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: DefaultTrainer) -> None:
        raise KeyboardInterrupt  # as the second Ctrl-C does

    monkeypatch.setattr(DefaultTrainer, "_update", broken)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tmp_path))
    assert not (tmp_path / "model").exists()


def test_the_order_of_hooks_means_nothing(tmp_path: Path) -> None:
    cfg = make_config(tmp_path / "a")
    forwards, _ = run(cfg)
    backwards, _ = run(make_config(tmp_path / "b", hooks=list(reversed(cfg.hooks))))
    assert same_weights(forwards.network, backwards.network)
    assert forwards.best_metric == backwards.best_metric > 0
    a, b = (read_checkpoint(tmp_path / x / "model" / "model_best.pth") for x in "ab")
    assert a["iteration"] == b["iteration"]
    assert a["best_metric"] == b["best_metric"]


def test_best_is_written_only_when_the_metric_improves(tmp_path: Path) -> None:
    from pointcept.engines.evaluate import EvaluationResult

    class Scores(HookBase):
        phase = Phase.EVALUATE

        def after_epoch(self) -> None:
            score = [0.5, 0.4, math.nan][self.trainer.epoch]
            self.trainer.evaluation = EvaluationResult(self.trainer.epoch, "val_quick/x", score, None)  # type: ignore[arg-type]

    trainer = make_trainer(make_config(tmp_path, hooks=[{"type": "CheckpointSaver"}]))
    hook = Scores()
    hook.trainer = trainer
    trainer.hooks = [*trainer.hooks, hook]
    trainer.train()
    assert read_checkpoint(tmp_path / "model" / "model_best.pth")["epoch"] == 1
    assert read_checkpoint(tmp_path / "model" / "model_last.pth")["epoch"] == 3
    assert trainer.best_metric == 0.5


def test_max_iter_counts_optimizer_steps(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, train={"type": "DefaultTrainer", "max_iter": 11}, eval_epoch=2, epoch=5)
    trainer, recorder = run(cfg)
    assert sorted(recorder.losses) == list(range(1, 12))
    assert trainer.max_epoch == 2
    assert trainer.scheduler.last_epoch == 11
    assert recorder.lr[11] < recorder.lr[5]
    assert max(recorder.lr.values()) <= 0.01


def test_one_cycle_is_as_long_as_the_run(tmp_path: Path) -> None:
    trainer, recorder = run(make_config(tmp_path))
    assert trainer.scheduler.total_steps == 12  # type: ignore[attr-defined]
    assert recorder.lr[1] == pytest.approx(0.01 / 25)
    assert recorder.lr[12] == pytest.approx(0.01 / 25 / 1e4)
    assert 3 <= max(recorder.lr, key=recorder.lr.__getitem__) <= 5  # 30 % of 12


def test_batches_without_a_label_do_not_end_the_run(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    cfg.data.train.all_ignored = True
    _, recorder = run(cfg)
    assert len(recorder.losses) == 12
    assert all(math.isfinite(loss) for loss in recorder.losses.values())


def test_a_loss_without_gradient_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes.FakeModel, "forward", lambda self, batch: {"loss": torch.zeros(()), "losses": {}})
    cfg = make_config(tmp_path, hooks=[], optimizer={"type": "SGD", "lr": 0.1})
    start = {k: v.clone() for k, v in make_trainer(cfg).network.named_parameters()}
    trainer, _ = run(cfg)
    assert all(torch.equal(start[k], v) for k, v in trainer.network.named_parameters())


def test_amp_in_bfloat16_and_clipping(tmp_path: Path) -> None:
    trainer, recorder = run(make_config(tmp_path, enable_amp=True, amp_dtype="bfloat16", clip_grad=0.01))
    assert len(recorder.losses) == 12
    assert not trainer.scaler.is_enabled()


def test_param_dicts_reach_optimizer_and_schedule(tmp_path: Path) -> None:
    cfg = make_config(
        tmp_path,
        param_dicts=[{"keyword": "block", "lr": 0.001}],
        scheduler={"type": "OneCycleLR", "max_lr": [0.01, 0.001]},
    )
    trainer, _ = run(cfg)
    assert [group["name"] for group in trainer.optimizer.param_groups] == ["base", "block"]
    cfg.scheduler.max_lr = [0.01]
    with pytest.raises(ConfigError, match=r"scheduler\.max_lr: got 1 values, but the optimizer has 2"):
        make_trainer(cfg)


def test_the_log_names_every_term_and_tells_quick_from_precise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = make_config(tmp_path)
    cfg.hooks.append({"type": "PreciseEvaluator"})
    with caplog.at_level("INFO", logger="pointcept"):
        run(cfg)
    text = caplog.text
    assert "Train [2/3][4/4]" in text
    assert "(ce " in text
    assert "ETA 0:00:0" in text
    assert "lr " in text
    assert text.count("quick evaluation of 8 scans") == 3
    assert text.count("precise evaluation of 8 scans") == 1
    assert (tmp_path / "result" / "miou_precise.json").is_file()
    events = [p.read_bytes() for p in tmp_path.glob("events.*")]
    assert len(events) == 1
    for name in (b"train/ce", b"train/size", b"lr/base", b"val_quick/miou_present", b"test_precise/miou_present"):
        assert name in events[0]


def test_a_term_of_some_steps_has_the_mean_of_those(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is logged now and then does not count as 0 in between."""
    trainer = make_trainer(make_config(tmp_path, epoch=1, eval_epoch=1, log_freq=1))
    forward = trainer.model.forward

    def now_and_then(batch: dict[str, Any]) -> dict[str, Any]:
        result = forward(batch)
        if trainer.iteration % 2:
            result["losses"]["grad/ce"] = torch.tensor(8.0)
        return result

    trainer.model.forward = now_and_then  # type: ignore[method-assign]
    with caplog.at_level("INFO", logger="pointcept"):
        trainer.train()
    assert caplog.text.count("grad/ce 8.0000") == 3  # of two steps, and of the epoch


def test_optimizer_is_required_for_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'optimizer' and 'scheduler'"):
        make_trainer(make_config(tmp_path, optimizer=None))


def test_an_error_names_the_sample(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, num_worker=1)
    cfg.data.train.type = "BrokenDataset"
    with pytest.raises(RuntimeError, match=r"sample \d \(scan\d\), seed \d+: IndexError: index 3"):
        run(cfg)


def test_a_data_set_that_cannot_be_pickled_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fakes.FakeDataset.__init__

    def broken(self: fakes.FakeDataset, *args: Any, **kwargs: Any) -> None:
        whole(self, *args, **kwargs)
        self.note = lambda: None

    monkeypatch.setattr(fakes.FakeDataset, "__init__", broken)
    with pytest.raises(ConfigError, match=r"FakeDataset cannot be sent to loading processes .* or set num_worker=0"):
        run(make_config(tmp_path, num_worker=1))


# --- what is found before the run ---


def wrong_labels(cls: type) -> type:
    """The data set with one label that is no class."""

    class WrongLabels(cls):  # type: ignore[misc, valid-type]
        def __getitem__(self, draw: Any) -> dict[str, Any]:
            sample: dict[str, Any] = super().__getitem__(draw)
            sample["segment"][3] = 7
            return sample

    return WrongLabels


@pytest.mark.parametrize("job", ["train", "val", "test"])
def test_a_label_that_is_no_class_of_a_data_set_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    monkeypatch.setitem(DATASETS._entries, "WrongLabels", wrong_labels(DATASETS.get("FakeDataset")))  # type: ignore[arg-type]
    cfg = make_config(tmp_path)
    cfg.data[job].type = "WrongLabels"
    words = r"sample \d \(scan\d\), seed \d+: segment has the label 7 \(1 points\), expected classes 0 to 2 or -1"
    go = build_tester(cfg, model=MODELS.build(cfg.model)).test if job == "test" else make_trainer(cfg).train
    with pytest.raises(DataError, match=words):
        go()


def test_scans_of_the_last_test_are_looked_for_before_the_training(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    cfg.hooks = [*cfg.hooks, {"type": "PreciseEvaluator"}]
    cfg.data.test = {"type": "SemanticKITTIDataset", "data_root": str(tmp_path / "nowhere")}
    recorder = Recorder()
    with pytest.raises(DataError, match="no folder"):
        run(cfg, recorder)
    assert not recorder.losses


class Broken(HookBase):
    """A hook of a user that converts its argument."""

    def __init__(self, every: str = "often") -> None:
        self.every = int(every)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hooks": [{"type": "Broken"}]}, r"hooks\.0: Broken cannot be built: ValueError: invalid literal"),
        ({"hooks": [{"type": "PreciseEvaluator"}]}, r"hooks\.0: PreciseEvaluator needs a hook of the phase SAVE"),
        ({"hooks": [], "weight": "a.pth"}, "hooks: weight or resume is set"),
        ({"optimizer": None}, "training needs the config keys"),
        ({"train": {"type": "DefaultTrainer", "max_iter": 2}}, "max_iter=2 is less than eval_epoch=3"),
        ({"optimizer": {"type": "AdamW", "lr": -1}}, r"optimizer\.lr: got -1"),
    ],
)
def test_a_run_that_cannot_begin_leaves_its_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.setitem(HOOKS._entries, "Broken", Broken)
    with pytest.raises(ConfigError, match=words):
        train_main(make_config(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
