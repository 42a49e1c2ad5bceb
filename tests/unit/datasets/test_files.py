"""Scan files outside a data set tree: finding, reading, and the formats of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pointcept.datasets import BaseDataset, NuScenesDataset, SemanticKITTIDataset, WaymoDataset
from pointcept.datasets.files import ScanFiles
from pointcept.utils.errors import DataError

POST = [{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "index"), "feat_keys": ("coord", "strength")}]
TEST_CFG = {"voxelize": None, "post_transform": POST}


def kitti_file(path: Path, n: int = 50, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).uniform(0, 1, (n, 4)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    points.tofile(path)
    return points


def nuscenes_file(path: Path, n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(1)
    points = np.c_[rng.uniform(-30, 30, (n, 3)), rng.integers(0, 256, n), np.arange(n) % 32].astype(np.float32)
    points.tofile(path)
    return points


def waymo_frame(folder: Path, n: int = 30) -> np.ndarray:
    rng = np.random.default_rng(2)
    coord, strength = rng.normal(size=(n, 3)).astype(np.float32), rng.random((n, 1), np.float32)
    folder.mkdir(parents=True)
    np.save(folder / "coord.npy", coord)
    np.save(folder / "strength.npy", strength)
    return np.c_[coord, strength]


def scans(reader: type[BaseDataset], files: list[Path], **arguments: str) -> ScanFiles:
    return ScanFiles(reader, files, [], TEST_CFG, **arguments)


def test_each_format_is_read_as_in_its_data_set(tmp_path: Path) -> None:
    kitti = kitti_file(tmp_path / "a.bin")
    nuscenes = nuscenes_file(tmp_path / "b.pcd.bin")
    nuscenes = nuscenes[:, :4] / np.array([1, 1, 1, 255], np.float32)
    waymo = waymo_frame(tmp_path / "seg" / "123")
    for reader, path, points in (
        (SemanticKITTIDataset, tmp_path / "a.bin", kitti),
        (NuScenesDataset, tmp_path / "b.pcd.bin", nuscenes),
        (WaymoDataset, tmp_path / "seg" / "123", waymo),
    ):
        data = scans(reader, [path])
        assert (len(data), data.num_classes, data.get_data_name(0)) == (1, len(reader.names), path.name)
        sample = data[0]
        assert sample["name"] == path.name
        assert sample["num_points"] == len(points)
        assert "segment" not in sample
        np.testing.assert_array_equal(sample["fragment_list"][0]["feat"], points)


def test_find_scans(tmp_path: Path) -> None:
    for name in ("10/velodyne/000001", "10/velodyne/000000", "11/velodyne/000000"):
        kitti_file(tmp_path / f"{name}.bin")
    found = SemanticKITTIDataset.find_scans(tmp_path)
    names = [p.relative_to(tmp_path).as_posix() for p in found]
    assert names == ["10/velodyne/000000.bin", "10/velodyne/000001.bin", "11/velodyne/000000.bin"]
    assert SemanticKITTIDataset.find_scans(found[0]) == [found[0]]
    with pytest.raises(DataError, match=r"holds no scans: NuScenesDataset reads files named \*\.pcd\.bin"):
        NuScenesDataset.find_scans(tmp_path)
    with pytest.raises(DataError, match="there is no scan file or folder"):
        SemanticKITTIDataset.find_scans(tmp_path / "nothing")


def test_a_frame_of_waymo_is_a_folder(tmp_path: Path) -> None:
    for name in ("seg1/100", "seg1/200", "seg2/100"):
        waymo_frame(tmp_path / name)
    frames = WaymoDataset.find_scans(tmp_path)
    assert frames == [tmp_path / "seg1/100", tmp_path / "seg1/200", tmp_path / "seg2/100"]
    assert WaymoDataset.find_scans(frames[0]) == WaymoDataset.find_scans(frames[0] / "coord.npy") == [frames[0]]


def test_a_scan_of_another_sensor_is_refused(tmp_path: Path) -> None:
    nuscenes_file(tmp_path / "a.bin")  # 40 points of 20 bytes are 50 of 16
    with pytest.raises(DataError, match=r"a\.bin: read as a scan of SemanticKITTIDataset its strength goes from"):
        scans(SemanticKITTIDataset, [tmp_path / "a.bin"])[0]
    kitti_file(tmp_path / "b.pcd.bin", 51)
    with pytest.raises(DataError, match=r"b\.pcd\.bin has 816 bytes, which is no multiple of 20"):
        scans(NuScenesDataset, [tmp_path / "b.pcd.bin"])[0]


def test_points_that_are_not_finite(tmp_path: Path) -> None:
    points = kitti_file(tmp_path / "a.bin")
    points[[3, 7], [0, 2]] = np.nan, np.inf
    points.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=r"2 of 50 points of .*a\.bin have NaN"):
        scans(SemanticKITTIDataset, [tmp_path / "a.bin"])[0]
    data = scans(SemanticKITTIDataset, [tmp_path / "a.bin"], nonfinite="drop")
    assert data[0]["num_points"] == 48
    classes = data.full_prediction(0, np.arange(48) % 19)
    assert classes[[3, 7]].tolist() == [-1, -1]
    np.testing.assert_array_equal(np.delete(classes, [3, 7]), np.arange(48) % 19)


def test_prediction_files() -> None:
    classes = np.array([0, -1, 18, 18])
    kitti = SemanticKITTIDataset.encode_prediction(classes)
    assert kitti.dtype == np.uint32
    assert kitti.tolist() == [10, 0, 81, 81]
    nuscenes = NuScenesDataset.encode_prediction(np.array([0, -1, 15, 15]))
    assert nuscenes.dtype == np.uint8
    assert nuscenes.tolist() == [1, 16, 16, 16], "the format knows no unlabelled points"
    assert (SemanticKITTIDataset.PREDICTION_SUFFIX, NuScenesDataset.PREDICTION_SUFFIX) == (".label", ".bin")
    assert WaymoDataset.PREDICTION_SUFFIX is None
    with pytest.raises(NotImplementedError, match="WaymoDataset has no format"):
        WaymoDataset.encode_prediction(classes)


def test_coordinates_of_a_map(tmp_path: Path) -> None:
    points = kitti_file(tmp_path / "a.bin")
    points[:, 1] += 5_412_345
    points.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=r"5412[0-9]+ m or more from the origin along an axis, where float32 resolves"):
        scans(SemanticKITTIDataset, [tmp_path / "a.bin"])[0]


def test_predictions_of_crowded_voxels_lead_back_to_every_point(tmp_path: Path) -> None:
    points = kitti_file(tmp_path / "a.bin")
    zeros = np.zeros((1000, 4), np.float32)
    np.concatenate([points, zeros]).tofile(tmp_path / "a.bin")
    cfg = {**TEST_CFG, "voxelize": {"type": "GridSample", "grid_size": 0.05, "mode": "test"}}
    data = ScanFiles(SemanticKITTIDataset, [tmp_path / "a.bin"], [], cfg)
    sample = data[0]
    assert len(sample["fragment_list"]) < 10
    assert sample["num_points"] < len(points) + 10
    pred = data.full_prediction(0, np.arange(sample["num_points"])[sample["inverse"]])
    assert len(pred) == len(points) + 1000
