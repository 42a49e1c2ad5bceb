"""From points to voxels without torch, as the inference engine does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointcept.datasets import NuScenesDataset, SemanticKITTIDataset
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.export.facts import _columns
from pointcept_runtime.card import Card
from pointcept_runtime.errors import ScanError
from pointcept_runtime.scans import find_scans, output_paths, read_scan, write_labels
from pointcept_runtime.voxels import voxelize

from .conftest import street


@pytest.mark.parametrize("clip", [None, (-3.0, -4.0, 0.0, 3.0, 4.0, 2.0)])
@pytest.mark.parametrize("features", [("coord", "strength"), ("strength",)])
def test_voxels_are_those_of_the_engine(card: Card, clip: tuple[float, ...] | None, features: tuple[str, ...]) -> None:
    card = replace(card, clip=clip, features=features, grid_size=(0.05, 0.1, 0.2))
    preprocessing = Preprocessing(card.grid_size, features, clip, card.strength_range)
    for points in (street(4000), street(1), street(900).astype(np.float64) + np.array([2e4, 0, 0, 0])):
        expected, found = preprocessing(torch.from_numpy(points)), voxelize(points, card)
        np.testing.assert_array_equal(found.grid, expected.grid_coord)
        np.testing.assert_array_equal(found.feat, expected.feat)
        np.testing.assert_array_equal(found.inverse, expected.inverse)
        assert found.feat.dtype == np.float32


def changed(row: int, column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(points: np.ndarray) -> np.ndarray:
        points = points.copy()
        points[row, column] = value
        return points

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p[:0], r"N > 0; got \(0, 4\)"),
        (lambda p: p[:, :3], r"got \(100, 3\)"),
        (lambda p: p.astype(np.float16), "float16"),
        (lambda p: [[1, 2], [3]], "rows that do not fit"),
        (changed(7, 1, np.nan), "1 of 100 points have values that are not finite"),
        (changed(7, 3, np.inf), "1 of 100 points have values that are not finite"),
        (changed(7, 3, 200.0), "strength of the points goes from .* to 200, expected 0 to 1"),
        (changed(7, 0, 1e6), "voxels of .* at most 65535"),
        (lambda p: p + np.float32([4e7, 0, 0, 0]), "float32 resolves"),
    ],
)
def test_scans_that_cannot_be_labelled(card: Card, spoil: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    with pytest.raises(ScanError, match=words):
        voxelize(spoil(street(100)), card)


def test_scan_files_as_the_data_sets_read_them(card: Card, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).random((50, 5), np.float32)
    raw.tofile(tmp_path / "scan.pcd.bin")
    nuscenes = replace(card, scan_columns=5, strength_divisor=255.0)
    sample, _ = NuScenesDataset.read_scan(tmp_path / "scan.pcd.bin")
    expected = np.concatenate([sample["coord"], sample["strength"]], 1)
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.pcd.bin", nuscenes), expected)
    assert _columns(NuScenesDataset) == (5, 255.0)
    assert _columns(SemanticKITTIDataset) == (4, 1.0)
    np.save(tmp_path / "scan.npy", expected)
    np.testing.assert_array_equal(read_scan(tmp_path / "scan.npy", card), expected)
    frame = tmp_path / "frame"
    frame.mkdir()
    np.save(frame / "coord.npy", expected[:, :3])
    np.save(frame / "strength.npy", expected[:, 3:])
    np.testing.assert_array_equal(read_scan(frame, replace(card, scan_columns=None)), expected)
    assert find_scans(tmp_path) == [frame, tmp_path / "scan.npy", tmp_path / "scan.pcd.bin"]
    targets = output_paths(tmp_path, find_scans(tmp_path), tmp_path / "out", ".label")
    assert [path.name for path in targets] == ["frame.label", "scan.label", "scan.label"]


def test_scan_files_that_are_none(card: Card, tmp_path: Path) -> None:
    (tmp_path / "short.bin").write_bytes(bytes(17))
    (tmp_path / "empty.bin").write_bytes(b"")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
    for name, words in {
        "short.bin": "17 bytes, expected a multiple of 16",
        "empty.bin": "0 bytes",
        "missing.bin": "cannot read",
        "text.npy": "cannot read",
        "object.npy": "allow_pickle",
        "flat.npy": r"\(4,\), expected floats \(N, 4\)",
    }.items():
        with pytest.raises(ScanError, match=words):
            read_scan(tmp_path / name, card)
    with pytest.raises(ScanError, match=r"coord\.npy"):
        read_scan(tmp_path / "short.bin", replace(card, scan_columns=None))


def test_labels_in_the_formats_of_the_benchmark(card: Card, tmp_path: Path) -> None:
    labels = np.array([0, 18, 3])
    write_labels(tmp_path / "a.npy", labels, card)
    assert np.load(tmp_path / "a.npy").tolist() == [0, 18, 3]
    write_labels(tmp_path / "new" / "a.label", labels, card)
    expected = SemanticKITTIDataset.encode_prediction(labels)
    assert (tmp_path / "new" / "a.label").read_bytes() == expected.tobytes()
    assert sorted(path.name for path in tmp_path.rglob("a.*")) == ["a.label", "a.npy"], "no temporary file stays"
    with pytest.raises(ScanError, match=r"\.npy or \.label, got '\.txt'"):
        write_labels(tmp_path / "a.txt", labels, card)
