"""From a checkpoint to labels on a machine without torch."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets import SemanticKITTIDataset
from pointcept.engines.deploy import InferenceEngine
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.export import command
from pointcept.utils.config import Config
from pointcept.utils.errors import CheckpointError, ConfigError, DataError
from pointcept.utils.logging import close_logging
from pointcept_runtime import ScanError, load
from pointcept_runtime.card import CARD
from tests.paths import REPO

from .conftest import fill, save_weights, small_config, street

for package in ("onnx", "onnxruntime", "safetensors"):
    pytest.importorskip(package)


class Exported:
    """A folder, and the plain network that it was made of."""

    def __init__(self, root: Path, kind: str) -> None:
        self.cfg: Config = small_config(root, kind)
        torch.manual_seed(3)
        self.model = fill(command.build_inference_model(self.cfg.model))
        self.weight = save_weights(self.cfg, self.model, root / "model.pth")
        self.folder = root / "student"
        self.scan = root / "scan.bin"
        street(3000).tofile(self.scan)
        run("--weight", self.weight, "--out", self.folder, "--check", self.scan)

    def expected(self, points: np.ndarray) -> np.ndarray:
        return InferenceEngine(self.model, "float32", Preprocessing.of_config(self.cfg)).predict(points).numpy()


def run(*arguments: Any) -> None:
    try:
        command.main(command.argument_parser().parse_args([str(argument) for argument in arguments]))
    finally:
        close_logging()


@pytest.fixture(scope="module", params=["ptv3", "spunet"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp(request.param), request.param)


WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "pointcept", "pointops"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
from pointcept_runtime.command import run
sys.argv = ["pointcept-runtime", *sys.argv[1:]]
run()
"""


def without_torch(folder: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    paths = [str(REPO / "libs" / "pointcept_runtime"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        cwd=folder.parent,
        timeout=120,
    )


def test_a_machine_without_torch(exported: Exported, tmp_path: Path) -> None:
    labels = tmp_path / "a.label"
    done = without_torch(exported.folder, "--scan", exported.scan, "--out", labels)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 files as the card says" in done.stdout
    points = np.fromfile(exported.scan, np.float32).reshape(-1, 4)
    classes = exported.expected(points)
    assert len({*classes.tolist()}) > 3
    assert labels.read_bytes() == SemanticKITTIDataset.encode_prediction(classes).tobytes()
    points[:2, 0] = np.nan
    points.tofile(tmp_path / "nan.bin")
    done = without_torch(exported.folder, "--scan", tmp_path / "nan.bin", "--out", tmp_path / "b.label")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'nan.bin'}: 2 of 3000 points have values that are not finite: " + (
        "leave them out\n"
    )
    assert not (tmp_path / "b.label").exists()


def test_what_the_folder_holds(exported: Exported) -> None:
    from safetensors.torch import load_file

    assert sorted(path.name for path in exported.folder.iterdir()) == [CARD, "model.onnx", "weights.safetensors"]
    state = load_file(exported.folder / "weights.safetensors")
    assert {key: value.tolist() for key, value in state.items()} == {
        key: value.tolist() for key, value in exported.model.state_dict().items()
    }
    card = json.loads((exported.folder / CARD).read_text())
    assert card["training"]["iteration"] == 9
    assert card["network"]["parameters"] == sum(p.numel() for p in exported.model.parameters())
    assert card["scan"]["columns"] == 4
    assert [entry["raw"] for entry in card["classes"][:2]] == [10, 11]


def test_two_threads_and_twenty_scans_in_a_row(exported: Exported) -> None:
    student = load(exported.folder, threads=1)
    scans = [street(200 + 90 * i, seed=i) for i in range(20)]
    expected = [student.label(scan).tolist() for scan in scans]
    found: dict[tuple[int, int], list[int]] = {}

    def work(number: int) -> None:
        for i, scan in list(enumerate(scans))[:: 1 if number else -1]:
            found[number, i] = student.label(scan).tolist()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(number, i): labels for number in range(2) for i, labels in enumerate(expected)}


def test_how_long_it_takes_and_what_memory(exported: Exported) -> None:
    done = without_torch(exported.folder, "--scan", exported.scan, "--repeat", 8, "--parallel", 2, "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 scans of 3000 to 3000 points, 2 at a time: median" in done.stdout
    assert "memory: " in done.stdout
    done = without_torch(exported.folder, "--scan", exported.scan, "--repeat", 0)
    assert (done.returncode, done.stderr) == (2, "error: --repeat 0 --parallel 1: expected at least 1\n")


def test_scans_without_a_point_and_with_one(exported: Exported) -> None:
    student = load(exported.folder)
    with pytest.raises(ScanError, match="N > 0"):
        student.label(np.zeros((0, 4), np.float32))
    one = street(1)
    assert student.label(one).tolist() == exported.expected(one).tolist()
    with pytest.raises(ScanError, match=r"features must be \(2, 4\)"):
        student.logits(np.array([[0, 0, 0], [0, 0, 1]]), np.zeros((2, 3), np.float32))


def test_a_program_of_another_network(exported: Exported, tmp_path: Path) -> None:
    from pointcept_runtime import ExportError

    content = json.loads((exported.folder / CARD).read_text())
    content["classes"].pop()
    for path in exported.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / CARD).write_text(json.dumps(content))
    with pytest.raises(ExportError, match="is not what the card says"):
        load(tmp_path)


def test_what_cannot_be_exported(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="exists: name a folder"):
        run("--weight", exported.weight, "--out", exported.folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        run("--weight", tmp_path / "missing.pth", "--out", tmp_path / "out")
    bare = tmp_path / "bare.pth"
    torch.save({"state_dict": exported.model.state_dict()}, bare)
    with pytest.raises(ConfigError, match="carries no config"):
        run("--weight", bare, "--out", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install \"pointcept\[export\]\""):
        run("--weight", exported.weight, "--out", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.pth"], "nothing half written stays"


def test_labels_that_differ_are_refused(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real: Callable[..., np.ndarray] = command.plain_scores
    with caplog.at_level(logging.INFO):
        command.check(exported.model, exported.folder, exported.scan)
    assert "labels equal, 0 others near ties" in caplog.text
    monkeypatch.setattr(command, "plain_scores", lambda *arguments: real(*arguments)[:, ::-1])
    with pytest.raises(DataError, match=r"scan\.bin, model\.onnx: .* labels equal"):
        command.check(exported.model, exported.folder, exported.scan)
