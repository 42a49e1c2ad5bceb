"""The config that a checkpoint carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import pytest
import torch

from pointcept.engines.restore import config_of
from pointcept.engines.train import build_trainer
from pointcept.utils.checkpoint import read_checkpoint, save_atomically
from pointcept.utils.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The config of a run that has ended."""
    cfg = fakes.make_config(tmp_path_factory.mktemp("run"), epoch=1, eval_epoch=1)
    build_trainer(cfg).train()
    return cfg


def last(cfg: Any) -> Path:
    return Path(cfg.save_path) / "model" / "model_last.pth"


def test_a_checkpoint_brings_its_config(trained: Any) -> None:
    cfg = config_of(last(trained), {"num_worker": 3, "weight": "other.pth"})
    assert cfg.weight == str(last(trained))
    assert cfg.num_worker == 3
    then, now = trained.to_dict(), cfg.to_dict()
    assert {key for key in then if then[key] != now[key]} == {"num_worker", "weight"}


def test_a_config_in_a_checkpoint_runs_no_code(trained: Any, tmp_path: Path) -> None:
    content = read_checkpoint(last(trained))
    mark = tmp_path / "ran"
    content["config"] += f"\nseed = open({str(mark)!r}, 'w').write('x')\n"
    save_atomically(content, tmp_path / "attack.pth")
    with pytest.raises(ConfigError, match=r"attack\.pth: 'config' is no config: got"):
        config_of(tmp_path / "attack.pth")
    assert not mark.exists()


def test_weights_without_a_config_ask_for_one(tmp_path: Path) -> None:
    torch.save({"state_dict": {"bias": torch.zeros(2)}}, tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match=r"bare\.pth carries no config .*--config"):
        config_of(tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="missing"):
        config_of(tmp_path / "missing.pth")
