"""The shell commands that README and documentation show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.paths import REPO

BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONTINUED = re.compile(r"\\\n\s*")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page: file name below the repository.
        line: of the block that it stands in.
        text: the command on one line, without a comment behind it.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        """The words as a shell splits them, without a comment."""
        return shlex.split(self.text, comments=True)


def pages() -> list[Path]:
    """README, CONTRIBUTING and all pages of the documentation."""
    return [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]


def commands() -> list[Command]:
    """All commands of all pages, in order; what stands between two of them is not looked at."""
    return [command for page in pages() for command in of_page(page)]


def of_page(page: Path) -> Iterator[Command]:
    """The commands in the ``sh`` blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        for each in CONTINUED.sub(" ", block[1]).splitlines():
            if shlex.split(each, comments=True):
                yield Command(str(page.relative_to(REPO)), line, each.strip())
