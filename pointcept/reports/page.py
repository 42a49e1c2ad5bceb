"""A page: sections as HTML in one file that fetches nothing, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

WEB = Path(__file__).with_name("web")


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: its heading.
        html: what stands below, as HTML.
        markdown: the same for a reader of plain text; empty if there is nothing to say without pictures.
    """

    title: str
    html: str
    markdown: str = ""


@cache
def _asset(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def html_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: of the page.
        subtitle: one line below it.
        sections: in their order; the first stands under the title, without a heading of its own.
    """
    anchors = [f"s{number}" for number in range(len(sections))]
    links = "".join(f'<a href="#{a}">{escape(s.title)}</a>' for a, s in zip(anchors[1:], sections[1:], strict=True))
    body = "".join(
        f'<section id="{a}">{f"<h2>{escape(s.title)}</h2>" if number else ""}{s.html}</section>'
        for number, (a, s) in enumerate(zip(anchors, sections, strict=True))
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{_asset("page.css")}</style></head>\n'
        f'<body><main><header><div><h1>{escape(title)}</h1><div class="muted">{escape(subtitle)}</div></div>'
        f'<button id="theme" type="button">dark / light</button></header><nav>{links}</nav>{body}</main>'
        f'<div id="hint"></div><script>{_asset("page.js")}</script></body></html>\n'
    )


def markdown_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page as Markdown."""
    parts = [f"# {title}", subtitle]
    for number, section in enumerate(sections):
        if section.markdown:
            parts += [f"## {section.title}"] * (number > 0) + [section.markdown]
    return "\n\n".join(parts) + "\n"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], total: int = 0, style: str = "") -> str:
    """A table whose cells are HTML already.

    Args:
        head: of the columns, plain text; none for a table of facts.
        rows: cells; one that begins with ``<td`` brings its own.
        total: how many rows at the end are sums.
        style: class of the table.
    """
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    lines = []
    for number, row in enumerate(rows):
        mark = ' class="total"' if number >= len(rows) - total else ""
        lines.append(f"<tr{mark}>{''.join(c if c.startswith('<td') else f'<td>{c}</td>' for c in row)}</tr>")
    return f'<div class="scroll"><table class="{style}">{top}<tbody>{"".join(lines)}</tbody></table></div>'


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    clean = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in clean]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def card(html: str, title: str = "") -> str:
    """A panel with a small heading; nothing without contents."""
    return f'<div class="card">{f"<h3>{escape(title)}</h3>" if title else ""}{html}</div>' if html else ""


def pair(*cards: str) -> str:
    """Panels beside each other."""
    return f'<div class="pair">{"".join(cards)}</div>' if any(cards) else ""


def stacked(*cards: str) -> str:
    """Panels below each other."""
    return f'<div class="stack">{"".join(cards)}</div>'


def percent(fraction: float | None, digits: int = 2) -> str:
    """``12.34``, or ``-`` where undefined."""
    return "-" if fraction is None else f"{100 * fraction:.{digits}f}"


def signed(difference: float | None) -> str:
    """A difference of fractions in percentage points, coloured."""
    if difference is None:
        return "-"
    kind = "up" if difference > 0.00005 else "down" if difference < -0.00005 else "muted"
    return f'<span class="{kind}">{100 * difference:+.2f}</span>'


def minus(one: float | None, other: float | None) -> float | None:
    """The difference of two fractions, None where one is undefined."""
    return None if one is None or other is None else one - other
