"""What differs between two configs, and whether it matters to a run that goes on."""

from __future__ import annotations

import pytest

from pointcept.utils.config import Config
from pointcept.utils.config_diff import FREE, differences, parse_config
from pointcept.utils.config_schema import SCHEMA
from tests.paths import CONFIGS


@pytest.mark.parametrize("name", ["semantic_kitti/distill_full.py", "nuscenes/teacher.py", "synthetic/student.py"])
def test_a_dumped_config_reads_back_without_being_run(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / name)
    assert differences(parse_config(cfg.pretty_text()), cfg) == []


def test_rare_values_read_back() -> None:
    tree = {"model": {"a": -1, "b": (1.5, None), "c": {"not a name": [True]}, 3: "x", "inf": float("-inf"), "e": ()}}
    assert differences(parse_config(Config(tree).pretty_text()), tree) == []


@pytest.mark.parametrize(
    "text", ["import os", "a = open('b')", "a = dict([(1, 2)])", "a.b = 1", "a = {**b}", "a =", "f()"]
)
def test_code_is_no_config(text: str) -> None:
    with pytest.raises(ValueError, match="no config"):
        parse_config(text)


def test_differences_are_named_by_their_place() -> None:
    before = {"optimizer": {"type": "SGD", "lr": 1}, "hooks": [{"type": "A"}], "data": {"train": {"data_root": "a"}}}
    now = {"optimizer": {"type": "SGD", "lr": 1.0}, "hooks": ({"type": "B"},), "data": {"train": {"data_root": "b"}}}
    found = differences(before, {**now, "mix_prob": 0.5, "model": {"recompute": "mlp", "depth": [1, 2]}})
    assert {str(each): each.free for each in found} == {
        "hooks.0.type 'A' -> 'B'": True,
        "data.train.data_root 'a' -> 'b'": True,
        "mix_prob 0 -> 0.5": False,
        "model.recompute nothing -> 'mlp'": True,
        "model.depth.0 nothing -> 1": False,
        "model.depth.1 nothing -> 2": False,
    }
    assert differences(before, now)[0].place == "hooks.0.type"


def test_free_keys_exist() -> None:
    assert {key.split(".")[0] for key in FREE} <= SCHEMA.keys()
