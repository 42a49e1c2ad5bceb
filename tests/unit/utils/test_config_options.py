"""Overrides on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointcept.utils.config import Config, parse_options
from pointcept.utils.errors import ConfigError

MINIMAL = "model = dict(type='M', backbone=dict(type='B', depths=(1, 2)))\ndata = dict(num_classes=3)\n"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    """A small config file."""
    path = tmp_path / "a.py"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("1e-3", 1e-3),
        ("0.5", 0.5),
        ("True", True),
        ("false", False),
        ("none", None),
        ("None", None),
        ("(1, 2)", (1, 2)),
        ("(1,)", (1,)),
        ("[1,2]", [1, 2]),
        ("a,b", ["a", "b"]),
        ("1,2.5", [1, 2.5]),
        ("[a,b]", ["a", "b"]),
        ("(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("[[a],[true,1]]", [["a"], [True, 1]]),
        ("'a,b'", "a,b"),
        ("'3'", "3"),
        ("{'a': 1}", {"a": 1}),
        ("hilbert-trans", "hilbert-trans"),
        ("exp/run=1", "exp/run=1"),
        ("", ""),
    ],
)
def test_option_values(text: str, value: object) -> None:
    got = parse_options([f"model.x={text}"])["model.x"]
    assert got == value
    assert type(got) is type(value)


def test_option_values_of_text_keys_stay_text() -> None:
    got = parse_options(["save_path=2024_01", "weight=a,b.pth", "miou_result_path=none", "data_root='x y'"])
    assert got == {"save_path": "2024_01", "weight": "a,b.pth", "miou_result_path": None, "data_root": "x y"}


def test_later_option_wins() -> None:
    assert parse_options(["epoch=1", "seed=2", "epoch=3"]) == {"seed": 2, "epoch": 3}


@pytest.mark.parametrize("option", ["epoch", "=3", "a..b=3", "model.x=[1,2", "model.x={a}", "model.x=[1}]"])
def test_malformed_options(option: str) -> None:
    with pytest.raises(ConfigError, match="--options"):
        parse_options([option])


def test_options_reach_dicts_lists_and_tuples(minimal: Path) -> None:
    options = [
        "model.backbone.depths.1=9",
        "hooks.4.save_freq=1",
        "model.backbone.new=2",
        "seed=4",
        "data.num_classes=5",
    ]
    cfg = Config.fromfile(minimal, parse_options(options))
    assert cfg.model.backbone == {"type": "B", "depths": (1, 9), "new": 2}
    assert cfg.hooks[4] == {"type": "CheckpointSaver", "save_freq": 1}
    assert cfg.seed == 4
    assert cfg.data.num_classes == 5


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("epochs=3", ["'epochs'", "'epoch'"]),
        ("data.num_clases=3", ["'num_clases'", "'num_classes'"]),
        ("model.bakbone.x=3", ["'bakbone'", "'backbone'"]),
        ("hooks.9.x=3", ["'9'", "0 to 5"]),
        ("hooks.last.x=3", ["'last'", "0 to 5"]),
        ("epoch.x=3", ["epoch", "not a dict"]),
        ("epoch=abc", ["--options: epoch: got 'abc'", "an int", "at least 1"]),
        ("optimizer.lr=1", ["optimizer is None"]),
    ],
)
def test_wrong_options(minimal: Path, option: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.fromfile(minimal, parse_options([option]))
    text = str(caught.value)
    assert all(word in text for word in words), text


def test_data_root_moves_the_data_sets_that_used_it(tmp_path: Path) -> None:
    base = "data_root = '/old'\ndata = dict(train=dict(data_root=data_root), val=dict(data_root='/mine'), names=[])"
    (tmp_path / "base.py").write_text(base)
    path = tmp_path / "child.py"
    path.write_text("_base_ = 'base.py'\ndata_root = '/new'")
    assert Config.fromfile(path).data == {"train": {"data_root": "/new"}, "val": {"data_root": "/mine"}, "names": []}
    cfg = Config.fromfile(path, parse_options(["data_root=/cli", "data.val.data_root=/val"]))
    assert (cfg.data_root, cfg.data.train.data_root, cfg.data.val.data_root) == ("/cli", "/cli", "/val")


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    with pytest.raises(ConfigError, match="nested too deep"):
        parse_options(["model=" + "[" * 1100 + "x" + "]" * 1100])
