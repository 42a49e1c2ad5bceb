"""Generating data sets: the same bytes from the same seed, restarts, messages, the three layouts."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("embreex", reason="the simulator needs the extra 'simulator'")

from pointcept.datasets.nuscenes import label_table as nuscenes_table
from pointcept.datasets.reading import UNKNOWN
from pointcept.datasets.semantic_kitti import SemanticKITTIDataset
from pointcept.datasets.semantic_kitti import label_table as kitti_table
from pointcept.datasets.simulator import Settings, generate
from pointcept.datasets.simulator.cli import main
from pointcept.datasets.simulator.labels import nuscenes_ids, semantic_kitti_ids, waymo_ids
from pointcept.datasets.simulator.layouts import semantic_kitti as kitti_layout
from pointcept.datasets.simulator.layouts.nuscenes import quaternion
from pointcept.datasets.simulator.report import compare, measure, overlap
from pointcept.utils.errors import ConfigError, DataError


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file below ``root``."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def kitti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kitti") / "data"
    generate(Settings("semantic_kitti", root, {"train": 1, "val": 1, "test": 1}, frames=2, seed=5))
    return root


@pytest.fixture(scope="module")
def nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nuscenes") / "data"
    generate(Settings("nuscenes", root, {"train": 1, "val": 1, "test": 1}, frames=2, seed=5))
    return root


def test_kitti_files_have_the_official_form(kitti: Path) -> None:
    sequences = kitti / "dataset" / "sequences"
    assert sorted(p.name for p in sequences.iterdir()) == ["00", "08", "11"]
    for name in ("00", "08"):
        for frame in ("000000", "000001"):
            points = np.fromfile(sequences / name / "velodyne" / f"{frame}.bin", np.float32).reshape(-1, 4)
            labels = np.fromfile(sequences / name / "labels" / f"{frame}.label", np.uint32)
            assert len(points) == len(labels) > 90_000
            assert (kitti_table(-1)[labels & 0xFFFF] != UNKNOWN).all()
            assert points[:, 3].min() >= 0
            assert points[:, 3].max() < 1
            instance = labels >> 16
            assert set(np.unique(labels[instance > 0] & 0xFFFF)) <= {
                10,
                11,
                13,
                15,
                18,
                20,
                30,
                31,
                32,
                *range(252, 260),
            }
            assert (labels[np.linalg.norm(points[:, :3], axis=1) > 50.01] == 0).all()
        assert np.loadtxt(sequences / name / "poses.txt").shape == (2, 12)
        assert np.loadtxt(sequences / name / "times.txt").tolist() == [0.0, 0.1]
        assert (sequences / name / "calib.txt").read_text().count("\n") == 5
    assert not (sequences / "11" / "labels").exists()


def test_kitti_poses_undo_the_motion_of_the_vehicle(kitti: Path) -> None:
    rows = np.loadtxt(kitti / "dataset" / "sequences" / "00" / "poses.txt").reshape(-1, 3, 4)
    assert np.allclose(rows[0], np.eye(4)[:3], atol=1e-6)
    forward = rows[1][:, 3]
    assert 0.1 < forward[2] < 3.5
    assert abs(forward[2]) > abs(forward[:2]).max()


def test_the_real_loader_reads_it(kitti: Path) -> None:
    data = SemanticKITTIDataset(split="val", data_root=str(kitti), transform=[])
    assert len(data) == 2
    sample = data.get_data(0)
    assert sample["coord"].shape[0] == sample["segment"].shape[0]
    assert sample["segment"].max() < 19
    assert len(np.unique(sample["segment"])) > 6


def test_bytes_do_not_depend_on_the_number_of_processes(kitti: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    generate(Settings("semantic_kitti", again, {"train": 1, "val": 1, "test": 1}, frames=2, seed=5), num_workers=2)
    assert digests(again) == digests(kitti)


def test_another_seed_gives_other_scans(kitti: Path, tmp_path: Path) -> None:
    generate(Settings("semantic_kitti", tmp_path / "o", {"train": 1}, frames=1, seed=6))
    file = "dataset/sequences/00/velodyne/000000.bin"
    assert (tmp_path / "o" / file).read_bytes() != (kitti / file).read_bytes()


def test_more_scenes_than_sequences_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = kitti_layout.hdl64e()
    object.__setattr__(tiny, "columns", 60)
    monkeypatch.setattr(kitti_layout, "hdl64e", lambda: tiny)
    generate(Settings("semantic_kitti", tmp_path / "d", {"val": 3}, frames=2, style="highway"))
    folder = tmp_path / "d" / "dataset" / "sequences" / "08"
    assert len(list((folder / "velodyne").iterdir())) == len(np.loadtxt(folder / "poses.txt")) == 6


def test_an_interrupted_run_is_completed_and_nothing_half_written_stays(
    kitti: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings("semantic_kitti", tmp_path / "d", {"train": 1, "val": 1, "test": 1}, frames=2, seed=5)
    real, calls = kitti_layout.write_array, []

    def full_disk(path: Path, array: np.ndarray) -> Path:
        calls.append(path)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, array)

    monkeypatch.setattr(kitti_layout, "write_array", full_disk)
    with pytest.raises(DataError, match="no space left"):
        generate(settings)
    sizes = {p.stat().st_size for p in settings.out.rglob("*.bin")}
    assert sizes
    assert min(sizes) > 1_000_000
    assert not list(settings.out.rglob("*.tmp"))
    with pytest.raises(DataError, match="not empty"):
        generate(settings)
    with pytest.raises(DataError, match="seed: 5 -> 6"):
        generate(Settings("semantic_kitti", settings.out, settings.scenes, frames=2, seed=6), resume=True)
    monkeypatch.setattr(kitti_layout, "write_array", real)
    assert generate(settings, resume=True) == 2
    assert digests(settings.out) == digests(kitti)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "nuscene"}, "did you mean .nuscenes"),
        ({"scenes": {"training": 1}}, "train"),
        ({"scenes": {"train": 0}}, "no scenes"),
        ({"scenes": {"train": -1}}, "negative"),
        ({"frames": 0}, "positive"),
        ({"style": "moon"}, "residential"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"layout": "semantic_kitti", "out": tmp_path, "scenes": {"train": 1}, **change}
    with pytest.raises(ConfigError, match=message):
        generate(Settings(**settings))


def test_command_line_says_what_is_wrong(kitti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(kitti)]) == 2
    assert "not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("x")
    assert main(["--out", str(tmp_path), "--resume"]) == 2
    assert "not made by this generator" in capsys.readouterr().err
    assert main(["--out", str(kitti), "--report", str(tmp_path)]) == 2
    assert "no labelled scans" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--scenes", "train:4"])


def test_a_small_disk_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10, used=9, free=1))
    with pytest.raises(DataError, match="are needed"):
        generate(Settings("semantic_kitti", tmp_path / "d", {"train": 1}))


def test_every_kind_has_a_valid_label_in_every_set() -> None:
    assert (kitti_table(-1)[semantic_kitti_ids()] != UNKNOWN).all()
    assert (nuscenes_table(-1)[nuscenes_ids()] != UNKNOWN).all()
    assert waymo_ids().min() == 0
    assert set(waymo_ids().tolist()) == set(range(23))
    classes = kitti_table(-1)[semantic_kitti_ids()[0]]
    assert set(classes.tolist()) == set(range(-1, 19))
    assert np.array_equal(kitti_table(-1)[semantic_kitti_ids()[1]], classes)
    assert set(nuscenes_table(-1)[nuscenes_ids()].tolist()) == set(range(-1, 16))


def test_nuscenes_tables_refer_to_each_other(nuscenes: Path) -> None:
    raw = nuscenes / "raw"
    for version, scenes in (("v1.0-trainval", 2), ("v1.0-test", 1)):
        tables = {p.stem: json.loads(p.read_text()) for p in (raw / version).glob("*.json") if p.stem != "splits"}
        by_token = {name: {r["token"]: r for r in records} for name, records in tables.items()}
        assert all(len(by_token[name]) == len(tables[name]) for name in tables)
        assert len(tables["scene"]) == len(tables["log"]) == scenes
        assert len(tables["sample"]) == 2 * scenes
        assert [c["index"] for c in tables["category"]] == list(range(32))
        refers = [
            ("scene", "log_token", "log"), ("sample", "scene_token", "scene"),
            ("sample_data", "sample_token", "sample"), ("sample_data", "ego_pose_token", "ego_pose"),
            ("calibrated_sensor", "sensor_token", "sensor"),
            ("sample_data", "calibrated_sensor_token", "calibrated_sensor"), ("scene", "first_sample_token", "sample"),
            ("scene", "last_sample_token", "sample"),
        ]  # fmt: skip
        for table, key, target in refers:
            assert all(record[key] in by_token[target] for record in tables[table]), (table, key)
        for table in ("sample", "sample_data"):
            for record in tables[table]:
                following = by_token[table].get(record["next"])
                assert following is None or following["prev"] == record["token"]
        lidar = [r for r in tables["sample_data"] if "LIDAR_TOP" in r["filename"]]
        assert len(lidar) == 11 * scenes
        assert sum(r["is_key_frame"] for r in lidar) == 2 * scenes
        for record in lidar:
            points = np.fromfile(raw / record["filename"], np.float32).reshape(-1, 5)
            assert len(points) == 34_688
            assert np.array_equal(np.bincount(points[:, 4].astype(int)), [1084] * 32)
            assert points[:, 3].max() <= 255
        if version == "v1.0-test":
            assert "lidarseg" not in tables
            continue
        assert {r["sample_data_token"] for r in tables["lidarseg"]} == {r["token"] for r in lidar if r["is_key_frame"]}
        for record in tables["lidarseg"]:
            labels = np.fromfile(raw / record["filename"], np.uint8)
            assert len(labels) == 34_688
            assert labels.max() < 32
            assert len(np.unique(labels)) > 5
        assert json.loads((raw / version / "splits.json").read_text()) == {
            "train": ["scene-0001"],
            "val": ["scene-0003"],
        }


def test_nuscenes_poses_are_rotations_that_move(nuscenes: Path) -> None:
    poses = json.loads((nuscenes / "raw" / "v1.0-trainval" / "ego_pose.json").read_text())
    assert all(abs(np.linalg.norm(p["rotation"]) - 1) < 1e-9 for p in poses)
    assert np.ptp([p["translation"] for p in poses[:11]], axis=0).max() > 0.3


def test_quaternions_are_those_of_scipy() -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    for r in rotation.random(50, random_state=0):
        q = np.roll(r.as_quat(), 1)
        assert np.allclose(quaternion(r.as_matrix()), q * np.sign(q[0]), atol=1e-9)


def test_report_of_a_set_with_itself_is_a_perfect_match(kitti: Path) -> None:
    text = compare(kitti, kitti)
    assert text.count("1.000") == 4
    assert "vegetation" in text
    statistics = measure(kitti)
    assert statistics.scans == 4
    assert statistics.shares().sum() == pytest.approx(100)
    assert overlap(np.array([1, 0]), np.array([0, 3])) == 0


def test_synthetic_scans_are_like_the_real_ones(kitti_root: Path, tmp_path: Path) -> None:
    generate(Settings("semantic_kitti", tmp_path / "d", {"train": 6}, frames=1, seed=0))
    real, made = measure(kitti_root, every=5), measure(tmp_path / "d")
    assert overlap(real.ranges.sum(0), made.ranges.sum(0)) > 0.85
    assert overlap(real.elevations, made.elevations) > 0.9
    assert overlap(real.intensities.sum(0), made.intensities.sum(0)) > 0.8
    assert overlap(real.points, made.points) > 0.6
