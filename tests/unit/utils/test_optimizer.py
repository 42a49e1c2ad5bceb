"""Parameter groups and the registry of optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pointcept.utils.errors import ConfigError
from pointcept.utils.optimizer import build_optimizer, parameter_groups


@pytest.fixture
def model() -> nn.Module:
    return nn.ModuleDict({"stem": nn.Linear(2, 3), "block0": nn.Linear(3, 3), "head": nn.Linear(3, 1)})


def test_keywords_make_groups(model: nn.Module) -> None:
    model["stem"].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    dicts = [{"keyword": "block", "lr": 0.0002, "weight_decay": 0.0}, {"keyword": "head.bias", "lr": 0.1}]
    optimizer = build_optimizer({"type": "AdamW", "lr": 0.002, "weight_decay": 0.005}, model, dicts)
    groups = optimizer.param_groups
    assert [group["name"] for group in groups] == ["base", "block", "head.bias"]
    assert [group["lr"] for group in groups] == [0.002, 0.0002, 0.1]
    assert [group["weight_decay"] for group in groups] == [0.005, 0.0, 0.005]
    assert [len(group["params"]) for group in groups] == [2, 2, 1]  # stem.weight, head.weight | block | head.bias


def test_a_parameter_is_in_the_first_group_that_names_it(model: nn.Module) -> None:
    dicts = [{"keyword": "block"}, {"keyword": "weight"}, {"keyword": "bias"}]
    groups = parameter_groups(model, dicts)
    assert [group["name"] for group in groups] == ["block", "weight", "bias"]  # nothing is left for "base"
    chosen = [id(p) for group in groups for p in group["params"]]
    assert sorted(chosen) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize(
    ("dicts", "words"),
    [
        ([{"keyword": "blok"}], "'blok' matches no trainable parameter.*named like stem.weight"),
        ([{"keyword": "block"}, {"keyword": "block0"}], "'block0' matches no"),
        ([{"lr": 0.1}], r"param_dicts\.0: got .*keyword=\.\.\."),
        ([{"keyword": "block", "lrs": 0.1}], r"param_dicts\.0: takes no 'lrs': did you mean 'lr'"),
    ],
)
def test_bad_groups_are_named(model: nn.Module, dicts: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parameter_groups(model, dicts)


def test_nothing_to_train(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        parameter_groups(model.requires_grad_(False))


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_each_kind_steps(model: nn.Module, kind: str) -> None:
    optimizer = build_optimizer({"type": kind, "lr": 0.1}, model)
    before = model["stem"].weight.clone()  # type: ignore[index, operator, union-attr]
    torch.ones(1).mul(model["stem"].weight.sum()).backward()  # type: ignore[index, union-attr, operator]
    optimizer.step()
    assert not torch.equal(before, model["stem"].weight)  # type: ignore[index, union-attr]


def test_unknown_names_are_named(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match="did you mean 'AdamW'"):
        build_optimizer({"type": "AdmW", "lr": 0.1}, model)
    with pytest.raises(ConfigError, match="AdamW takes no 'weightdecay': did you mean 'weight_decay'"):
        build_optimizer({"type": "AdamW", "weightdecay": 0.1}, model)
