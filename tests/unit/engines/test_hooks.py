"""Hooks that tell of a run: pictures, the report, brief lines, Weights & Biases."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
from cuts import scalar_lines
from fakes import make_config
from runs import Recorder, interrupt, run

from pointcept.engines import train
from pointcept.engines.hooks import ReportWriter, WandbWriter
from pointcept.engines.hooks import wandb as wandb_hook
from pointcept.engines.hooks.progress import brief_line
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError


@pytest.fixture(autouse=True)
def quick_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "pretty_text", lambda self: "")  # yapf takes longer than the training


LAST = [{"type": "PreciseEvaluator"}, {"type": "ReportWriter"}]


def test_a_run_ends_with_a_report_and_has_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_config(tmp_path / "run")
    cfg.hooks += LAST
    with caplog.at_level("INFO", logger="pointcept"):
        run(cfg)
    assert f"report in {tmp_path / 'run' / 'report.html'}" in caplog.text
    html = (tmp_path / "run" / "report.html").read_text()
    assert "mIoU precise, 3 classes present" in html
    assert html.count("data:image/png") == 9
    lines = scalar_lines(tmp_path / "run")
    assert [line["iteration"] for line in lines if "val_quick/miou_present" in line] == [4, 8, 12]
    assert {"test_precise/miou_present", "test_precise_iou/left"} < lines[-1].keys()
    events = next((tmp_path / "run").glob("events.*")).read_bytes()
    assert events.count(b"val_quick/scan 2: truth, prediction, errors") == 3
    assert b"config/text_summary" in events


def test_a_report_that_fails_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Any) -> None:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("pointcept.engines.hooks.report.write_reports", fails)
    run(make_config(tmp_path, hooks=[{"type": "ReportWriter"}], evaluate=False))
    assert "no report: ZeroDivisionError: of ours; python tools/report.py" in caplog.text
    hook = ReportWriter()
    hook.trainer = types.SimpleNamespace(completed=False)  # type: ignore[assignment]
    hook.after_train()  # an interrupted run has no report


class Wandb(types.ModuleType):
    """The part of the package that the hook calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.pages: list[dict[str, Any]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended: list[int] = []

    def init(self, **how: Any) -> Any:
        self.pages.append(how)
        log = lambda values, step: self.rows.append((step, values))  # noqa: E731
        return types.SimpleNamespace(log=log, finish=lambda exit_code: self.ended.append(exit_code))


def test_wandb_gets_every_scalar_and_a_resumed_run_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setattr(wandb_hook.importlib, "import_module", lambda name: fake)
    options = {"enable_wandb": True, "wandb_project": "mine"}
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tmp_path, **options), Recorder(6, interrupt))
    run(make_config(tmp_path, resume=True, **options))
    assert [(page["project"], page["resume"]) for page in fake.pages] == [("mine", "allow")] * 2
    assert fake.pages[0]["id"] == fake.pages[1]["id"]
    assert fake.ended == [1, 0]
    assert {"train/loss", "val_quick/miou_present", "lr/base", "iteration"} <= set().union(*(r for _, r in fake.rows))
    assert all(step == values["iteration"] for step, values in fake.rows)


def test_wandb_is_off_unless_asked_for_and_costs_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError("No module named 'wandb'")

    monkeypatch.setattr(wandb_hook.importlib, "import_module", missing)
    run(make_config(tmp_path / "a", enable_wandb=True, evaluate=False))
    assert caplog.text.count("pip install 'pointcept[wandb]'; the run goes on without it") == 1
    with pytest.raises(ConfigError, match=r"need the package wandb .*pointcept\[wandb\]"):
        WandbWriter()
    assert not make_config(tmp_path).enable_wandb


def test_brief_lines_hold_as_many_terms_as_fit() -> None:
    values = {"loss": 2.0, "grad_norm": 1.0, **{f"TermNumber{n}": 0.5 for n in range(9)}, "TermNumber0/raw": 9.0}
    line = brief_line("Train [1/2][3/4] 0.1 s", values, " mem 1.0 GiB")
    assert len(line) <= 109
    assert line.startswith("Train [1/2][3/4] 0.1 s loss 2.0000 = TermNumber0 0.5000 + TermNumber1 0.5000")
    assert line.endswith(" more mem 1.0 GiB")
    assert "raw" not in line
    assert brief_line("a", {"loss": 1.0, "ce": 1.0}, "") == "a loss 1.0000 = ce 1.0000"
    assert brief_line("a", {"loss": 1.0}, "") == "a loss 1.0000"


def test_a_full_size_network_on_a_cpu_is_told_of_small_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(tmp_path, evaluate=False)
    train.DefaultTrainer(cfg)
    assert "small_" not in caplog.text
    monkeypatch.setattr(train, "FULL_SIZE", 100)
    train.DefaultTrainer(cfg)
    (line,) = [record.getMessage() for record in caplog.records if "small_" in record.getMessage()]
    assert len(line) <= 109
