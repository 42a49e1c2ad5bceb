"""Predicting scan files: where results go, what they hold, and what is said about mistakes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes  # noqa: F401  registers the fake model
import numpy as np
import pytest
import torch

from pointcept.datasets import SemanticKITTIDataset, WaymoDataset
from pointcept.engines import predict
from pointcept.engines.predict import argument_parser, check_format, output_paths, predict_main
from pointcept.models import MODELS
from pointcept.utils.errors import CheckpointError, ConfigError, DataError

CONFIG = """
weight = {weight!r}
num_worker = {workers}
model = dict(type="FakeModel")
data = dict(
    test=dict(
        type="SemanticKITTIDataset",
        split="val",
        data_root="/nowhere",
        test_mode=True,
        nonfinite="drop",
        transform=[
            dict(type="Copy", keys_dict=dict(segment="origin_segment")),
            dict(type="GridSample", grid_size=0.1, mode="train", return_inverse=True),
        ],
        test_cfg=dict(
            voxelize=dict(type="GridSample", grid_size=0.5, mode="test", return_grid_coord=True),
            post_transform=[
                dict(type="ToTensor"),
                dict(type="Collect", keys=("coord", "grid_coord", "index"), feat_keys=("coord",)),
            ],
            aug_transform=[[], [dict(type="RandomFlip", p=1)]],
        ),
    ),
)
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    torch.manual_seed(3)
    weight = tmp_path / "weight.pth"
    torch.save({"state_dict": MODELS.build({"type": "FakeModel"}).state_dict()}, weight)
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(weight=str(weight), workers=0))
    return str(path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with three scans of 100, 200 and 300 points in two sequences."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("10/velodyne/0", "10/velodyne/1.x", "11/velodyne/0"), start=1):
        path = tmp_path / "scans" / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        points = rng.uniform(-1, 1, (100 * number, 4)).astype(np.float32)
        points[:, 3] = rng.random(100 * number)
        points.tofile(path)
    return tmp_path / "scans"


def arguments(config: str, scan: Path, out: Path, *more: str) -> argparse.Namespace:
    return argument_parser().parse_args(["--config", config, "--scan", str(scan), "--out", str(out), *more])


def read(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else np.fromfile(path, np.uint32)


def test_a_file(config: str, scans: Path, tmp_path: Path) -> None:
    scan = scans / "10" / "velodyne" / "1.x.bin"
    predict_main(arguments(config, scan, tmp_path / "a.npy"))
    predict_main(arguments(config, scan, tmp_path / "a.label"))
    classes = read(tmp_path / "a.npy")
    assert (classes.dtype, classes.shape) == (np.int16, (200,))
    assert set(classes.tolist()) <= {0, 1, 2}
    assert len(set(classes.tolist())) > 1
    np.testing.assert_array_equal(read(tmp_path / "a.label"), np.array([10, 11, 15])[classes])
    near = np.fromfile(scan, np.float32).reshape(-1, 4)[:, :3]
    voxel = np.floor(near / np.float64(0.1))
    same = (voxel[:, None] == voxel[None]).all(-1)
    assert (classes[:, None] == classes[None])[same].all(), "points of one voxel share their class"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_keeps_its_shape(config: str, scans: Path, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "out"
    predict_main(arguments(config, scans, out, "--suffix", ".label", "--options", f"num_worker={workers}"))
    written = {path.relative_to(out).as_posix(): len(read(path)) for path in out.rglob("*") if path.is_file()}
    assert written == {"10/velodyne/0.label": 100, "10/velodyne/1.x.label": 200, "11/velodyne/0.label": 300}
    for name, size in (("10/velodyne/0", 100), ("11/velodyne/0", 300)):
        predict_main(arguments(config, scans / f"{name}.bin", tmp_path / "one.label"))
        assert read(tmp_path / "one.label").tolist() == read(out / f"{name}.label").tolist()
        assert len(read(tmp_path / "one.label")) == size


def test_points_that_are_not_finite_have_no_class(config: str, scans: Path, tmp_path: Path) -> None:
    scan = scans / "10" / "velodyne" / "0.bin"
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    points[[5, 50], 1] = np.nan
    points.tofile(scan)
    predict_main(arguments(config, scan, tmp_path / "a.npy"))
    classes = read(tmp_path / "a.npy")
    assert len(classes) == 100
    assert np.flatnonzero(classes < 0).tolist() == [5, 50]


def test_quick_is_one_view(config: str, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real: Callable[..., Any] = predict.predict_scan

    def counted(*given: Any) -> Any:
        found = real(*given)
        passes.append(found.passes)
        return found

    monkeypatch.setattr(predict, "predict_scan", counted)
    scan = scans / "10" / "velodyne" / "0.bin"
    predict_main(arguments(config, scan, tmp_path / "a.npy"))
    predict_main(arguments(config, scan, tmp_path / "a.npy", "--quick"))
    assert passes[0] == pytest.approx(2 * passes[1])


def test_mistakes(config: str, scans: Path, tmp_path: Path) -> None:
    scan = scans / "10" / "velodyne" / "0.bin"
    for given, error, message in (
        ((tmp_path / "gone.bin", tmp_path / "a.npy"), DataError, "there is no scan file or folder .*gone"),
        ((scan, tmp_path), ConfigError, "for one scan name a file"),
        ((scan, tmp_path / "out"), ConfigError, "for one scan name a file"),
        ((scan, tmp_path / "a.txt"), ConfigError, r"written as \.npy or \.label, got '\.txt'"),
        ((scan, tmp_path / "a.bin"), ConfigError, r"written as \.npy or \.label, got '\.bin'"),
        ((scans, tmp_path / "a.npy"), ConfigError, "is a folder of 3 scans, so name a folder"),
        ((scans, Path(config)), ConfigError, "so name a folder"),
        ((scans, tmp_path / "o", "--suffix", ".bin"), ConfigError, "got '.bin'"),
        ((scan, tmp_path / "a.npy", "--options", "weight=None"), ConfigError, "needs weights"),
        ((scan, tmp_path / "a.npy", "--options", "weight=/gone.pth"), CheckpointError, "does not exist"),
        ((scan, tmp_path / "a.npy", "--options", "data.test.test_mode=False"), ConfigError, "test_mode=True"),
    ):
        with pytest.raises(error, match=message):
            predict_main(arguments(config, *given))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.npy"))


def test_a_broken_scan_is_named(config: str, scans: Path, tmp_path: Path) -> None:
    scan = scans / "11" / "velodyne" / "0.bin"
    scan.write_bytes(scan.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"11/velodyne/0\.bin has 4797 bytes"):
        predict_main(arguments(config, scans, tmp_path / "out"))
    assert (tmp_path / "out" / "10" / "velodyne" / "0.npy").is_file(), "those before it are kept"


def test_scores_that_are_not_finite_get_no_file(
    config: str, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_and_spoil(model: Any, path: Any) -> None:
        forward = model.forward

        def spoiled(batch: dict[str, Any]) -> dict[str, Any]:
            result: dict[str, Any] = forward(batch)
            if batch["feat"].shape[0] and float(batch["feat"].max()) > 5:
                result["seg_logits"][0, 2] = float("nan")
            return result

        monkeypatch.setattr(model, "forward", spoiled)

    scan = scans / "10" / "velodyne" / "1.x.bin"
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    points[3, 0] = 6.0
    points.tofile(scan)
    monkeypatch.setattr(predict, "load_weights", load_and_spoil)
    words = r"1\.x\.bin: \d+ of \d+ points have scores that are NaN or infinite from FakeModel \(.*weight\.pth\)"
    with pytest.raises(FloatingPointError, match=words):
        predict_main(arguments(config, scans, tmp_path / "out"))
    left = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == ["10/velodyne/0.npy"], "those before it are kept"


def test_a_full_disk(config: str, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*a\.npy: .*No space left on device"):
        predict_main(arguments(config, scans / "10" / "velodyne" / "0.bin", tmp_path / "a.npy"))
    assert not list(tmp_path.glob("*a.npy*"))


def test_waymo_frames_are_folders_and_have_no_own_format(tmp_path: Path) -> None:
    frames = [tmp_path / "seg" / "100", tmp_path / "seg" / "200"]
    for given in (frames[0], frames[0] / "coord.npy"):
        assert output_paths(given, frames[:1], Path("a.npy"), ".npy", "coord.npy") == [Path("a.npy")]
    below = output_paths(tmp_path, frames, Path("out"), ".npy", "coord.npy")
    assert below == [Path("out/seg/100.npy"), Path("out/seg/200.npy")]
    check_format(WaymoDataset, Path("a.npy"))
    with pytest.raises(ConfigError, match=r"WaymoDataset are written as \.npy, got '\.label'"):
        check_format(WaymoDataset, Path("a.label"))
    check_format(SemanticKITTIDataset, Path("a.label"))
