"""The report of one run: ``report.html`` and ``report.md`` in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointcept.evaluation.report import report_file
from pointcept.reports.page import Section, html_page, markdown_page
from pointcept.reports.results import classes_section, confusion_section, range_section, scenes_section
from pointcept.reports.run import Run, read_result, read_run, teacher_of
from pointcept.reports.training import (
    evaluations_section,
    losses_section,
    origin_section,
    speed_section,
    summary_section,
)
from pointcept.utils.errors import DataError
from pointcept.utils.files import write_text_atomic

HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        html: the page.
        markdown: the same as text.
        missing: what the run lacks, one sentence each.
    """

    html: Path
    markdown: Path
    missing: list[str]


def write_reports(folder: str | Path, teacher: str | Path | None = None, out: str | Path | None = None) -> Report:
    """Write the report of a run, each file whole or not at all.

    Args:
        folder: of the run.
        teacher: folder or result of the teacher to compare with; by default that of the config, if it is there.
        out: folder for the two files, by default that of the run.

    Raises:
        DataError: there is no such run, no such teacher, or the files cannot be written.
    """
    run = read_run(folder)
    found, note = _teacher(run, teacher)
    missing = [*run.missing, *([note] if note else [])]
    sections = sections_of(run, found, missing)
    title = str(run.folder.resolve().name if run.folder.name in ("", ".", "..") else run.folder.name)
    model = (run.config.get("model") or {}).get("type")
    result = run.result
    subtitle = ", ".join(
        part
        for part in (
            str(model or "a run"),
            f"{run.iterations:,} iterations" if run.iterations else "",
            f"tested on {result.get('num_scans')} scans" if result else "not tested",
        )
        if part
    )
    target = Path(out) if out is not None else run.folder
    try:
        html = write_text_atomic(target / HTML, html_page(title, subtitle, sections))
        markdown = write_text_atomic(target / MARKDOWN, markdown_page(title, subtitle, sections))
    except OSError as error:
        raise DataError(f"cannot write the report in {target}: {error.strerror or error}") from error
    return Report(html, markdown, missing)


def sections_of(run: Run, teacher: Mapping[str, Any] | None, missing: list[str]) -> list[Section]:
    """Everything that the report says, in its order."""
    sections = [
        summary_section(run, missing),
        evaluations_section(run),
        losses_section(run),
        classes_section(run, teacher),
        confusion_section(run),
        range_section(run, teacher),
        scenes_section(run),
        speed_section(run),
        origin_section(run),
    ]
    return [section for section in sections if section is not None]


def _teacher(run: Run, given: str | Path | None) -> tuple[Mapping[str, Any] | None, str]:
    """The teacher's result, and what is missing of it.

    Raises:
        DataError: one was given, and there is none.
    """
    if given is not None:
        return read_precise(given), ""
    model = run.config.get("model")
    if not isinstance(model, Mapping) or "teacher" not in model:
        return None, ""
    folder = teacher_of(run.config)
    if folder is None:
        return None, "the teacher's run is not where the config says: name it with --teacher RUN"
    try:
        return read_precise(folder), ""
    except DataError as error:
        return None, f"the teacher's result: {error}"


def read_precise(path: str | Path) -> Mapping[str, Any]:
    """The precise result of a run, or the one in a JSON file.

    Raises:
        DataError: there is none, or it is none.
    """
    file = Path(path) / report_file("precise") if Path(path).is_dir() else Path(path)
    try:
        return read_result(file)
    except OSError as error:
        raise DataError(f"no result {file} ({error.strerror}): tools/test.py writes one") from error
