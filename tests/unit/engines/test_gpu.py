"""The engine on a GPU: float16 with its scaler, memory in the log, votes, resume."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fakes import make_config
from runs import Recorder, interrupt, run

from pointcept.engines.test import build_tester

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
