"""Makes the fakes importable, also in processes that the tests start, and keeps the engine on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import fakes  # noqa: E402, F401

from pointcept.utils.logging import close_logging  # noqa: E402


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU, where there is one, has its own tests; a log file that a test opened is closed."""
    monkeypatch.setenv("POINTCEPT_DEVICE", "cpu")
    yield
    close_logging()
