"""What Pointcept's configs say in other words, and what has no meaning here."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest

import pointcept.datasets
import pointcept.engines.hooks
import pointcept.engines.test
import pointcept.models  # noqa: F401
from pointcept.utils.config import Config
from pointcept.utils.config_upstream import ARGUMENTS, TYPES, Gone, Renamed, adopt
from pointcept.utils.errors import ConfigError
from pointcept.utils.optimizer import OPTIMIZERS
from pointcept.utils.registry import Registry, registries
from pointcept.utils.scheduler import SCHEDULERS

GRID = {"type": "GridSample", "grid_size": 0.05}


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, logger="pointcept")
    return lambda: [record.getMessage() for record in caplog.records]


def adopted(**values: Any) -> Config:
    cfg = Config(values)
    adopt(cfg)
    return cfg


def test_what_is_ours_stays_as_it_is_and_nothing_is_said(told: Any) -> None:
    values = {"hooks": [{"type": "CheckpointSaver", "save_freq": None}], "data": {"train": {"transform": [GRID]}}}
    assert adopted(**values) == values
    assert adopted(model={"type": "Own", "cache": 1}, hooks=({"type": "Unknown"},)).hooks == [{"type": "Unknown"}]
    assert told() == []


@pytest.mark.parametrize("name", [name for name, change in TYPES.items() if isinstance(change, Gone)])
def test_a_hook_without_a_meaning_is_left_out(name: str, told: Any) -> None:
    cfg = adopted(hooks=[{"type": name, "interval": 3}, {"type": "IterationTimer"}, {"type": name}])
    assert cfg.hooks == [{"type": "IterationTimer"}]
    (text,) = told()
    assert text.startswith(f"the hook {name!r} is left out: ")


def test_a_hook_of_that_name_that_exists_stays(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointcept.utils.registry._ALL", dict(registries()))
    Registry("others").register_module("ModelHook")(lambda: None)
    assert adopted(hooks=[{"type": "ModelHook"}]).hooks == [{"type": "ModelHook"}]
    assert told() == []


def test_old_names_become_ours_with_one_warning_each(told: Any) -> None:
    old = {"type": "Voxelize", "voxel_size": 0.05, "return_discrete_coord": True}
    collect = {
        "type": "Collect",
        "keys": ("coord", "discrete_coord"),
        "feat_keys": ["coord"],
        "a_keys": "discrete_coord",
    }
    split = {"transform": [old, collect], "test_cfg": {"voxelize": old}}
    cfg = adopted(data={"train": split, "val": split}, test={"type": "SegmentationTest"})
    new = {"type": "GridSample", "grid_size": 0.05, "return_grid_coord": True}
    kept = {"type": "Collect", "keys": ("coord", "grid_coord"), "feat_keys": ["coord"], "a_keys": "grid_coord"}
    assert cfg.data.train == cfg.data.val == {"transform": [new, kept], "test_cfg": {"voxelize": new}}
    assert cfg.test.type == "SemSegTester"
    assert told() == [
        "the type 'Voxelize' is called 'GridSample' here",
        "the argument 'voxel_size' of GridSample is called 'grid_size' here",
        "the argument 'return_discrete_coord' of GridSample is called 'return_grid_coord' here",
        "the entry 'discrete_coord' of a sample is called 'grid_coord' here",
        "the type 'SegmentationTest' is called 'SemSegTester' here",
    ]


def test_both_names_of_an_argument_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.train\.transform\.0: GridSample got both 'grid_size' and 'voxel_size'"
    ):
        adopted(data={"train": {"transform": [{**GRID, "voxel_size": 0.1}]}})


def test_arguments_without_a_meaning_are_named(told: Any) -> None:
    cfg = adopted(
        hooks=[{"type": "SemSegEvaluator", "write_cls_iou": True}, {"type": "InformationWriter", "interval": 5}],
        data={split: {"type": "NuScenesDataset", "cache": False} for split in ("train", "val", "test")},
        scheduler={"type": "OneCycleLR", "max_lr": 0.1, "last_epoch": -1},
    )
    assert cfg.hooks == [{"type": "SemSegEvaluator"}, {"type": "InformationWriter", "log_freq": 5}]
    assert cfg.data.val == {"type": "NuScenesDataset"}
    assert cfg.scheduler == {"type": "OneCycleLR", "max_lr": 0.1}
    assert [text.split(" is ")[0] for text in told()] == [
        "the argument 'write_cls_iou' of SemSegEvaluator",
        "the argument 'interval' of InformationWriter",
        "the argument 'cache' of NuScenesDataset",
        "the argument 'last_epoch' of OneCycleLR",
    ]


@pytest.mark.parametrize(
    ("node", "harmless"),
    [
        ({"type": "WaymoDataset", "timestamp": [0, -1]}, [0]),
        ({"type": "LovaszLoss", "per_image": True}, False),
        ({"type": "CrossEntropyLoss", "reduction": "sum"}, "mean"),
        ({"type": "PT-v3m1", "mask_token": True}, False),
    ],
)
def test_an_argument_that_would_matter_is_an_error(node: dict[str, Any], harmless: Any, told: Any) -> None:
    (name,) = node.keys() - {"type"}
    with pytest.raises(ConfigError, match=f"model.part: {node['type']} has no {name}="):
        adopted(model={"part": node})
    assert adopted(model={"part": {**node, name: harmless}}).model.part == {"type": node["type"]}
    assert len(told()) == 1


def test_shares_of_the_rate_become_rates(told: Any) -> None:
    groups = [{"keyword": "block", "lr_scale": 0.1}, {"keyword": "head", "lr": 3}, {"keyword": "x", "lr_scale": "a"}]
    cfg = adopted(optimizer={"type": "AdamW", "lr": 0.5}, param_dicts=groups)
    assert cfg.param_dicts == [{"keyword": "block", "lr": 0.05}, *groups[1:]]
    assert told() == ["'lr_scale' of param_dicts becomes 'lr', that share of the optimizer's"]
    assert adopted(optimizer=None, param_dicts=groups).param_dicts == groups


def test_every_row_of_the_tables_is_about_something_that_exists_and_is_needed() -> None:
    everything = {name: registry.get(name) for registry in registries().values() for name in registry.names()}
    assert {*OPTIMIZERS.names(), *SCHEDULERS.names()} < everything.keys()
    assert not TYPES.keys() & everything.keys()
    assert {change.name for change in TYPES.values() if isinstance(change, Renamed)} < everything.keys()
    for kind, arguments in ARGUMENTS.items():
        parameters = set(inspect.signature(everything[kind]).parameters)
        assert not parameters & arguments.keys(), kind
        assert {change.name for change in arguments.values() if isinstance(change, Renamed)} <= parameters


def test_a_warning_names_the_file(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "a.py"
    path.write_text("hooks = [dict(type='ModelHook')]")
    adopt(Config.fromfile(path))
    assert told()[0].startswith(f"{path}: the hook 'ModelHook'")
