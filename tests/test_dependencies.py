"""What the package asks of others: a lower bound each, and one pinned version each for CI."""

from __future__ import annotations

import re
import runpy
from itertools import chain
from typing import Any

import pytest
import setuptools

from tests.paths import REPO

NAME = re.compile(r"[A-Za-z0-9._-]+")
SEPARATE = {"torch"}
"""Pinned in ``scripts/setup.sh``, which chooses its build for the machine."""


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of ``setup()``."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    runpy.run_path(str(REPO / "setup.py"))
    return found


def pins() -> dict[str, str]:
    lines = [line for line in (REPO / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {normal(line.partition("==")[0]): line.partition("==")[2].partition(" ")[0] for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def test_every_requirement_has_a_lower_bound(declared: dict[str, Any]) -> None:
    everything = [*declared["install_requires"], *chain(*declared["extras_require"].values())]
    assert len(everything) > 15
    assert [requirement for requirement in everything if not re.search(r">=|==", requirement)] == []


def test_ci_installs_pinned_versions_within_the_bounds(declared: dict[str, Any]) -> None:
    pinned = pins()
    for requirement in [*declared["install_requires"], *declared["extras_require"]["dev"]]:
        match = NAME.match(requirement)
        assert match is not None
        if match[0] in SEPARATE:
            assert f"{match[0]}_cpu=" in (REPO / "scripts/setup.sh").read_text()
            continue
        version = pinned[normal(match[0])]
        for sign, bound in re.findall(r"(>=|==|<)([\d.]+)", requirement):
            holds = {
                ">=": numbers(version) >= numbers(bound),
                "==": version == bound,
                "<": numbers(version) < numbers(bound),
            }
            assert holds[sign], f"constraints.txt has {match[0]} {version}, setup.py asks for {requirement}"


def test_setup_uses_the_pins() -> None:
    assert '-c "${CONSTRAINTS:-constraints.txt}" -e ".[dev]"' in (REPO / "scripts/setup.sh").read_text()
