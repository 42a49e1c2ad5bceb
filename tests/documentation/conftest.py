"""The commands of the documentation run only where it is asked for: ``python -m pytest -m docs``."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "docs" not in config.getoption("markexpr"):
        asked = [item for item in items if not item.get_closest_marker("docs")]
        config.hook.pytest_deselected(items=[item for item in items if item not in asked])
        items[:] = asked
