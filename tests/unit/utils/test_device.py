"""Device choice, moving, precision, seeds and random states."""

from __future__ import annotations

import copy
import io
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pointcept.utils import device
from pointcept.utils.errors import ConfigError


class Pair(NamedTuple):
    a: torch.Tensor
    b: int


def test_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTCEPT_DEVICE", "cpu")
    assert device.get_device() == torch.device("cpu")
    assert device.device_count() == 0
    assert device.peak_memory() == 0
    monkeypatch.setenv("POINTCEPT_DEVICE", "gpu")
    with pytest.raises(ConfigError, match="POINTCEPT_DEVICE=gpu"):
        device.get_device()
    if not torch.cuda.is_available():
        monkeypatch.setenv("POINTCEPT_DEVICE", "cuda")
        with pytest.raises(ConfigError, match="finds no CUDA device"):
            device.get_device()


def test_move_keeps_the_structure() -> None:
    value = {"a": torch.ones(2), "b": [torch.zeros(1), "name"], "c": (1, torch.ones(1)), "d": Pair(torch.ones(1), 2)}
    moved = device.move(value, torch.device("meta"))
    assert moved["a"].is_meta
    assert moved["b"][0].is_meta
    assert moved["b"][1] == "name"
    assert moved["c"][1].is_meta
    assert isinstance(moved["d"], Pair)
    assert moved["d"].a.is_meta
    assert moved["d"].b == 2
    assert not value["a"].is_meta  # type: ignore[union-attr]


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTCEPT_DEVICE", "cpu")
    assert device.amp_dtype("bf16") is device.amp_dtype(torch.bfloat16) is torch.bfloat16
    with pytest.raises(ConfigError, match="did you mean 'bfloat16'"):
        device.amp_dtype("bfloat17")
    x = torch.ones(2, 2)
    with device.autocast(True, torch.bfloat16):
        assert (x @ x).dtype is torch.bfloat16
    with device.autocast(False, torch.bfloat16):
        assert (x @ x).dtype is torch.float32
    assert not device.make_grad_scaler(True, torch.float16).is_enabled()  # no scaling on the CPU


def numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.normal()), float(torch.rand(()))


def test_seeds_repeat() -> None:
    device.seed_everything(2**40 + 5)
    first = numbers()
    device.seed_everything(2**40 + 5)
    assert numbers() == first
    device.seed_everything(6)
    assert numbers() != first


def test_random_state_survives_a_file() -> None:
    device.seed_everything(1)
    numbers()  # an odd number of normal draws leaves one cached in numpy
    buffer = io.BytesIO()
    torch.save(device.random_state(), buffer)
    expected = [numbers() for _ in range(3)]
    device.seed_everything(2)
    buffer.seek(0)
    device.set_random_state(torch.load(buffer, weights_only=True))
    assert [numbers() for _ in range(3)] == expected


def test_a_captured_function_repeats_its_work_on_new_contents() -> None:
    where = device.get_device()
    x = torch.ones(5, device=where)
    replay = device.capture(lambda: (x * 2).sum(), where, device.graph_pool(where))
    x.fill_(3)
    assert replay().item() == 30
    x.fill_(4)
    assert replay().item() == 40


def test_a_copied_stopwatch_starts_anew() -> None:
    watch = device.Stopwatch()
    with watch.section():
        pass
    assert watch._host > 0.0
    assert copy.deepcopy(watch).lap() == 0.0
