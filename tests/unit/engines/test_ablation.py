"""The ablation: rows, seeds, what is skipped, what is resumed, mean and spread."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes import make_config
from runs import interrupt

from pointcept.engines import ablation, defaults
from pointcept.engines.ablation import ablation_main, ablation_parser, row_config, spread
from pointcept.engines.train import DefaultTrainer
from pointcept.models import MODELS
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError

LOSSES = [{"type": "KLDLoss"}, {"type": "GradGuidedLoss"}, {"type": "TopoLoss"}]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on the fakes and return its report; ``command.trained`` lists (losses, seed, resumed)."""

    def main(*words: str, **changes: Any) -> Any:
        cfg = make_config(tmp_path / "run", epoch=2, eval_epoch=2, **changes)
        cfg.model = {"type": "Distiller", "student": {"type": "FakeModel"}, "losses": LOSSES}
        monkeypatch.setattr(ablation, "config_from_args", lambda args: cfg)
        ablation_main(ablation_parser().parse_args(["--config", "any.py", *words]))
        return json.loads((tmp_path / "run_ablation" / "ablation.json").read_text())

    def only_student(cfg: Config) -> DefaultTrainer:
        model = cfg.model
        trained.append(([loss["type"] for loss in model.get("losses", [])], cfg.seed, cfg.resume))
        cfg = Config(cfg.to_dict())
        cfg.model = model.get("student", model)
        return build(cfg)

    trained: list[Any] = []
    build = ablation.build_trainer
    monkeypatch.setattr(ablation, "build_trainer", only_student)
    for module in (ablation, defaults):  # the fakes have no teacher
        monkeypatch.setattr(module, "check_training", lambda cfg: None)
    monkeypatch.setattr(MODELS.get("Distiller"), "inference_config", staticmethod(lambda cfg: cfg["student"]))
    main.trained = trained  # type: ignore[attr-defined]
    return main


def test_rows_of_table_7_over_two_seeds(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = command("--seeds", "0", "1")
    kld, grad, topo = "KLDLoss", "GradGuidedLoss", "TopoLoss"
    one_seed = [[kld], [kld, topo], [kld, grad], [kld, grad, topo]]
    assert [losses for losses, _, _ in command.trained] == one_seed * 2
    assert [seed for _, seed, _ in command.trained] == [0] * 4 + [1] * 4
    assert list(report["rows"]) == ["kld", "topo", "grad", "full"]
    for row in report["rows"].values():
        runs = [run["last_quick"] for run in row["runs"].values()]
        assert len(runs) == row["last_quick"]["n"] == 2
        assert row["last_quick"]["mean"] == pytest.approx(sum(runs) / 2)
        assert row["last_quick"]["std"] == pytest.approx(abs(runs[0] - runs[1]) / 2**0.5)
        assert row["precise"]["n"] == 0
    printed = capsys.readouterr().out
    assert "seg + KLD + GradGuided + Topo" in printed
    assert "±" in printed


def test_finished_runs_are_skipped_and_new_seeds_are_added(command: Any) -> None:
    first = command("--rows", "kld", "seg", "--seeds", "0")
    again = command("--rows", "kld", "seg", "--seeds", "0", "3")
    assert [(losses, seed) for losses, seed, _ in command.trained] == [
        (["KLDLoss"], 0), ([], 0), (["KLDLoss"], 3), ([], 3)
    ]  # fmt: skip
    assert again["rows"]["kld"]["runs"]["0"] == first["rows"]["kld"]["runs"]["0"]
    with pytest.raises(ConfigError, match="result of another config"):
        command("--rows", "kld", batch_size=4)


def test_an_interrupted_run_goes_on(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = command("--rows", "kld", "--seeds", "5")["rows"]["kld"]["runs"]["5"]
    step = DefaultTrainer.run_step

    def stop_after_six(self: DefaultTrainer, batches: Any) -> Any:
        if self.iteration == 6:
            interrupt()
        return step(self, batches)

    command.trained.clear()
    shutil.rmtree(tmp_path / "run_ablation")
    monkeypatch.setattr(DefaultTrainer, "run_step", stop_after_six)
    with pytest.raises(KeyboardInterrupt):
        command("--rows", "kld", "--seeds", "5")
    monkeypatch.setattr(DefaultTrainer, "run_step", step)
    result = command("--rows", "kld", "--seeds", "5")["rows"]["kld"]["runs"]["5"]
    assert [resumed for _, _, resumed in command.trained] == [False, True]
    assert result["last_quick"] == whole["last_quick"]


def test_wrong_rows_are_explained(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'topo'"):
        row_config(cfg, "topology", 0, tmp_path)
    with pytest.raises(ConfigError, match="needs a config of a Distiller, got 'FakeModel'"):
        row_config(cfg, "topo", 0, tmp_path)
    cfg.model = {"type": "Distiller", "student": {}, "losses": LOSSES[:1]}
    with pytest.raises(ConfigError, match="row 'full' needs GradGuidedLoss, TopoLoss"):
        row_config(cfg, "full", 0, tmp_path)
    assert len(cfg.model.losses) == 1


def test_spread_of_few_values() -> None:
    assert spread([]) == {"n": 0, "mean": None, "std": None}
    assert spread([0.5]) == {"n": 1, "mean": 0.5, "std": None}
    assert spread([1.0, 3.0]) == {"n": 2, "mean": 2.0, "std": pytest.approx(2**0.5)}
