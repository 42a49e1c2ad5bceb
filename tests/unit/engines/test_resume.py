"""Resuming: a run that was cut gives the losses of the run that was not."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
import torch
from fakes import make_config
from runs import Recorder, interrupt, make_trainer, run, same_weights

from pointcept.engines.hooks import HOOKS
from pointcept.utils.checkpoint import read_checkpoint
from pointcept.utils.device import seed_everything
from pointcept.utils.errors import CheckpointError, ConfigError


# Within an epoch, at the ends of two of the three, and once with a loading process.
@pytest.mark.parametrize(("at", "workers"), [(3, 0), (4, 0), (6, 0), (8, 0), (6, 1)])
def test_resume_goes_on_exactly(tmp_path: Path, at: int, workers: int) -> None:
    whole, reference = run(make_config(tmp_path / "whole", num_worker=workers))
    cut = make_config(tmp_path / "cut", num_worker=workers)
    with pytest.raises(KeyboardInterrupt):
        run(cut, Recorder(at, interrupt))
    seed_everything(999)
    resumed, rest = run(make_config(tmp_path / "cut", num_worker=workers, resume=True))
    assert sorted(rest.losses) == list(range(at + 1, 13))
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > at}
    assert rest.lr == {i: lr for i, lr in reference.lr.items() if i > at}
    assert same_weights(whole.network, resumed.network)
    assert resumed.best_metric == whole.best_metric
    assert resumed.evaluation is not None
    assert whole.evaluation is not None
    assert resumed.evaluation.metrics.iou == whole.evaluation.metrics.iou


def test_resume_after_a_saved_epoch_and_from_an_iteration_checkpoint(tmp_path: Path) -> None:
    hooks = [{"type": "CheckpointLoader"}, {"type": "CheckpointSaver", "save_iter": 3, "save_freq": 2}]
    whole, reference = run(make_config(tmp_path / "a", hooks=hooks))
    assert {p.name for p in (tmp_path / "a" / "model").iterdir()} == {
        "model_last.pth",
        "model_previous.pth",
        "epoch_2.pth",
    }
    # An epoch's checkpoint goes on with the next epoch, without evaluating again.
    cfg = make_config(tmp_path / "b", hooks=hooks, resume=True, weight=str(tmp_path / "a" / "model" / "epoch_2.pth"))
    resumed, rest = run(cfg)
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > 8}
    assert same_weights(whole.network, resumed.network)

    def crash() -> None:
        raise OSError("the machine is gone")

    # A crash writes nothing: the last iteration checkpoint (6) is where it goes on.
    with pytest.raises(OSError, match="machine is gone"):
        run(make_config(tmp_path / "c", hooks=hooks), Recorder(7, crash))
    _, rest = run(make_config(tmp_path / "c", hooks=hooks, resume=True))
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > 6}


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    run(make_config(tmp_path))
    with pytest.raises(CheckpointError, match=r"batch_size 2 -> 4.*total_steps 12 -> 6"):
        run(make_config(tmp_path, batch_size=4, resume=True))
    weights = tmp_path / "model" / "weights.pth"  # in the run's own folder: it is meant to be gone on from
    torch.save({"state_dict": fakes.FakeModel().state_dict()}, weights)
    with pytest.raises(CheckpointError, match="no training state"):
        run(make_config(tmp_path, weight=str(weights), resume=True))


def test_the_first_start_of_a_run_that_is_to_be_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The queue starts the same command every time: a missing state begins the run, missing weights do not."""
    caplog.set_level("INFO")
    whole, _ = run(make_config(tmp_path / "a"))
    first, recorder = run(make_config(tmp_path / "b", resume=True))
    assert len(recorder.losses) == 12
    assert same_weights(whole.network, first.network)
    assert f"resume: {tmp_path / 'b'} has no checkpoint yet, so the run starts from the beginning" in caplog.text

    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": whole.network.state_dict()}, weights)
    fine = {"weight": str(weights), "resume": True}
    whole, reference = run(make_config(tmp_path / "c", **fine))
    assert f"so the run starts from the weights of {weights}" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tmp_path / "d", **fine), Recorder(6, interrupt))
    weights.unlink()
    resumed, rest = run(make_config(tmp_path / "d", **fine))  # the weights were for its first start
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > 6}
    assert same_weights(whole.network, resumed.network)
    with pytest.raises(CheckpointError, match=r"weights\.pth does not exist"):
        run(make_config(tmp_path / "e", **fine))


def test_the_best_weights_come_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that goes on elsewhere, or from an earlier state, has the best weights of that state, or says so."""
    hooks = [*make_config(tmp_path).hooks[:4], {"type": "CheckpointSaver", "save_freq": 1}]
    whole, _ = run(make_config(tmp_path / "a", hooks=hooks))
    model = tmp_path / "a" / "model"
    best = read_checkpoint(model / "model_best.pth")
    assert best["iteration"] == whole.best_iteration > 4
    later = f"epoch_{best['epoch']}.pth"
    run(make_config(tmp_path / "b", hooks=hooks[:1], resume=True, weight=str(model / later)))
    assert read_checkpoint(tmp_path / "b" / "model" / "model_best.pth")["iteration"] == best["iteration"]
    # the best of the first epoch has been replaced since
    assert "the best is looked for" not in caplog.text
    once, _ = run(make_config(tmp_path / "c", hooks=hooks, resume=True, weight=str(model / "epoch_1.pth")))
    assert read_checkpoint(tmp_path / "c" / "model" / "model_best.pth")["iteration"] == best["iteration"]
    assert once.best_metric == whole.best_metric
    (model / "model_best.pth").unlink()
    run(make_config(tmp_path / "d", hooks=hooks[:1], resume=True, weight=str(model / "epoch_3.pth")))
    assert f"(iteration {best['iteration']}) are in no file" in caplog.text or best["iteration"] == 12


def test_resume_of_a_finished_run_does_no_step(tmp_path: Path) -> None:
    first, _ = run(make_config(tmp_path))
    again, recorder = run(make_config(tmp_path, resume=True))
    assert not recorder.losses
    assert again.completed
    assert same_weights(first.network, again.network)


def test_weight_starts_from_weights_alone(tmp_path: Path) -> None:
    first, _ = run(make_config(tmp_path / "a"))
    path = str(tmp_path / "a" / "model" / "model_last.pth")
    started = []

    class Probe(Recorder):
        def before_train(self) -> None:
            started.append(same_weights(self.trainer.network, first.network))

    _, recorder = run(make_config(tmp_path / "b", weight=path), Probe())
    assert started == [True]
    assert len(recorder.losses) == 12
    with pytest.raises(ConfigError, match="no CheckpointLoader"):
        make_trainer(make_config(tmp_path / "c", weight=path, hooks=[]))


def test_a_distiller_saves_the_student_and_resumes_with_everything(tmp_path: Path) -> None:
    model = {"type": "FakeDistiller", "student": {"type": "FakeModel"}}
    whole, reference = run(make_config(tmp_path / "a", model=model))
    content = read_checkpoint(tmp_path / "a" / "model" / "model_last.pth")
    assert content["state_dict"].keys() == fakes.FakeModel().state_dict().keys()
    assert "projection.weight" in content["model_state"]
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tmp_path / "b", model=model), Recorder(5, interrupt))
    resumed, rest = run(make_config(tmp_path / "b", model=model, resume=True))
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > 5}
    assert same_weights(whole.network, resumed.network)


@pytest.mark.parametrize("where", ["state_dict", "optimizer"])
def test_resume_refuses_values_that_are_not_finite(tmp_path: Path, where: str) -> None:
    run(make_config(tmp_path))
    path = tmp_path / "model" / "model_last.pth"
    content = torch.load(path, weights_only=False)
    tensor = (
        content["state_dict"]["seg_head.bias"] if where == "state_dict" else content["optimizer"]["state"][0]["exp_avg"]
    )
    tensor.view(-1)[0] = float("nan")
    torch.save(content, path)
    entry = r"seg_head\.bias \(1 of 3" if where == "state_dict" else r"0\.exp_avg \(1 of 48"
    with pytest.raises(CheckpointError, match=rf"model_last\.pth: .*{entry} values\)"):
        run(make_config(tmp_path, resume=True))


def test_a_loader_without_a_replacement_leaves_the_names() -> None:
    """As in Pointcept, whose configs may say ``replacement=None``."""
    for options in ({}, {"keywords": "module.seg_head"}, {"keywords": "module.seg_head", "replacement": None}):
        hook = HOOKS.build({"type": "CheckpointLoader", **options})
        assert hook.replacement == hook.keywords == options.get("keywords", "")
    assert HOOKS.build({"type": "CheckpointLoader", "keywords": "a", "replacement": ""}).replacement == ""
