"""The engine on a GPU: float16 with its scaler, memory in the log, votes, resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from fakes import make_config
from runs import Recorder, interrupt, run
from test_train_graphed import PTV3

from pointcept.engines.test import build_tester
from pointcept.models import MODELS
from pointcept.utils.errors import ConfigError, MemoryShortage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def on_the_gpu(on_the_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTCEPT_DEVICE", "cuda")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_training_testing_and_resume(tmp_path: Path, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"enable_amp": True, "amp_dtype": dtype, "clip_grad": 1.0, "num_worker": 2, "empty_cache": True}
    with caplog.at_level("INFO", logger="pointcept"):
        trainer, whole = run(make_config(tmp_path / "a", **changes))
    assert trainer.scaler.is_enabled() == (dtype == "float16")
    assert next(trainer.network.parameters()).is_cuda
    assert all(math.isfinite(loss) for loss in whole.losses.values())
    assert " mem " in caplog.text
    with pytest.raises(KeyboardInterrupt):
        run(make_config(tmp_path / "b", **changes), Recorder(6, interrupt))
    _, rest = run(make_config(tmp_path / "b", resume=True, **changes))
    assert rest.losses == pytest.approx({i: loss for i, loss in whole.losses.items() if i > 6}, rel=1e-3)
    weight = str(tmp_path / "a" / "model" / "model_last.pth")
    metrics = build_tester(make_config(tmp_path / "a", weight=weight, batch_size_test=4, **changes)).test()
    assert metrics is not None
    assert metrics.num_scans == 8


@MODELS.register_module("Hungry")
class Hungry(fakes.FakeModel):
    """Asks for more memory than any GPU has, in its third call."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = super().forward(batch)
        if self.training and self.calls == 3:
            torch.empty(2**46, device=batch["feat"].device)
        return result


def test_lack_of_memory_is_named_or_left_out(tmp_path: Path) -> None:
    model = {"type": "Hungry"}
    words = r"^out of memory for iteration 3: scan\d \(4\d voxels\), .*CUDA out of memory"
    with pytest.raises(MemoryShortage, match=words):
        run(make_config(tmp_path / "a", model=model, mix_prob=0))
    trainer, recorder = run(make_config(tmp_path / "b", model=model, skip_out_of_memory=1, cuda_graphs=False))
    assert trainer.incidents.skipped["out_of_memory"] == 1
    assert [i for i, loss in recorder.losses.items() if math.isnan(loss)] == [3]
    with pytest.raises(ConfigError, match="skip_out_of_memory: allowed with cuda_graphs=False"):
        run(make_config(tmp_path / "c", model=model, skip_out_of_memory=1))


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("value", [1e30, math.inf])
def test_a_poisoned_scan_is_named_or_left_out(tmp_path: Path, graphs: bool, value: float) -> None:
    def config(folder: Path, **changes: Any) -> Any:
        cfg = make_config(folder, model=PTV3, mix_prob=0, evaluate=False, cuda_graphs=graphs, **changes)
        cfg.data.train = {"type": "PoisonedScans", "value": value}
        return cfg

    with pytest.raises(FloatingPointError, match=r"scan5 \(45 voxels, features up to"):
        run(config(tmp_path / "a"))
    trainer, recorder = run(config(tmp_path / "b", skip_nonfinite=1))
    assert trainer.incidents.skipped["nonfinite"] == 1
    assert sum(math.isnan(loss) for loss in recorder.losses.values()) == 1
    assert all(tensor.isfinite().all() for tensor in trainer.network.state_dict().values())
