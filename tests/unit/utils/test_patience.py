"""A word about what is waited for, live bars, and lines that a terminal holds."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from pointcept.utils import patience, progress
from pointcept.utils.logging import BRIEF, TerminalFormatter, close_logging, folded, setup_logging
from pointcept.utils.patience import Watch, waiting


def test_words_come_at_growing_intervals_and_name_the_innermost() -> None:
    watch = Watch()
    outer = watch.enter("the whole")
    begin = outer.since
    watch.heard()
    watch._heard = begin
    assert watch.word(begin + 9) is None
    assert watch.word(begin + 10.5) == "still waiting: the whole, 10 s so far"
    inner = watch.enter("a part")
    inner.since = begin + 12
    assert watch.word(begin + 29) is None, "twice as long"
    assert watch.word(begin + 31) == "still waiting: a part, 19 s so far"
    watch.leave(inner)
    watch.leave(inner)
    watch._heard, watch._interval = begin + 32, watch.patience  # a line of the log
    assert watch.word(begin + 41) is None
    assert watch.word(begin + 42) == "still waiting: the whole, 42 s so far"
    watch.leave(outer)
    assert watch.word(begin + 1000) is None


def test_silence_is_broken_and_other_lines_start_the_clock_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "_watch", Watch(0.1))
    setup_logging()
    try:
        with waiting("the first") as wait:
            time.sleep(0.25)
            wait.what = "the second"
            logging.getLogger("pointcept").info("a line")
            time.sleep(0.16)
    finally:
        close_logging()
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "still waiting: the first, 0 s so far"
    assert lines[lines.index("a line") + 1] == "still waiting: the second, 0 s so far"


def test_other_ranks_and_forked_processes_are_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_watch", Watch())
    with waiting("something"):
        assert len(patience._watch._waits) == 1
        pid = os.fork()
        if pid == 0:
            os._exit(len(patience._watch._waits))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        monkeypatch.setattr(patience.comm, "rank", lambda: 1)
        with waiting("another"):
            assert len(patience._watch._waits) == 1
    assert not patience._watch._waits


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress.progress(iter("abc"), 3, "testing", "scan")) == ["a", "b", "c"]
        text = stream.getvalue()
        assert ("testing" in text) == shown
        assert all(len(part) < 120 for part in text.split("\r"))
    assert list(progress.progress(range(3), 2, "testing", "scan")) == [0, 1, 2], "more than was said"


def test_log_lines_and_a_bar_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    setup_logging()
    try:
        bar = progress.Bar(10, "training", " iterations", told_eta=True)
        bar.update("ETA 0:01:00")
        logging.getLogger("pointcept").info("a line")
        bar.close()
    finally:
        close_logging()
    line = next(part for part in stream.getvalue().splitlines() if "a line" in part)
    assert line.endswith("] a line")
    assert "training" not in line.split("\r")[-1]


@pytest.mark.parametrize("details", [False, True])
def test_a_terminal_has_120_columns_and_the_file_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], details: bool
) -> None:
    long = " ".join(f"word{n}" for n in range(60))
    setup_logging(tmp_path, details=details)
    try:
        logging.getLogger("pointcept").info("%s", long, extra={BRIEF: "in brief"})
        logging.getLogger("pointcept").warning("%s", long)
    finally:
        close_logging()
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    assert ("in brief" in out) != details
    assert " ".join(out.split()).count(long) == 1 + details
    assert " WARNING] word0" in out
    assert (tmp_path / "train.log").read_text().count(long) == 2


def test_words_stay_whole() -> None:
    path = "/" + "a" * 150
    assert folded(f"wrote {path} now") == ["wrote", f"    {path}", "    now"]
    record = logging.LogRecord("pointcept", logging.INFO, "", 0, "one\ntwo", None, None)
    assert TerminalFormatter().format(record).splitlines()[1] == "two"
