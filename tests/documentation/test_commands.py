"""Every command of the documentation names tools, options and files that exist; ``test_running.py`` runs them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from pointcept.engines.defaults import load_config
from pointcept.utils.config import parse_options
from tests.documentation.commands import Command, commands, pages
from tests.paths import REPO

PLAIN = {
    "[", "cat", "cd", "cp", "docker", "git", "ln", "mkdir", "pip", "scontrol", "source", "srun", "tar",
}  # fmt: skip
"""Programs that are not ours; their arguments are not looked at here."""
MAKE = re.compile(r"^([a-z]+):", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
STUDENT = REPO / "configs/semantic_kitti/student.py"


def of_tool(words: list[str]) -> tuple[Path, list[str]] | None:
    """The script that a command runs, and its arguments; None if it runs none of ours."""
    words = words[1:] if words[0] == "srun" else words
    if words[0] == "python" and words[1].endswith(".py"):
        return REPO / words[1], words[2:]
    return None


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_names_what_exists(command: Command) -> None:
    words = command.words
    tool = of_tool(words)
    if tool is not None:
        assert tool[0].is_file(), f"{command.page} runs {tool[0]}"
    elif words[0] in ("sh", "bash"):
        assert (REPO / words[1]).is_file()
    elif words[0] == "make":
        assert words[1] in MAKE.findall((REPO / "Makefile").read_text())
    elif words[0] == "--options":
        load_config(STUDENT, parse_options(words[1:]))
    else:
        assert words[0] in PLAIN, f"{command}: whose program is it?"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page}: {target}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub and the site name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_site_shows_every_page() -> None:
    shown = {"index"}
    for page in (REPO / "docs").rglob("*.md"):
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(), re.DOTALL):
            folder = page.parent.relative_to(REPO / "docs")
            shown |= {str(folder / line) for line in block.splitlines() if line and not line.startswith(":")}
    there = {str(page.relative_to(REPO / "docs").with_suffix("")) for page in (REPO / "docs").rglob("*.md")}
    assert there == shown


def test_modules_of_the_reference_exist() -> None:
    reference = "".join(page.read_text() for page in (REPO / "docs/api").glob("*.md"))
    named = re.findall(r"automodule:: (\S+)", reference)
    assert len(named) > 20
    for name in named:
        importlib.import_module(name)
