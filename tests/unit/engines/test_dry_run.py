"""A rehearsal finds what a training would end of, estimates it, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import fakes
import pytest
from fakes import make_config

from pointcept.engines.defaults import argument_parser
from pointcept.engines.dry_run import dry_main
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError

HOOKS = [
    {"type": "CheckpointLoader"}, {"type": "IterationTimer"}, {"type": "SemSegEvaluator"},
    {"type": "CheckpointSaver", "save_freq": 1}, {"type": "PreciseEvaluator"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(Config, "pretty_text", lambda self: "")


def test_a_rehearsal_estimates_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[bool] = []
    real = fakes.FakeModel.forward

    def forward(self: fakes.FakeModel, batch: dict) -> dict:
        calls.append(self.training)
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.FakeModel, "forward", forward)
        dry_main(make_config(tmp_path / "run", hooks=HOOKS))
    assert calls.count(True) == 2
    said = capsys.readouterr().out
    for words in ("iteration 2: loss", "evaluated 3 scans", "tested a scan", "peak memory of this process",
                  "7 checkpoints of", "12 iterations of", "3 evaluations of", "the precise test 0:00:0"):  # fmt: skip
        assert words in said, words
    assert sorted(os.listdir(tmp_path)) == ["temporary"]
    assert not list((tmp_path / "temporary").glob("pointcept*"))


def test_a_rehearsal_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = make_config(tmp_path / "run", hooks=HOOKS)
    cfg.data.train.type = "BrokenDataset"
    with pytest.raises(RuntimeError, match=r"sample \d.*IndexError: index 3"):
        dry_main(cfg)
    held = tmp_path / "held" / "model"
    held.mkdir(parents=True)
    (held / "model_last.pth").write_bytes(b"of another run")
    with pytest.raises(ConfigError, match=r"holds a run already \(model/model_last\.pth\)"):
        dry_main(make_config(tmp_path / "held"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is no folder in which this user can write"):
        dry_main(make_config(tmp_path / "file" / "run"))
    with pytest.raises(ConfigError, match="test_only=True trains nothing"):
        dry_main(make_config(tmp_path / "run", test_only=True))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: namedtuple("Usage", "free")(1000))
    with pytest.raises(ConfigError, match="GB of checkpoints do not fit on the disk"):
        dry_main(make_config(tmp_path / "run", hooks=HOOKS))
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "temporary").glob("pointcept*"))
    assert (held / "model_last.pth").read_bytes() == b"of another run"


def test_the_command_line_knows_it() -> None:
    assert argument_parser("x").parse_args(["--config", "a.py", "--dry-run"]).dry_run
    with pytest.raises(SystemExit):
        argument_parser("x", test=True).parse_args(["--dry-run"])
