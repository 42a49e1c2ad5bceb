"""Resuming: a run that was cut gives the losses of the run that was not."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fakes import make_config
from runs import Recorder, interrupt, make_trainer, run, same_weights

from pointcept.engines.hooks import HOOKS
from pointcept.engines.structure import ENTRIES
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


def test_weights_of_losses_that_change_go_on_where_they_were(tmp_path: Path) -> None:
    network = {
        "type": "DefaultSegmentor",
        "criteria": [{"type": "CrossEntropyLoss"}],
        "backbone": {"type": "SpUNet-v1m1", "in_channels": 3, "num_classes": 3, "channels": (8, 8), "layers": (1, 1)},
    }
    growing = {"type": "KLDLoss", "loss_weight": {"start": 0.0, "end": 3.0}}
    model = {
        "type": "Distiller",
        "teacher": network,
        "student": network,
        "teacher_weight": "random",
        "losses": [growing],
    }
    settings = {"model": model, "evaluate": False, "hooks": [{"type": "CheckpointLoader"}, {"type": "CheckpointSaver"}]}
    whole, reference = run(make_config(tmp_path / "whole", **settings))
    cut, recorder = make_config(tmp_path / "cut", **settings), Recorder(5, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(cut, recorder)
    resumed, rest = run(make_config(tmp_path / "cut", resume=True, **settings))
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > 5}
    assert same_weights(whole.network, resumed.network)
    assert resumed.network.losses[0].weight(11 / 12) == pytest.approx(2.75)
    assert resumed.network._done == whole.network._done == 11


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


def test_a_checkpoint_holds_what_readers_of_the_format_expect(tmp_path: Path) -> None:
    trainer, _ = run(make_config(tmp_path, enable_amp=True, amp_dtype="bfloat16"))
    content = read_checkpoint(tmp_path / "model" / "model_last.pth")
    assert content.keys() >= {
        "format", "state_dict", "epoch", "iteration", "best_metric", "optimizer", "scheduler", "scaler", "random",
        "sampler", "plan", "config", "versions",
    }  # fmt: skip
    assert content["format"] == 1
    assert (content["epoch"], content["iteration"], content["best_metric"]) == (3, 12, trainer.best_metric)
    assert content["sampler"] == {"seed": 7, "position": 24}
    assert content["plan"] == {"samples": 8, "batch_size": 2, "accumulation": 1, "total_steps": 12, "eval_epoch": 3}
    assert len(content["random"]) == 1
    assert content["config"] == trainer.cfg.pretty_text()
    assert "torch" in content["versions"]


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


def test_resume_takes_no_objects_of_other_programs(tmp_path: Path) -> None:
    run(make_config(tmp_path))
    path = tmp_path / "model" / "model_last.pth"
    torch.save({**torch.load(path, weights_only=False), "note": Fraction(1, 2)}, path)
    with pytest.raises(CheckpointError, match=r"cannot resume: .*Python objects besides tensors .*fractions\.Fraction"):
        run(make_config(tmp_path, resume=True))
    _, recorder = run(make_config(tmp_path / "weights", weight=str(path)))
    assert len(recorder.losses) == 12  # the weights alone may come from anywhere


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
    with pytest.raises(CheckpointError, match=rf"model_last\.pth.*: .*{entry} values\)"):
        run(make_config(tmp_path, resume=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its checkpoints."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POINTCEPT_DEVICE", "cpu")
        run(make_config(folder, hooks=[{"type": "CheckpointLoader"}, {"type": "CheckpointSaver", "save_freq": 2}]))
    return folder


def resume(folder: Path, change: Callable[[dict[str, Any]], object], start: Path, **changes: Any) -> Recorder:
    """Go on from a copy of ``start`` with other contents."""
    content = torch.load(start, weights_only=False)
    change(content)
    torch.save(content, folder / "changed.pth")
    return run(make_config(folder, weight=str(folder / "changed.pth"), resume=True, **changes))[1]


def moment(content: dict[str, Any], **entries: Any) -> None:
    content["optimizer"]["state"][0].update(entries)


def weights(content: dict[str, Any]) -> Any:
    return content["state_dict"]


STRUCTURE: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    *((f"no '{key}'", lambda c, key=key: c.pop(key)) for key in ENTRIES if key != "format"),
    (r"has format 2 of checkpoints, this version of the package reads 1", lambda c: c.update(format=2)),
    (r"has format None", lambda c: c.pop("format")),
    ("'epoch' is str", lambda c: c.update(epoch="2")),
    ("'epoch' is bool", lambda c: c.update(epoch=True)),
    ("no 'scheduler', no 'random'", lambda c: (c.pop("scheduler"), c.pop("random"))),
    ("epoch 7 of 3", lambda c: c.update(epoch=7)),
    ("iteration 5, but epoch 2 has 8 to 12", lambda c: c.update(iteration=5)),
    ("sampler: seed is None, sampler: position is None", lambda c: c["sampler"].clear()),
    ("sampler: position 4, but after 8 steps it is 16", lambda c: c["sampler"].update(position=4)),
    ("best_metric is nan", lambda c: c.update(best_metric=float("nan"))),
    ("the run has changed: samples None -> 8", lambda c: c["plan"].clear()),
    ("'config' is no config", lambda c: c.update(config="import os")),
    ("'random' is empty", lambda c: c["random"].clear()),
    ("'random' is no state of the generators", lambda c: c["random"][0].pop("torch")),
    ("'random' is no state of the generators", lambda c: c["random"][0].update(python=[3, [1, 2], None])),
    (
        r"8 weights of another form: block.0.weight \(file float64 \(16, 3\), model float32 \(16, 3\)\)",
        lambda c: weights(c).update({k: v.double() for k, v in weights(c).items() if v.is_floating_point()}),
    ),
    (
        r"1 weights of another form: seg_head.bias \(file float32 \(4,\)",
        lambda c: weights(c).update({"seg_head.bias": torch.ones(4)}),
    ),
    ("1 weights are missing: seg_head.bias", lambda c: weights(c).pop("seg_head.bias")),
    ("1 weights are unknown: more", lambda c: weights(c).update(more=torch.ones(1))),
    ("'state_dict' is missing or empty", lambda c: weights(c).clear()),
    ("optimizer: no 'param_groups' or no 'state'", lambda c: c["optimizer"].clear()),
    ("optimizer: no moments after 8 steps", lambda c: c["optimizer"]["state"].clear()),
    (r"optimizer: groups of \[\] parameters, the run has \[6\]", lambda c: c["optimizer"]["param_groups"].clear()),
    ("optimizer: groups of", lambda c: c["optimizer"]["param_groups"][0]["params"].reverse()),
    ("optimizer: group base: lr is None", lambda c: c["optimizer"]["param_groups"][0].pop("lr")),
    ("optimizer: group base: betas is 0.9", lambda c: c["optimizer"]["param_groups"][0].update(betas=0.9)),
    ("optimizer: group base is called 'x'", lambda c: c["optimizer"]["param_groups"][0].update(name="x")),
    ("optimizer: state of unknown parameters 99", lambda c: c["optimizer"]["state"].update({99: {}})),
    (r"block.0.weight: exp_avg is float32 \(16,\), not float32 \(16, 3\)", lambda c: moment(c, exp_avg=torch.ones(16))),
    (
        r"block.0.weight: exp_avg is float64 \(16, 3\), not float32",
        lambda c: moment(c, exp_avg=torch.ones(16, 3).double()),
    ),
    ("block.0.weight: step is tensor", lambda c: moment(c, step=torch.ones(2))),
    (
        r"block.0.weight: got \['momentum_buffer'\], expected",
        lambda c: c["optimizer"]["state"].update({0: {"momentum_buffer": 1}}),
    ),
    ("scheduler: total_steps is missing", lambda c: c["scheduler"].pop("total_steps")),
    (r"scheduler: base_lrs is \[\]", lambda c: c["scheduler"].update(base_lrs=[])),
    ("scheduler: 3 steps, but 8 in the run", lambda c: c["scheduler"].update(last_epoch=3)),
    ("scaler: scale is nan", lambda c: c.update(scaler={"scale": float("nan")})),
]


@pytest.mark.parametrize(("words", "change"), STRUCTURE)
def test_a_checkpoint_of_another_form_is_refused_in_one_line(
    tmp_path: Path, finished: Path, words: str, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(CheckpointError, match=rf"^[^\n]*changed\.pth[^\n]*{words}[^\n]*$"):
        resume(tmp_path, change, finished / "model" / "epoch_2.pth")


def test_moments_that_are_missing_are_named(tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    resume(tmp_path, lambda c: c["optimizer"]["state"].pop(0), finished / "model" / "epoch_2.pth")
    assert "resume: 1 of 6 weights have no moments yet" in caplog.text


def test_a_checkpoint_of_an_earlier_version_goes_on(
    tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recorder = resume(tmp_path, lambda c: c.pop("origins"), finished / "model" / "epoch_2.pth")
    assert sorted(recorder.losses) == [9, 10, 11, 12]
    assert "changed.pth records no scans: whether they are still the same is not checked" in caplog.text


FAKE = {"type": "FakeDataset"}


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (r"optimizer\.lr 0\.01 -> 0\.02", {"optimizer": {"type": "AdamW", "lr": 0.02, "weight_decay": 0.005}}),
        (r"optimizer\.weight_decay 0\.005 -> nothing", {"optimizer": {"type": "AdamW", "lr": 0.01}}),
        (r"scheduler\.type 'OneCycleLR' -> 'ConstantLR'", {"scheduler": {"type": "ConstantLR"}}),
        (r"mix_prob 0\.5 -> 0", {"mix_prob": 0}),
        (r"clip_grad None -> 1", {"clip_grad": 1}),
        (r"model\.dropout nothing -> 0\.5", {"model": {"type": "FakeModel", "dropout": 0.5}}),
        (r"data\.train\.points nothing -> 41", {"data.train": {**FAKE, "points": 41}}),
        ("other training scans", {"data.train": {"type": "RenamedDataset"}}),
        ("other validation scans", {"data.val": {"type": "RenamedDataset", "full_resolution": True}}),
    ],
)
def test_a_change_of_what_is_computed_has_to_be_confirmed(
    tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture, words: str, changes: dict[str, Any]
) -> None:
    cfg = make_config(tmp_path, weight=str(finished / "model" / "epoch_2.pth"), resume=True)
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (cfg[section] if section else cfg)[name] = value
    with pytest.raises(
        CheckpointError, match=rf"epoch_2\.pth cannot be resumed, because the run has changed: .*{words}"
    ):
        run(cfg)
    cfg.resume_changes = True
    _, recorder = run(cfg)
    assert sorted(recorder.losses) == [9, 10, 11, 12]
    assert re.search(f"resume: the run goes on with {words}", caplog.text)
    again = make_config(tmp_path, resume=True, **{key: cfg[key] for key in ("model", "optimizer", "scheduler", "data")})
    again.update(mix_prob=cfg.mix_prob, clip_grad=cfg.clip_grad)
    run(again)  # what was confirmed belongs to the run


def test_a_new_schedule_takes_over_where_the_run_stands(tmp_path: Path, finished: Path) -> None:
    changes: dict[str, Any] = {
        "optimizer": {"type": "AdamW", "lr": 0.02, "weight_decay": 0.1},
        "scheduler": {"type": "OneCycleLR", "max_lr": 0.04, "pct_start": 0.5},
    }
    _, reference = run(make_config(tmp_path / "new", **changes))
    start = str(finished / "model" / "epoch_2.pth")
    trainer, recorder = run(make_config(tmp_path, weight=start, resume=True, resume_changes=True, **changes))
    assert recorder.lr == {i: lr for i, lr in reference.lr.items() if i > 8}
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert float(trainer.optimizer.state[next(trainer.network.parameters())]["step"]) == 12  # moments go on


def test_another_optimizer_cannot_take_over(tmp_path: Path, finished: Path) -> None:
    start = str(finished / "model" / "epoch_2.pth")
    cfg = make_config(
        tmp_path, weight=start, resume=True, resume_changes=True, optimizer={"type": "SGD", "lr": 0.01, "momentum": 0.9}
    )
    with pytest.raises(CheckpointError, match=r"optimizer: block\.0\.weight: got .*expected \['momentum_buffer'\]"):
        run(cfg)


def test_what_changes_nothing_is_told_only(tmp_path: Path, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    start = str(finished / "model" / "epoch_2.pth")
    hooks = [{"type": "CheckpointLoader"}, {"type": "InformationWriter"}]
    run(make_config(tmp_path, weight=start, resume=True, num_worker=1, log_freq=3, hooks=hooks))
    told = [message for message in caplog.messages if message.startswith("resume: changed")]
    for words in ("num_worker 0 -> 1", "log_freq 2 -> 3", "hooks.1.type 'CheckpointSaver' -> 'InformationWriter'"):
        assert f"resume: changed: {words}" in told
    assert f"resume: changed: save_path '{finished}' -> '{tmp_path}'" in told
    assert not any("resume " in message or "weight" in message for message in told)


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    model: dict[str, Any] = {"type": "FakeDistiller", "student": {"type": "FakeModel"}}
    run(make_config(tmp_path, model=model))
    path = tmp_path / "model" / "model_last.pth"
    content = torch.load(path, weights_only=False)
    assert content["origins"]["frozen weights"] == "of the teacher"
    content["origins"]["frozen weights"] = "of another"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="the run has changed: other frozen weights"):
        run(make_config(tmp_path, model=model, resume=True))


@pytest.mark.parametrize("how", ["flipped", "zeroed", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    hooks = [{"type": "CheckpointLoader"}, {"type": "CheckpointSaver", "save_freq": 1}]
    whole, reference = run(make_config(tmp_path, hooks=hooks))
    folder = tmp_path / "model"
    last, previous = folder / "model_last.pth", folder / "model_previous.pth"
    (folder / "epoch_1.pth").rename(previous)
    content = bytearray((folder / "epoch_2.pth").read_bytes())
    start = content.index(torch.load(previous, weights_only=False)["random"][0]["torch"].numpy().tobytes()[:8])
    content[start + 100] ^= how == "flipped"
    content[start : start + 4096] = bytes(4096) if how == "zeroed" else content[start : start + 4096]
    last.write_bytes({"cut": content[:-5000], "empty": b""}.get(how, bytes(content)))
    if how == "gone":
        last.unlink()
    resumed, rest = run(make_config(tmp_path, hooks=hooks, resume=True))
    assert rest.losses == {i: loss for i, loss in reference.losses.items() if i > 4}
    assert same_weights(whole.network, resumed.network)
    assert "going on from model_previous.pth instead; the steps after it are done again" in caplog.text
    if how != "gone":
        assert "model_last.pth" in caplog.text
        assert "it is kept as damaged_model_last.pth" in caplog.text
        assert (folder / "damaged_model_last.pth").exists()
    read_checkpoint(last)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
def test_a_checkpoint_that_cannot_be_read_now_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model_last.pth", "model_previous.pth"):
        torch.save({}, folder / name)
    monkeypatch.setattr("zipfile.ZipFile.open", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(CheckpointError, match=r"cannot resume: .*model_last\.pth cannot be read"):
        run(make_config(tmp_path, resume=True))
    assert len(list(folder.iterdir())) == 2
    assert (folder / "model_last.pth").exists()


def test_two_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model_last.pth", "model_previous.pth"):
        (folder / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"cannot resume: .*model_last\.pth.*; .*model_previous\.pth"):
        run(make_config(tmp_path, resume=True))
    assert len(list(folder.iterdir())) == 2


def test_a_loader_without_a_replacement_leaves_the_names() -> None:
    """As in Pointcept, whose configs may say ``replacement=None``."""
    for options in ({}, {"keywords": "module.seg_head"}, {"keywords": "module.seg_head", "replacement": None}):
        hook = HOOKS.build({"type": "CheckpointLoader", **options})
        assert hook.replacement == hook.keywords == options.get("keywords", "")
    assert HOOKS.build({"type": "CheckpointLoader", "keywords": "a", "replacement": ""}).replacement == ""
