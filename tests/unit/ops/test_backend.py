"""Which implementation runs, and what the log says about the choice."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from pointcept.ops import backend
from pointcept.ops.backend import implementation, override
from pointcept.utils.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def forget_choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(backend.ENVIRONMENT, raising=False)
    backend._choose.cache_clear()
    yield
    backend._choose.cache_clear()


def test_the_only_choice_of_a_cpu_is_not_news(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pointcept"):
        implementation("serialization", CPU)
        implementation("segment_max", CPU)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert caplog.messages == [
        "ops: serialization uses torch on cpu (triton runs on cuda only)",
        "ops: segment_max uses torch on cpu (the only implementation)",
    ]


def test_the_choice_on_cuda_is_said_once_with_its_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_why_not_triton", lambda: "not installed (no module triton)")
    with caplog.at_level(logging.INFO, logger="pointcept"):
        for _ in range(2):
            implementation("segment_max", CUDA)
            implementation("serialization", CUDA)
            implementation("sparse_convolution", CUDA, torch.float64)
    assert caplog.messages == [
        "ops: segment_max uses torch on cuda (the only implementation)",
        "ops: serialization uses torch on cuda (triton not installed (no module triton))",
        "ops: sparse_convolution uses torch on cuda (the input is float64)",
    ]


def test_a_choice_can_be_asked_for(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with caplog.at_level(logging.INFO, logger="pointcept"), override("segment_max=torch"):
        implementation("segment_max", CPU)
    assert caplog.messages == ["ops: segment_max uses torch on cpu (asked for)"]
    with override("serialization=triton"), pytest.raises(ConfigError, match="'triton' was asked for, but it runs on"):
        implementation("serialization", CPU)
    monkeypatch.setenv(backend.ENVIRONMENT, "serialization=torhc")
    with pytest.raises(ConfigError, match="serialization has no backend 'torhc': did you mean 'torch'"):
        implementation("serialization", CPU)
