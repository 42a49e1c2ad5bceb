"""Registries, and the check of a config against what they hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from pointcept.utils import registry as registry_module
from pointcept.utils.checks import check_number
from pointcept.utils.config import Config, parse_options, validate_config
from pointcept.utils.config_validation import fits
from pointcept.utils.errors import CheckpointError, ConfigError, DataError
from pointcept.utils.registry import Registry, registries


@pytest.fixture(autouse=True)
def only_my_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_ALL", {})


@pytest.fixture
def things() -> Registry:
    registry = Registry("things")

    @registry.register_module("T-v1")
    class Thing:
        supplied_by_engine = ("size",)

        def __init__(self, size: int, depth: int, drop: float = 0.0, order: Sequence[str] = ("z",)) -> None:
            self.size, self.depth, self.drop, self.order = size, depth, drop, order

    @registry.register_module()
    def anything(**arguments: Any) -> dict[str, Any]:
        return arguments

    return registry


def test_register_and_build(things: Registry) -> None:
    assert things.names() == ["T-v1", "anything"]
    assert "T-v1" in things
    assert "thing" not in things
    cfg = {"type": "T-v1", "depth": 2}
    built = things.build(cfg, size=3)
    assert (built.size, built.depth) == (3, 2)
    assert cfg == {"type": "T-v1", "depth": 2}
    assert things.build({"type": "T-v1", "depth": 2, "size": 5}, size=3).size == 5
    assert things.build({"type": "anything", "a": 1}, b=2, cfg=3) == {"a": 1, "b": 2, "cfg": 3}
    assert registries() == {"things": things}
    assert "T-v1" in repr(things)


def test_a_name_belongs_to_one_entry(things: Registry) -> None:
    entry = things.get("T-v1")
    assert things.register_module("T-v1")(entry) is entry
    with pytest.raises(ValueError, match="registered twice"):
        things.register_module("T-v1")(dict)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"type": "T-v2"}, ["'T-v2'", "things", "'T-v1'"]),
        ({"type": "T-v1", "depth": 1, "dept": 2}, ["'dept'", "'depth'"]),
        ({"type": "T-v1"}, ["depth"]),
        ({"depth": 1}, ["'type'"]),
        ("T-v1", ["'type'"]),
    ],
)
def test_wrong_entries(things: Registry, cfg: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        things.build(cfg, size=1)
    assert all(word in str(caught.value) for word in words), caught.value


# --- validate_config -----------------------------------------------------------------------------


@pytest.fixture
def config(things: Registry, tmp_path: Path) -> Any:
    engine = Registry("engine parts")
    for name in ("DefaultTrainer", "SemSegTester", "AdamW"):
        engine.register_module(name)(lambda cfg=None, params=None, lr=0.1: None)
    path = tmp_path / "a.py"
    path.write_text(
        "hooks = []\noptimizer = dict(type='AdamW')\ndata = dict(train=dict(transform=[[dict(type='anything')]]))\n"
        "model = dict(type='anything', backbone=dict(type='T-v1', depth=2), criteria=[dict(type='T-v1', depth=3)])\n"
    )
    return lambda *options: Config.fromfile(path, parse_options(options))


def test_valid_config_passes(config: Any) -> None:
    validate_config(config())
    validate_config(config("model.backbone.drop=1", "model.backbone.order=[z,hilbert]", "model.backbone.size=3"))
    validate_config(config().to_dict())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("model.backbone.type=T-v2", ["a.py: model.backbone:", "'T-v2'", "'T-v1'"]),
        ("model.backbone.dpth=2", ["a.py: model.backbone:", "'dpth'", "'depth'"]),
        ("model.criteria.0.dpth=2", ["model.criteria.0:", "'depth'"]),
        ("data.train.transform.0.0.type=anythin", ["data.train.transform.0.0:", "'anything'"]),
        ("model.backbone.drop=abc", ["a.py: model.backbone.drop: got 'abc' (str), allowed: float"]),
        ("model.backbone.depth=2.0", ["model.backbone.depth", "allowed: int"]),
        ("model.backbone.order=z", ["model.backbone.order", "Sequence[str]"]),
        ("optimizer.momentum=1", ["optimizer:", "'momentum'"]),
        ("model.backbone={'type': 'T-v1'}", ["model.backbone:", "needs depth"]),
    ],
)
def test_invalid_configs(config: Any, option: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(config(option))
    assert all(word in str(caught.value) for word in words), caught.value


def test_required_keys(config: Any) -> None:
    cfg = config()
    del cfg["model"]
    with pytest.raises(ConfigError, match="no 'model'"):
        validate_config(cfg)


def test_a_name_in_two_registries_may_fit_either(config: Any) -> None:
    @Registry("others").register_module("T-v1")
    def other(other_depth: int) -> int:
        return other_depth

    cfg = config()
    validate_config(cfg)
    cfg.model.backbone = {"type": "T-v1", "other_depth": 1}
    validate_config(cfg)
    cfg.model.backbone = {"type": "T-v1", "nothing": 1}
    with pytest.raises(ConfigError, match="'nothing'"):
        validate_config(cfg)


def test_a_class_says_what_its_arguments_are_built_from(config: Any) -> None:
    parts = Registry("parts")

    @parts.register_module("Wheel")
    class Wheel:
        built_from = {"tyre": "parts"}

        def __init__(self, tyre: Any = None, other: Any = None) -> None: ...

    cfg = config()
    cfg.model = {"type": "Wheel", "tyre": [{"deep": {"type": "Wheel"}}], "other": {"type": "anything"}}
    validate_config(cfg)
    cfg.model = {"type": "Wheel", "tyre": [{"deep": {"type": "anything"}}]}
    with pytest.raises(ConfigError, match=r"model\.tyre\.0\.deep: unknown type 'anything' in the registry of parts"):
        validate_config(cfg)
    cfg.model = {"type": "Wheel", "other": {"type": "Whel"}}
    with pytest.raises(ConfigError, match=r"model\.other: .* in every registry: nearest are 'Wheel' \(parts\), '"):
        validate_config(cfg)


def test_unresolvable_annotations_judge_nothing(config: Any) -> None:
    def later(depth: NotImportable) -> None:  # type: ignore[name-defined] # noqa: F821
        return None

    Registry("late").register_module()(later)
    cfg = config()
    cfg.model.backbone = {"type": "later", "depth": "x"}
    validate_config(cfg)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, True),
        (True, float, False),
        (True, int, False),
        (1.0, int, False),
        (1, bool, False),
        (None, int | None, True),
        ("a", int | None, False),
        ([1, 2], tuple[int, ...], True),
        ([1, "a"], tuple[int, ...], False),
        ((1, 2), list[float], True),
        ([1, 2], tuple[float, float, float], False),
        ([1, 2, 3], tuple[float, float, float], True),
        ("ab", Sequence[str], False),
        ([], list, True),
        ({}, Mapping[str, int], True),
        ([], dict, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ("data", Path, True),
        (3, Path, False),
        (float("nan"), float, False),
        ([1.0, float("inf")], Sequence[float], False),
        ("x", Any, True),
    ],
)
def test_fits(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) is expected


# --- what a constructor refuses ---


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (2, r"model\.inner\.p: got 2, allowed: a finite number at least 0 and at most 1"),
        ("type", r"model\.inner: Inner cannot be built: TypeError: no"),
        ("value", r"model\.inner: Inner cannot be built: ValueError: no"),
        ("division", r"model\.inner: Inner cannot be built: ZeroDivisionError"),
    ],
)
def test_the_place_of_what_a_constructor_refuses(value: Any, message: str) -> None:
    things = Registry("things")

    @things.register_module()
    class Inner:
        def __init__(self, p: Any) -> None:
            if p == "type":
                raise TypeError("no")
            if p == "value":
                raise ValueError("no")
            if p == "division":
                self.p = 1 / (len(p) - 8)
            self.p = check_number("p", p, 0, 1)

    @things.register_module()
    class Outer:
        def __init__(self, inner: Any) -> None:
            self.inner = things.build(inner, "inner")

    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        things.build({"type": "Outer", "inner": {"type": "Inner", "p": value}}, "model")
    cause = caught.value.__cause__
    assert (cause is None) == (value == 2)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # between processes


@pytest.mark.parametrize("kind", [DataError, CheckpointError])
def test_other_errors_of_users_stay_what_they_are(kind: type[Exception]) -> None:
    things = Registry("things")

    @things.register_module()
    def build() -> None:
        raise kind("gone")

    with pytest.raises(kind, match=r"^gone$"):
        things.build({"type": "build"}, "model")
