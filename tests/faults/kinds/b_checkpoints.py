"""B: files of weights that are damaged, incomplete, foreign, or of another run."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults import records
from tests.faults.case import Step, fault
from tests.faults.promises import (
    equals_or_refused,
    equals_whole,
    equals_whole_numbers,
    refused,
    said,
    succeeded,
)
from tests.faults.stage import Stage, edit, flip, make_unreadable, overwrite


class Attack:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def resumed_with(damage: Callable[[Path], Any], *options: str, recipe: str = "student") -> Step:
    """Damage the newest checkpoint of a run that was killed in its third epoch, and go on with it."""

    def inject(stage: Stage) -> None:
        stage.use(recipe)
        stage.take(stage.world.half(recipe))
        before = records.checkpoint(stage.last)
        damage(stage.last)
        stage.notes["harmless"] = _same_content(stage.last, before)
        stage.resume(*options)

    return inject


def _same_content(path: Path, before: dict[str, Any]) -> bool:
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and not list(records.differences(records.checkpoint(path), before))
    except Exception:  # whatever a damaged file raises, it is damaged
        return False


def fell_back(stage: Stage) -> None:
    """The run went on from the checkpoint before, and said why, unless nothing of the content was hit."""
    equals_whole_numbers(stage)
    if not stage.notes["harmless"]:
        said("damaged|crc|not a torch file")(stage)


def _cut(length: int) -> Callable[[Path], Any]:
    return lambda path: os.truncate(path, length if length >= 0 else path.stat().st_size + length)


def _page(part: float) -> Callable[[Path], Any]:
    return lambda path: overwrite(path, int(part * path.stat().st_size) // 4096 * 4096, bytes(4096))


for _seed in range(20):
    _bit = random.Random(_seed).randrange(1 << 40)
    fault(
        "B",
        f"resume: one bit of model_last.pth turned, seed {_seed}",
        resumed_with(lambda path, bit=_bit: flip(path, bit)),
        fell_back,
        quick=_seed < 2,
    )
for _part in (0.0, 0.2, 0.4, 0.6, 0.8, 0.99):
    fault("B", f"resume: a page of model_last.pth zeroed at {_part:.0%}", resumed_with(_page(_part)), fell_back)
for _length in (0, 1, 100, 4096, 100_000, -4096, -22, -1):
    fault("B", f"resume: model_last.pth cut to {_length} bytes", resumed_with(_cut(_length)), fell_back)


# --- something else in its place ---


def _replace(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")


def _tested(damage: Callable[[Path], Any]) -> Step:
    return lambda stage: (damage(stage.weight()), stage.test())


STRANGERS: dict[str, Callable[[Path], Any]] = {
    "a text": lambda path: path.write_text("no weights"),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "a zip file of a text": _zip_of_text,
    "a folder": Path.mkdir,
    "a named pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nothing.pth"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "an empty dict": lambda path: torch.save({}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "None": lambda path: torch.save(None, path),
}
for _what, _make in STRANGERS.items():
    fault("B", f"resume: model_last.pth is {_what}", resumed_with(_replace(_make)), equals_or_refused("model_last.pth"))
    fault(
        "B",
        f"test: the weight file is {_what}",
        _tested(_replace(_make)),
        refused("student.pth"),
    )
fault(
    "B", "resume: model_last.pth must not be read", resumed_with(make_unreadable), equals_or_refused("model_last.pth")
)


def attacked(stage: Stage) -> None:
    torch.save({"state_dict": Attack(stage.folder / "executed")}, stage.weight())
    stage.test()


def attacked_by_pickle(stage: Stage) -> None:
    stage.weight().write_bytes(pickle.dumps({"state_dict": Attack(stage.folder / "executed")}))
    stage.test()


def not_executed(stage: Stage) -> None:
    assert not (stage.folder / "executed").exists(), "a weight file has run code"


fault("B", "test: the weight file would run code", attacked, refused("student.pth", "code"), not_executed, quick=True)
fault(
    "B",
    "test: the weight file is a pickle that would run code",
    attacked_by_pickle,
    refused("student.pth"),
    not_executed,
)


# --- a checkpoint in which something is wrong ---

REQUIRED = (
    "state_dict",
    "optimizer",
    "scheduler",
    "random",
    "sampler",
    "plan",
    "epoch",
    "iteration",
    "best_metric",
    "scaler",
    "format",
)
for _key in REQUIRED:
    fault(
        "B",
        f"resume: a checkpoint without {_key!r}",
        resumed_with(lambda path, key=_key: edit(path, lambda c: c.pop(key))),
        equals_or_refused(
            "model_last.pth", "state_dict|training state" if _key == "state_dict" else f"{_key}|training state"
        ),
    )
    for _value in (None, "x", {}):
        if _key != "scaler" or _value != {}:
            fault(
                "B",
                f"resume: a checkpoint whose {_key!r} is {_value!r}",
                resumed_with(lambda path, key=_key, value=_value: edit(path, lambda c: c.update({key: value}))),
                equals_or_refused("model_last.pth", f"{_key}|training state"),
            )


def _first(content: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    state = content["state_dict"]
    key = next(key for key, value in state.items() if value.is_floating_point())
    state[key] = change(state[key])


def _moments(content: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> None:
    change(content["optimizer"]["state"][0])


def _poison(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = float("nan")
    return tensor


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "format is 0": (lambda c: c.update(format=0), "format"),
    "format is 99": (lambda c: c.update(format=99), "format"),
    "a weight is NaN": (lambda c: _first(c, _poison), "nan"),
    "weights are float64": (lambda c: _first(c, torch.Tensor.double), "float64|dtype|type"),
    "weights are integers": (lambda c: _first(c, torch.Tensor.long), "int64|dtype|type"),
    "a weight has another shape": (lambda c: _first(c, lambda t: t[..., :1].clone()), "shape"),
    "a moment is NaN": (lambda c: _moments(c, lambda m: m.update(exp_avg=_poison(m["exp_avg"]))), "nan"),
    "a moment has another shape": (lambda c: _moments(c, lambda m: m.update(exp_avg=torch.zeros(2))), "optimizer"),
    "a moment is missing": (lambda c: _moments(c, lambda m: m.pop("exp_avg_sq")), "optimizer"),
    "moments of a parameter are missing": (lambda c: c["optimizer"]["state"].pop(0), "optimizer"),
    "moments are a list": (lambda c: c["optimizer"].update(state=[]), "optimizer"),
    "parameter groups are missing": (lambda c: c["optimizer"].pop("param_groups"), "optimizer"),
    "iteration is -1": (lambda c: c.update(iteration=-1), "iteration"),
    "iteration is a million": (lambda c: c.update(iteration=10**6), "iteration"),
    "iteration is 2.5": (lambda c: c.update(iteration=2.5), "iteration"),
    "epoch is 99": (lambda c: c.update(epoch=99), "epoch"),
    "epoch is -1": (lambda c: c.update(epoch=-1), "epoch"),
    "the sampler's position is a million": (lambda c: c["sampler"].update(position=10**6), "position|sampler"),
    "the sampler's position is -1": (lambda c: c["sampler"].update(position=-1), "position|sampler"),
    "the sampler has no position": (lambda c: c["sampler"].pop("position"), "position|sampler"),
    "the sampler is empty": (lambda c: c["sampler"].clear(), "sampler"),
    "random states are an empty list": (lambda c: c.update(random=[]), "random"),
    "a random state is a text": (lambda c: c.update(random=["x"]), "random"),
    "a random state is cut": (lambda c: c["random"][0].update(torch=torch.zeros(3, dtype=torch.uint8)), "random"),
    "best_metric is NaN": (lambda c: c.update(best_metric=float("nan")), "best_metric"),
    "the plan is empty": (lambda c: c["plan"].clear(), "plan|samples"),
}
for _what, (_change, _word) in WRONG.items():
    fault(
        "B",
        f"resume: a checkpoint in which {_what}",
        resumed_with(lambda path, change=_change: edit(path, change)),
        equals_or_refused("model_last.pth", _word),
    )


# --- a run that has changed ---

CHANGED: dict[str, tuple[str, str]] = {
    "the learning rate": ("optimizer.lr=0.01", "optimizer.lr"),
    "the highest rate of the schedule": ("scheduler.max_lr=[0.01,0.01]", "max_lr"),
    "the schedule": ("scheduler={'type':'PolyLR'}", "scheduler"),
    "the optimizer": ("optimizer={'type':'SGD','lr':0.01}", "optimizer"),
    "weight decay": ("optimizer.weight_decay=0.3", "weight_decay"),
    "mix_prob": ("mix_prob=0.5", "mix_prob"),
    "clip_grad": ("clip_grad=1.0", "clip_grad"),
    "half precision": ("enable_amp=True amp_dtype=bfloat16", "enable_amp"),
    "accumulation": ("gradient_accumulation_steps=3", "accumulation"),
    "the batch size": ("batch_size=3", "batch_size"),
    "the number of epochs": ("epoch=6", "epoch|total_steps"),
    "the drop path": ("model.backbone.drop_path=0.5", "drop_path"),
    "the weight of a loss": ("model.criteria.0.loss_weight=3.0", "loss_weight"),
    "the augmentation": ("data.train.transform.0.p=1.0", "transform"),
    "the seed": ("seed=4", "seed"),
    "the size of the network": ("model.backbone.enc_channels=(8,16)", "model.backbone|enc_channels|shape"),
}
for _what, (_options, _word) in CHANGED.items():
    fault(
        "B",
        f"resume: with another setting of {_what}",
        resumed_with(lambda path: None, *_options.split()),
        refused(_word),
    )


def resumed_with_other_scans(change: Callable[[Stage], Any]) -> Step:
    def inject(stage: Stage) -> None:
        stage.take(stage.world.half("student"))
        change(stage)
        stage.resume()

    return inject


def _one_scan_more(stage: Stage) -> None:
    for labels in (False, True):
        path = stage.scan(5, labels=labels)
        shutil.copy(path, path.with_name(path.name.replace("5", "6")))


def _renamed(stage: Stage) -> None:
    for labels in (False, True):
        path = stage.scan(5, labels=labels)
        path.rename(path.with_name(path.name.replace("5", "6")))


fault("B", "resume: with a scan more", resumed_with_other_scans(_one_scan_more), refused("scan|samples"))
fault("B", "resume: with another scan in the place of one", resumed_with_other_scans(_renamed), refused("scan|samples"))
for _what, _option in {"log_freq": "log_freq=2", "verbose": "test.verbose=False", "workers": "num_worker=1"}.items():
    fault(
        "B",
        f"resume: with another {_what}, which changes no number",
        resumed_with(lambda path: None, _option),
        equals_whole,
    )


def moved(stage: Stage) -> None:
    """Run folder and data at other places: the same run."""
    stage.take(stage.world.half("student"))
    assert stage.data.exists()
    stage.run = stage.run.rename(stage.folder / "elsewhere")
    stage.resume()


fault("B", "resume: run folder and data at other places", moved, equals_whole)


# --- weights to start from, to test, and of a teacher ---


def _started(damage: Callable[[Path], Any]) -> Step:
    return lambda stage: (damage(stage.weight()), stage.train(f"weight={stage.weight()}"))


def _distilled(damage: Callable[[Path], Any]) -> Step:
    def inject(stage: Stage) -> None:
        stage.use("distill")
        damage(stage.weight("teacher"))
        stage.train(f"model.teacher_weight={stage.weight('teacher')}")

    return inject


def _predicted_with_engine(damage: Callable[[Path], Any]) -> Step:
    def inject(stage: Stage) -> None:
        damage(stage.weight())
        stage.predict(stage.scan(), stage.folder / "out.npy", flags=("--engine",))

    return inject


def _in_the_weights(path: Path, seed: int) -> None:
    """Turn a bit of the tensors."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    flip(path, 8 * (entry.header_offset + entry.file_size // 2 + 200) + seed)


def _exported(path: Path) -> None:
    content = torch.load(path, weights_only=False)
    stream = io.BytesIO()
    torch.save({"state_dict": content["state_dict"]}, stream)
    path.write_bytes(stream.getvalue())


for _use, _how in {"test": _tested, "train": _started, "teacher": _distilled, "engine": _predicted_with_engine}.items():
    _file = "teacher.pth" if _use == "teacher" else "student.pth"
    for _seed in range(2):
        fault(
            "B",
            f"{_use}: a bit of the weights turned, {_seed}",
            _how(lambda path, s=_seed: _in_the_weights(path, s)),
            refused(_file, "damaged|crc"),
            quick=_use == "test",
        )
    fault("B", f"{_use}: the weights are cut", _how(_cut(-3000)), refused(_file, "damaged|not a torch file|crc"))
    fault(
        "B",
        f"{_use}: a weight is NaN",
        _how(lambda path: edit(path, lambda c: _first(c, _poison))),
        refused(_file, "nan"),
    )
    fault("B", f"{_use}: the weight file is not there", _how(Path.unlink), refused(_file, "does not exist"))
    fault(
        "B",
        f"{_use}: the weights are of another network",
        _how(lambda path: edit(path, lambda c: c.update(state_dict={"a.weight": torch.zeros(2)}))),
        refused(_file, "fit"),
    )
fault(
    "B",
    "test: exported weights with a bit turned",
    _tested(lambda path: (_exported(path), _in_the_weights(path, 1))),
    refused("student.pth", "damaged|crc"),
)
fault("B", "test: exported weights", _tested(_exported), succeeded)


# --- the outputs of a teacher on disk ---


def cached_with(damage: Callable[[Path], Any]) -> Step:
    """Train with a teacher's cache of an earlier run in which a file is damaged."""

    def inject(stage: Stage) -> None:
        stage.use("cached")
        stage.take(stage.world.whole("cached"))
        shutil.rmtree(stage.run)
        damage(sorted((stage.folder / "cache").rglob("*.pth"))[0])
        stage.train()

    return inject


CACHE: dict[str, Callable[[Path], Any]] = {
    "a file cut": _cut(-300),
    "an empty file": _cut(0),
    "a text": lambda path: path.write_text("x"),
    "a folder in the place of a file": _replace(Path.mkdir),
    "a file that must not be read": make_unreadable,
    "logits of another shape": lambda path: edit(path, lambda c: c.update(logits=c["logits"][:, :3].clone())),
    "logits of fewer points": lambda path: edit(path, lambda c: c.update(logits=c["logits"][:5].clone())),
    "logits of another type": lambda path: edit(path, lambda c: c.update(logits=c["logits"].long())),
    "NaN": lambda path: edit(path, lambda c: c.update(logits=_poison(c["logits"]))),
    "no logits": lambda path: edit(path, lambda c: c.pop("logits")),
    "no fingerprint": lambda path: edit(path, lambda c: c.pop("fingerprint")),
    "no stages": lambda path: edit(path, lambda c: c.pop("stages")),
    "a list": lambda path: torch.save([1], path),
}
for _seed in range(6):
    _bit = random.Random(100 + _seed).randrange(1 << 40)
    CACHE[f"a bit turned, seed {_seed}"] = lambda path, bit=_bit: flip(path, bit)
for _what, _damage in CACHE.items():
    fault("B", f"teacher's cache: {_what}", cached_with(_damage), equals_whole_numbers)
fault("B", "teacher's cache: nothing damaged", cached_with(lambda path: None), equals_whole)
