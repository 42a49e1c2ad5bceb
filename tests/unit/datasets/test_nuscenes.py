"""NuScenesDataset: info files as Pointcept writes them, labels, sweeps, submission, and what is said about faults."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointcept.datasets.builder import build_dataset
from pointcept.datasets.nuscenes import NuScenesDataset, label_table
from pointcept.datasets.transform.points import select_points
from pointcept.utils.errors import ConfigError, DataError

POINTS = 50
ON_CAR = 4
SHIFT = np.array([1.0, -2.0, 0.5])
# Class per raw id as the paper gives it; absent ids are ignored.
RAW_TO_CLASS = {9: 0, 14: 1, 15: 2, 16: 2, 17: 3, 18: 4, 21: 5, 2: 6, 3: 6, 4: 6, 6: 6, 12: 7, 22: 8, 23: 9, 24: 10}
RAW_TO_CLASS |= {25: 11, 26: 12, 27: 13, 28: 14, 30: 15}


def pointcept_infos(split: str, frames: int = 3) -> list[dict[str, Any]]:
    """Infos with the keys and habits of Pointcept's own preprocessing."""
    infos = []
    for frame in range(frames):
        first = {
            "lidar_path": f"samples/LIDAR_TOP/{split}0.pcd.bin",
            "sample_data_token": f"{split}0",
            "transform_matrix": None,  # no scan before this one: it is repeated
            "time_lag": 0,
        }
        shift = np.eye(4)
        shift[:3, 3] = SHIFT
        others = [
            {
                "lidar_path": f"samples/LIDAR_TOP/{split}{before}.pcd.bin",
                "sample_data_token": f"{split}{before}",
                "transform_matrix": shift * 1.0,
                "global_from_car": np.eye(4),
                "car_from_current": np.eye(4),
                "time_lag": 0.05 * (frame - before),
            }
            for before in range(frame - 1, -1, -1)
        ]
        sweeps = (others or [first])[:9]
        info = {
            "lidar_path": f"samples/LIDAR_TOP/{split}{frame}.pcd.bin",
            "lidar_token": f"{split}{frame}",
            "cam_front_path": "samples/CAM_FRONT/x.jpg",
            "cam_intrinsic": np.eye(3),
            "token": f"sample{frame}",
            "sweeps": sweeps + [sweeps[-1]] * (9 - len(sweeps)),
            "ref_from_car": np.eye(4),
            "car_from_global": np.eye(4),
            "timestamp": 1.5e9 + frame,
        }
        if split != "test":
            info["gt_boxes"] = np.zeros((0, 9))
            info["gt_names"] = np.array(["car", "ignore"])
            info["gt_segment_path"] = f"lidarseg/v1.0-trainval/{split}{frame}_lidarseg.bin"
        infos.append(info)
    return infos


def write_infos(root: Path, split: str, infos: Any) -> None:
    (root / "info").mkdir(exist_ok=True)
    (root / "info" / f"nuscenes_infos_10sweeps_{split}.pkl").write_bytes(pickle.dumps(infos))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    (tmp_path / "raw/samples/LIDAR_TOP").mkdir(parents=True)
    (tmp_path / "raw/lidarseg/v1.0-trainval").mkdir(parents=True)
    for split in ("train", "val", "test"):
        infos = pointcept_infos(split)
        write_infos(tmp_path, split, infos)
        for info in infos:
            points = rng.uniform((-20, -20, -20, 0, 0), (20, 20, 20, 255, 31), (POINTS, 5)).astype(np.float32)
            points[:, 3] = rng.integers(0, 256, POINTS)
            points[:ON_CAR, :2] = rng.uniform(-0.99, 0.99, (ON_CAR, 2))
            points[ON_CAR : ON_CAR + 2, :2] = (1, 0), (0.5, -1)  # the border is kept
            points.tofile(tmp_path / "raw" / info["lidar_path"])
            if split != "test":
                rng.integers(0, 32, POINTS).astype(np.uint8).tofile(tmp_path / "raw" / info["gt_segment_path"])
    return tmp_path


def raw_points(root: Path, name: str) -> np.ndarray:
    return np.fromfile(root / "raw" / "samples" / "LIDAR_TOP" / f"{name}.pcd.bin", np.float32).reshape(-1, 5)


def raw_labels(root: Path, name: str) -> np.ndarray:
    return np.fromfile(root / "raw" / "lidarseg" / "v1.0-trainval" / f"{name}_lidarseg.bin", np.uint8)


def test_label_table() -> None:
    table = label_table(-7)
    for raw in range(32):
        assert table[raw] == RAW_TO_CLASS.get(raw, -7)
    assert len(NuScenesDataset.names) == 16
    assert NuScenesDataset.names[3] == "car"


def test_a_class_map_in_the_config_has_to_be_the_one_of_the_data_set(root: Path) -> None:
    assert len(NuScenesDataset("train", root, learning_map={0: -1, 9: 0, 16: 2})) > 0
    with pytest.raises(ConfigError, match="has 1 for the raw label 16, which is class 2 in"):
        NuScenesDataset("train", root, learning_map={16: 1})


def test_reads_the_files_of_pointcept(root: Path) -> None:
    cfg = {
        "type": "NuScenesDataset",
        "split": ["train", "val"],
        "data_root": str(root),
        "test_mode": False,
        "ignore_index": -1,
    }
    data = build_dataset(cfg)
    assert len(data) == 6
    assert data.num_classes == 16
    assert [data.get_data_name(i) for i in (0, 5)] == ["train0", "val2"]
    sample = data.get_data(4)
    points = raw_points(root, "val1")
    assert sample["name"] == "val1"
    assert set(sample) == {"coord", "strength", "segment", "name"}
    assert sample["coord"].dtype == sample["strength"].dtype == np.float32
    np.testing.assert_array_equal(sample["coord"], points[:, :3])
    np.testing.assert_allclose(sample["strength"], points[:, 3:4] / 255, rtol=1e-6)
    expected = [RAW_TO_CLASS.get(raw, -1) for raw in raw_labels(root, "val1").tolist()]
    assert sample["segment"].dtype == np.int64
    assert sample["segment"].tolist() == expected


def test_labels_that_are_not_read(root: Path) -> None:
    for file in root.rglob("*_lidarseg.bin"):
        file.unlink()
    data = NuScenesDataset(split="train", data_root=root, unlabelled=True, input_sweeps=3)
    sample = data[0]
    assert len(sample["segment"]) == len(sample["coord"])
    assert (sample["segment"] == -1).all()


def test_test_split_has_no_labels(root: Path) -> None:
    assert set(NuScenesDataset("test", root).get_data(0)) == {"coord", "strength", "name"}


def test_infos_without_sweeps_serve_key_frames_alone(root: Path) -> None:
    infos = pointcept_infos("train")
    for info in infos:
        del info["sweeps"]
    write_infos(root, "train", infos)
    data = NuScenesDataset("train", root)
    assert [len(data.get_data(i)["coord"]) for i in range(3)] == [POINTS] * 3
    with pytest.raises(DataError, match=r"entry 0 is malformed: KeyError\('sweeps'\)"):
        NuScenesDataset("train", root, input_sweeps=2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sweeps(root: Path, split: str) -> None:
    data = NuScenesDataset(split, root, input_sweeps=3)
    sample = data.get_data(2)
    parts = [raw_points(root, f"{split}{number}") for number in (2, 1, 0)]
    # The own car goes in the frame of the sensor, 5 m behind the key frame's; the key frame keeps it, it has labels.
    parts[1:] = [p[~((abs(p[:, 0]) < 1) & (abs(p[:, 1]) < 1))] for p in parts[1:]]
    sizes = [len(part) for part in parts]
    assert sizes[0] == POINTS
    assert max(sizes[1:]) <= POINTS - ON_CAR
    assert sample["coord"].shape == (sum(sizes), 3)
    assert sample["time"].shape == (sum(sizes), 1)
    ends = np.cumsum([0, *sizes])
    for number, points in enumerate(parts):
        part = slice(*ends[number : number + 2])
        np.testing.assert_allclose(sample["coord"][part], points[:, :3] + (SHIFT if number else 0), atol=1e-5)
        np.testing.assert_allclose(sample["strength"][part], points[:, 3:4] / 255, rtol=1e-6)
        np.testing.assert_allclose(sample["time"][part], 0.05 * number, atol=1e-6)
    if split == "train":
        assert (sample["segment"][POINTS:] == -1).all()
        np.testing.assert_array_equal(sample["segment"][:POINTS], NuScenesDataset(split, root).get_data(2)["segment"])
    # A repeated sweep brings nothing new, so the start of a scene is the key frame alone.
    assert [len(data.get_data(i)["coord"]) for i in range(3)] == [POINTS, POINTS + sizes[2], sum(sizes)]
    assert len(select_points(sample, np.arange(5))["time"]) == 5


def test_a_sweep_of_the_own_car_alone(root: Path) -> None:
    path = root / "raw/samples/LIDAR_TOP/train1.pcd.bin"
    points = raw_points(root, "train1")
    points[:, :2] = 0.5
    points.tofile(path)
    data = NuScenesDataset("train", root, input_sweeps=2)
    assert len(data.get_data(2)["coord"]) == POINTS
    assert len(data.get_data(1)["coord"]) > POINTS  # as the key frame it is whole


def test_the_own_car_in_a_real_sweep(root: Path, shared_dir: Path) -> None:
    shutil.copy(shared_dir / "data/nuscenes_sweep.pcd.bin", root / "raw/samples/LIDAR_TOP/test1.pcd.bin")
    data = NuScenesDataset("test", root, input_sweeps=2)
    assert len(data.get_data(1)["coord"]) >= 34688
    assert len(data.get_data(2)["coord"]) == POINTS + 34688 - 8274


def test_input_sweeps_are_checked(root: Path) -> None:
    for value in (0, 11, 2.0):
        with pytest.raises(ConfigError, match="input_sweeps: got"):
            NuScenesDataset("train", root, input_sweeps=value)  # type: ignore[arg-type]


def test_submission(root: Path, tmp_path: Path) -> None:
    data = NuScenesDataset("test", root, input_sweeps=2)
    pred = np.arange(len(data.get_data(1)["coord"])) % 16
    assert POINTS < len(pred) < 2 * POINTS
    path = data.write_submission(tmp_path / "out", "test1", pred)
    assert path == tmp_path / "out/lidarseg/test/test1_lidarseg.bin"
    written = np.fromfile(path, np.uint8)
    np.testing.assert_array_equal(written, pred[:POINTS] + 1)
    meta = json.loads((tmp_path / "out/test/submission.json").read_text())
    assert meta == {
        "meta": {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    }
    for name, wrong, message in (
        ("test9", pred, "no scan 'test9'"),
        ("test1", pred[:-1], str(len(pred) - 1)),
        ("test1", pred + 1, "outside 0..15"),
        ("test1", pred * 0.5, "integer"),
    ):
        with pytest.raises(DataError, match=message):
            data.write_submission(tmp_path / "out", name, wrong)


def test_points_that_are_not_finite(root: Path, tmp_path: Path) -> None:
    path = root / "raw" / "samples" / "LIDAR_TOP" / "val0.pcd.bin"
    points = raw_points(root, "val0")
    points[[4, 9], [0, 3]] = np.nan, np.inf
    points.tofile(path)
    with pytest.raises(DataError, match=r"2 of 50 points of .*val0\.pcd\.bin"):
        NuScenesDataset("val", root).get_data(0)
    data = NuScenesDataset("val", root, nonfinite="drop")
    sample = data.get_data(0)
    kept = np.delete(np.arange(POINTS), [4, 9])
    np.testing.assert_array_equal(sample["coord"], points[kept, :3])
    np.testing.assert_array_equal(sample["segment"], label_table(-1)[raw_labels(root, "val0")][kept])
    pred = np.r_[np.full(40, 7), np.arange(8)]
    written = np.fromfile(data.write_submission(tmp_path / "out", "val0", pred), np.uint8)
    np.testing.assert_array_equal(written[kept], pred + 1)
    assert written[4] == written[9] == 8  # the most frequent class


def test_damaged_scans(root: Path) -> None:
    data = NuScenesDataset("val", root)
    labels = root / "raw" / "lidarseg" / "v1.0-trainval"
    raw_labels(root, "val0")[:-1].tofile(labels / "val0_lidarseg.bin")
    with pytest.raises(DataError, match=r"val0_lidarseg\.bin has 49 labels, .*val0\.pcd\.bin has 50 points"):
        data.get_data(0)
    np.full(POINTS, 32, np.uint8).tofile(labels / "val1_lidarseg.bin")
    with pytest.raises(DataError, match=r"val1_lidarseg\.bin: unknown raw label 32 \(50 points\)"):
        data.get_data(1)
    scan = root / "raw" / "samples" / "LIDAR_TOP" / "val2.pcd.bin"
    scan.write_bytes(scan.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"val2\.pcd\.bin has 996 bytes"):
        data.get_data(2)
    scan.unlink()
    with pytest.raises(DataError, match=r"cannot read .*val2\.pcd\.bin"):
        data.get_data(2)


def test_wrong_folder_and_missing_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no info file .*info files there: none.*preprocess_nuscenes_info\.py"):
        NuScenesDataset("train", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"5sweeps_val.*info files there: nuscenes_infos_10sweeps_test\.pkl"):
        NuScenesDataset("val", root, sweeps=5)
    with pytest.raises(ConfigError, match="no split 'valid': did you mean 'val'"):
        NuScenesDataset("valid", root)
    shutil.rmtree(root / "raw" / "lidarseg")
    with pytest.raises(DataError, match=r"train0_lidarseg\.bin, which is not there"):
        NuScenesDataset("train", root)


def drop(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda info: info.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("gt_segment_path"), "entry 1 is malformed.*gt_segment_path"),
        (drop("lidar_path"), "entry 1 is malformed.*lidar_path"),
        (lambda info: info.update(lidar_token="../../x"), "'../../x' is no token"),
        (lambda info: info["sweeps"][0].update(transform_matrix=np.eye(3)), "entry 1 is malformed"),
    ],
)
def test_malformed_infos(root: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    infos = pointcept_infos("train")
    change(infos[1])
    write_infos(root, "train", infos)
    with pytest.raises(DataError, match=message):
        NuScenesDataset("train", root, input_sweeps=2)


def test_malicious_info_file(root: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('executed')",)

    write_infos(root, "train", [*pointcept_infos("train"), Evil()])
    with pytest.raises(DataError, match=r"nuscenes_infos_10sweeps_train\.pkl.*'builtins\.exec' is refused"):
        NuScenesDataset("train", root)
    write_infos(root, "train", {"infos": []})
    with pytest.raises(DataError, match="no list of dicts"):
        NuScenesDataset("train", root)
    write_infos(root, "train", [])
    with pytest.raises(DataError, match="no scans of split train"):
        NuScenesDataset("train", root)


def test_real_sweep(shared_dir: Path, root: Path) -> None:
    shutil.copy(
        shared_dir / "data" / "nuscenes_sweep.pcd.bin", root / "raw" / "samples" / "LIDAR_TOP" / "test0.pcd.bin"
    )
    sample = NuScenesDataset("test", root).get_data(0)
    assert sample["coord"].shape == (34688, 3)
    assert 0 <= sample["strength"].min() < sample["strength"].max() <= 1
