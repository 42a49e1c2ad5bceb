"""The documentation site: ``make docs`` builds it into ``build/site``, and a warning is an error."""

from __future__ import annotations

import re
from typing import Any

import pointcept

project = "pointcept"
author = "the pointcept authors"
release = pointcept.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["studies/*/results/*"]
html_theme = "furo"
html_title = "pointcept"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Packages that are extras need not be there to read their modules.
autodoc_mock_imports = ["triton", "embreex"]

# Pages are read in the repository, too, where they link to its files; the site has only the pages.
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
CODE = re.compile(r"(``.*?``)")


def unlink(app: Any, name: str, source: list[str]) -> None:
    """Keep the words of links that lead out of the site, and drop the links."""
    source[0] = OUTSIDE.sub(r"\1", source[0])


def escape_bars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make | the mark of a norm in docstrings, outside of code; to Sphinx it begins a substitution."""
    for number, line in enumerate(lines):
        parts = CODE.split(line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", unlink)
    app.connect("autodoc-process-docstring", escape_bars)
