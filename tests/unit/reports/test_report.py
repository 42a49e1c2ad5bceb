"""The report of a run: what stands on it, and what it says where something is missing."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from folders import write_run

from pointcept.reports import command, read_run, write_reports
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.scalars import SCALARS

VOID = {"meta", "link", "img", "br", "input"}


class Outline(HTMLParser):
    """Checks that every element is closed, and remembers headings and what could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An empty element of SVG."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return parser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "student")


def test_a_report_has_everything_and_fetches_nothing(run: Path, tmp_path: Path) -> None:
    teacher = write_run(tmp_path / "teacher", right=0.9, seed=1)
    report = write_reports(run, teacher)
    html, text = report.html.read_text(), report.markdown.read_text()
    page = outline(html)
    assert page.headings == [
        "Evaluations", "Losses", "Classes", "Confusion", "Distance", "Scans with the most errors", "Speed and memory",
        "How it was made",
    ]  # fmt: skip
    assert not page.fetched
    assert report.missing == []
    for word in ("kld", "teacher IoU", "road → car", "0-10 m", "scan &lt;", "abc123 with local changes", "1.23 M"):
        assert word in html
    assert html.count("data:image/png;base64,") == 9, "truth, prediction and errors of three scans"
    assert "'a b'" in text
    assert "secret" not in html + text
    ours, theirs = (json.loads((r / "result" / "miou_precise.json").read_text()) for r in (run, teacher))
    row = next(line for line in text.splitlines() if line.startswith("| car |"))
    one, other = (100 * report["classes"][1]["iou_precise"] for report in (theirs, ours))
    assert f"| {one:.2f} | {other:.2f} | {other - one:+.2f} |" in row
    assert "| 20 | 20.00 | 70.00 |" in text, "the evaluation at iteration 20"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with open(run / SCALARS, "a") as file:
        file.write('{"iteration": 41, "train/lo')
    report = write_reports(run)
    assert report.missing == [
        f"1 line of {SCALARS} not whole (the run was killed there)",
        "the teacher's run is not where the config says: name it with --teacher RUN",
    ]
    (run / SCALARS).unlink()
    (run / "environment.json").write_text("{")
    (run / "config.py").write_text("import os")
    (run / "result" / "worst_precise.npz").unlink()
    report = write_reports(run)
    assert f"there is no {SCALARS} (an older run): the curves are those of its TensorBoard files" in report.missing
    assert [note.partition(" is ")[0] for note in report.missing[1:]] == ["config.py", f"{run / 'environment.json'}"]
    html = report.html.read_text()
    outline(html)
    assert "No pictures" in html
    assert read_run(run).curves["train/loss"][-1] == (40, pytest.approx(0.1))
    for path in (*run.glob("events*"), *run.rglob("*.json"), run / "report.html", run / "report.md"):
        path.unlink()
    (run / "config.py").write_text("seed = 1\n")
    report = write_reports(run)
    assert len(report.missing) == 3
    outline(report.html.read_text())


def test_older_results_lack_some_sections_and_say_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "result" / "miou_precise.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in content.items() if k not in ("confusion", "ranges", "worst_scans")}))
    text = write_reports(run).markdown.read_text()
    assert text.count("an older tester wrote it") == 3


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run .*gone: there is no such folder"):
        write_reports(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"no run .*file: it is a file, expected the folder of a run"):
        write_reports(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds nothing of a run"):
        write_reports(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no result .*miou_precise\.json"):
        write_reports(write_run(tmp_path / "run"), teacher=tmp_path / "empty")
    with pytest.raises(DataError, match=r"cannot write the report in .*file"):
        write_reports(tmp_path / "run", out=tmp_path / "file")


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(command.argument_parser().parse_args([str(run), "--teacher", str(run), "--out", str(tmp_path)]))
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "report.html"), str(tmp_path / "report.md")]
    with pytest.raises(ConfigError, match="is for one run, got 2"):
        command.main(command.argument_parser().parse_args([str(run), str(run), "--out", str(tmp_path)]))
