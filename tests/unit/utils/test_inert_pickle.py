"""Checkpoints of other programs: their weights load, what else they hold is never executed, attacks are refused."""

from __future__ import annotations

import argparse
import enum
import functools
import importlib
import logging
import math
import operator
import os
import pathlib
import pickle
import runpy
import shutil
import subprocess
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from addict import Dict
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from pointcept.utils.checkpoint import export_weights, load_weights, read_checkpoint
from pointcept.utils.errors import CheckpointError
from pointcept.utils.inert_pickle import StandIn

FORMATS = {"zip": {}, "protocol 4": {"pickle_protocol": 4}, "older": {"_use_new_zipfile_serialization": False}}
CALLED: list[Any] = []


class Call:
    """Is pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def called(*arguments: Any) -> None:
    CALLED.append(arguments)


class Config(dict):
    """Of another program, with a state and with code of its own that a pickle would run."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(**entries)
        self.file = "config.py"

    def __setstate__(self, state: Any) -> None:
        called(state)

    def __setitem__(self, key: Any, value: Any) -> None:
        called(key)

    class Inner:
        def __init__(self) -> None:
            self.value = 1


class Colour(enum.Enum):
    RED = 1


Pair = namedtuple("Pair", "a b")


def scheduler() -> OneCycleLR:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return OneCycleLR(optimizer, 0.1, total_steps=10)


CONTENTS = {
    "function": OneCycleLR._annealing_cos,
    "bound method": Call(getattr, scheduler(), "_annealing_cos"),
    "scheduler": [({"deep": scheduler()},)],
    "scaler": torch.amp.GradScaler("cpu"),
    "module": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
    "config": Config(a=Config(b=2)),
    "nested class": Config.Inner(),
    "addict": Dict(a=Dict(b=1)),
    "namespace": argparse.Namespace(lr=0.1),
    "numpy": [np.float64(1), np.arange(3), np.array([1, "a"], object), np.dtype("f4"), np.random.default_rng(0)],
    "containers": [OrderedDict(a=1), defaultdict(list, a=[1]), Counter("aab"), {1, 2}, frozenset([1]), Pair(1, 2)],
    "values": [b"bytes", bytearray(b"b"), 1 + 2j, slice(1), range(3), 2**70, Colour.RED, ValueError("x"), type(None)],
    "of torch": [torch.device("cpu"), torch.float32, torch.Size([1]), torch.eye(2).to_sparse()],
    "others": [pathlib.Path("x"), functools.partial(called, 1), called, math.cos, logging.getLogger("x")],
    "a call": Call(called, "the file's code"),
}  # fmt: skip


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", CONTENTS)
def test_weights_load_whatever_lies_beside_them(
    tmp_path: Path, name: str, form: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source, model = make_model(1), make_model(2)
    state = OrderedDict((f"module.{key}", value) for key, value in source.state_dict().items())
    state["module.0.weight"] = nn.Parameter(source.state_dict()["0.weight"].t().contiguous().t())
    state._metadata = source.state_dict()._metadata  # type: ignore[attr-defined]
    content = {"epoch": 3, "scheduler": {"anneal_func": CONTENTS[name]}, "state_dict": state, "best": 0.5}
    torch.save(content, tmp_path / "a.pth", **FORMATS[form])
    recwarn.clear()
    CALLED.clear()
    load_weights(model, tmp_path / "a.pth")
    export_weights(tmp_path / "a.pth", tmp_path / "b.pth")
    assert not CALLED
    assert not recwarn.list
    assert equal(source, model)
    assert read_checkpoint(tmp_path / "b.pth", foreign=False).keys() == {"state_dict"}
    if name == "scheduler":
        assert "left out what is neither a tensor nor a plain value: " in caplog.text
        assert "torch.optim.lr_scheduler.OneCycleLR" in caplog.text


def test_plain_values_stay(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "config": Config(), "best": [0.5, "x", None]}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["epoch"] == 3
    assert content["best"] == [0.5, "x", None]
    assert isinstance(content["config"], StandIn)
    with pytest.raises(CheckpointError, match=r"not loaded for safety: .*test_inert_pickle\.Config"):
        read_checkpoint(tmp_path / "a.pth", foreign=False)


TOUCH = "touch pwned"
ATTACKS = {
    "os.system": Call(os.system, TOUCH),
    "a reference": os.system,
    "subprocess": Call(subprocess.Popen, TOUCH.split()),
    "eval": Call(eval, f"__import__('os').system({TOUCH!r})"),
    "exec": Call(exec, "open('pwned', 'w')"),
    "open": Call(open, "pwned", "w"),
    "print": Call(print, "EXECUTED"),
    "import": Call(getattr, Call(__import__, "os"), "system"),
    "import_module": Call(importlib.import_module, "this"),
    "setattr": Call(setattr, Config(), "x", 1),
    "globals of a method": Call(getattr, Call(getattr, OneCycleLR, "step"), "__globals__"),
    "subclasses": Call(getattr, Call(getattr, OneCycleLR, "__base__"), "__subclasses__"),
    "attribute of a value": Call(getattr, "x", "join"),
    "attrgetter": Call(operator.attrgetter, "system"),
    "partial": Call(functools.partial(os.system, TOUCH)),
    "map": Call(list, Call(map, os.system, [TOUCH])),
    "default factory": Call(defaultdict, os.system),
    "delete a file": Call(pathlib.Path.unlink, pathlib.Path("a.pth")),
    "delete a folder": Call(shutil.rmtree, "."),
    "another program": Call(runpy.run_path, "x.py"),
    "another pickle": Call(pickle.loads, pickle.dumps(Call(os.system, TOUCH))),
    "torch.load": Call(torch.load, "x.pth"),
    "torch.hub": Call(torch.hub.load, "a/b", "c"),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_and_not_executed(
    tmp_path: Path, name: str, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    state, attack = make_model(1).state_dict(), ATTACKS[name]
    for content in (
        {"state_dict": state, "scheduler": {"anneal_func": attack}},
        {"state_dict": {"a": [attack]}},
        attack,
    ):
        torch.save(content, "a.pth", **FORMATS[form])
        with pytest.raises(
            CheckpointError, match=r"a\.pth is refused: .* could run code, .* nothing has been executed"
        ):
            load_weights(make_model(2), "a.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    assert capsys.readouterr().out == ""


def by_names(*names: tuple[str, str], protocol: int) -> bytes:
    """A pickle of a list of names, as a file can spell them that Python itself would not write."""
    if protocol == 4:
        words = (b"".join(b"\x8c" + bytes([len(w)]) + w.encode() for w in pair) + b"\x93" for pair in names)
        return b"\x80\x04(" + b"".join(words) + b"l."
    return b"(" + b"".join(f"c{module}\n{name}\n".encode() for module, name in names) + b"l."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.serialization", "os.system"),
        ("torch", "serialization.os"),
        ("enum", "sys.modules"),
        ("__builtin__", "eval"),
        ("commands", "getoutput"),
        ("builtins", "object.__subclasses__"),
        ("mypackage", "Config.__init__"),
        ("pip._internal", "main"),
    ],
)
def test_detours_are_refused(tmp_path: Path, module: str, name: str) -> None:
    for protocol in (0, 4) if "." not in name else (4,):
        (tmp_path / "a.pth").write_bytes(by_names(("mypackage.config", "Config"), (module, name), protocol=protocol))
        with pytest.raises(CheckpointError, match=r"a\.pth is refused"):
            read_checkpoint(tmp_path / "a.pth")


def test_an_attack_cannot_change_what_it_is_given(tmp_path: Path) -> None:
    """BUILD sets attributes: of functions and classes it would change them for all files to come."""
    change = b"N}\x8c\x04path\x8c\x01xs\x86b"
    for module, name in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict"), ("a", "B")):
        (tmp_path / "a.pth").write_bytes(by_names((module, name), protocol=4)[:-2] + change + b"l.")
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(tmp_path / "a.pth")
    assert not hasattr(torch._utils._rebuild_tensor_v2, "path")
    assert StandIn.path == ""


def test_a_weight_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    state = dict(make_model(1).state_dict())
    state["0.bias"], state["1.bias"] = Config(), np.ones(3)  # type: ignore[assignment]
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"a\.pth: 2 of 7 entries .* are no tensors, .*: 0\.bias is an object of [\w.]*Config"
    ):
        load_weights(make_model(2), tmp_path / "a.pth")
    torch.save({"state_dict": Dict(state)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"its 'state_dict' is an object of addict\.addict\.Dict"):
        load_weights(make_model(2), tmp_path / "a.pth")
    torch.save(make_model(1), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"got an object of torch\.nn\.modules\.container\.Sequential"):
        load_weights(make_model(2), tmp_path / "a.pth")


def test_damaged_files_of_other_programs_are_named(tmp_path: Path) -> None:
    content = {"scheduler": OneCycleLR._annealing_cos, "state_dict": make_model(1).state_dict()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "a.pth").read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "b.pth").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=rf"b\.pth \({length} bytes\) is damaged or not a torch file"):
            read_checkpoint(tmp_path / "b.pth")
