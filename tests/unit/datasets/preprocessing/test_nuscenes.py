"""nuScenes: tables to info files and through the data set, checked against nuscenes-devkit where it is installed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pointcept.datasets.nuscenes import NuScenesDataset, label_table
from pointcept.datasets.preprocessing.nuscenes import preprocess_nuscenes_info as command
from pointcept.datasets.preprocessing.nuscenes import splits, tables
from pointcept.datasets.safe_pickle import load_plain_pickle
from pointcept.utils.errors import DataError

# An interpreter with nuscenes-devkit (NumPy 1), beside the one that runs the tests.
DEVKIT_PYTHON = Path(os.environ.get("POINTCEPT_DEVKIT_PYTHON", "/tmp/venv_devkit/bin/python"))
FAKE_SPLITS = """
from nuscenes import NuScenes

train_detect = ['scene-0001']
train_track = \\
    ['scene-0002', 'scene-0003']
train = list(sorted(set(train_detect + train_track)))
val = ['scene-0004']
mini_train = ['scene-0061']
mini_val = ['scene-0103']
"""


@pytest.fixture
def fake_devkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A devkit whose import fails, as that of the real one does beside NumPy 2."""
    package = tmp_path / "site" / "nuscenes"
    (package / "utils").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the devkit must not be imported')")
    (package / "utils" / "splits.py").write_text(FAKE_SPLITS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def run(root: Path, *extra: str) -> int:
    return command.main(["--dataset_root", str(root), "--output_root", str(root.parent), *extra])


def infos(root: Path, split: str, sweeps: int = 10) -> list[dict[str, Any]]:
    path = root.parent / "info" / f"nuscenes_infos_{sweeps}sweeps_{split}.pkl"
    return pickle.loads(path.read_bytes())  # by the ordinary unpickler, as Pointcept does


def pose_matrix(record: dict[str, Any]) -> np.ndarray:
    w, x, y, z = record["rotation"]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    matrix[:3, 3] = record["translation"]
    return matrix


@pytest.mark.usefixtures("fake_devkit")
def test_infos(tiny_nuscenes: Callable[..., Any]) -> None:
    tiny = tiny_nuscenes()
    assert run(tiny.root, "--max_sweeps", "4") == 0
    train, val = infos(tiny.root, "mini_train", 4), infos(tiny.root, "mini_val", 4)
    assert len(train) == len(val) == 3
    pose = {record["token"]: pose_matrix(record) for record in tiny.tables["ego_pose"]}
    calibration = pose_matrix(tiny.tables["calibrated_sensor"][0])
    world_from_key = pose["poseLIDAR_TOPminis0d4"] @ calibration
    info = train[2]
    assert info["lidar_token"] == "LIDAR_TOPminis0d4"
    assert info["token"] == "sampleminis0k2"
    assert info["lidar_path"].startswith("samples/LIDAR_TOP/")
    assert (tiny.root / info["lidar_path"]).is_file()
    assert info["gt_segment_path"] == "lidarseg/v1.0-mini/LIDAR_TOPminis0d4_lidarseg.bin"
    assert info["timestamp"] == pytest.approx(1_500_000_001.0, abs=1e-6)
    np.testing.assert_allclose(info["ref_from_car"] @ info["car_from_global"] @ world_from_key, np.eye(4), atol=1e-9)
    assert [s["sample_data_token"] for s in info["sweeps"]] == [f"LIDAR_TOPminis0d{d}" for d in (3, 2, 1)]
    for sweep in info["sweeps"]:
        expected = np.linalg.inv(world_from_key) @ pose["pose" + sweep["sample_data_token"]] @ calibration
        np.testing.assert_allclose(sweep["transform_matrix"], expected, atol=1e-9)
        world = sweep["global_from_car"] @ sweep["car_from_current"]
        np.testing.assert_allclose(world, pose["pose" + sweep["sample_data_token"]] @ calibration, atol=1e-9)
    assert [s["time_lag"] for s in info["sweeps"]] == pytest.approx([0.25, 0.5, 0.75], abs=1e-6)


@pytest.mark.usefixtures("fake_devkit")
def test_sweeps_at_the_start_of_a_scene_are_repeated(tiny_nuscenes: Callable[..., Any]) -> None:
    tiny = tiny_nuscenes()
    assert run(tiny.root) == 0
    first, second, _ = infos(tiny.root, "mini_train")
    assert [s["sample_data_token"] for s in first["sweeps"]] == ["LIDAR_TOPminis0d0"] * 9
    np.testing.assert_allclose(first["sweeps"][0]["transform_matrix"], np.eye(4), atol=1e-9)
    assert first["sweeps"][0]["time_lag"] == 0
    assert [s["sample_data_token"][-2:] for s in second["sweeps"]] == ["d1"] + ["d0"] * 8
    assert run(tiny.root, "--max_sweeps", "1") == 0
    assert infos(tiny.root, "mini_val", 1)[2]["sweeps"] == []


@pytest.mark.usefixtures("fake_devkit")
def test_cameras(tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    tiny = tiny_nuscenes(cameras=True)
    assert run(tiny.root, "--with_camera") == 0
    info = infos(tiny.root, "mini_val")[1]
    assert info["cam_front_path"].startswith("samples/CAM_FRONT/")
    assert info["cam_intrinsic"].shape == (3, 3)
    assert list(info["cams"]) == list(tables.CAMERAS)
    camera = info["cams"]["CAM_BACK_LEFT"]
    pose = {record["token"]: pose_matrix(record) for record in tiny.tables["ego_pose"]}
    calibration = {record["token"]: pose_matrix(record) for record in tiny.tables["calibrated_sensor"]}
    world_from_camera = pose["poseCAM_BACK_LEFTminis1d1"] @ calibration["calibratedCAM_BACK_LEFT"]
    world_from_lidar = pose["poseLIDAR_TOPminis1d2"] @ calibration["calibratedLIDAR_TOP"]
    lidar_from_camera = np.linalg.inv(world_from_lidar) @ world_from_camera
    np.testing.assert_allclose(camera["sensor2lidar_rotation"], lidar_from_camera[:3, :3], atol=1e-9)
    np.testing.assert_allclose(camera["sensor2lidar_translation"], lidar_from_camera[:3, 3], atol=1e-9)
    assert camera["type"] == "CAM_BACK_LEFT"
    assert camera["data_path"].endswith(".jpg")


@pytest.mark.usefixtures("fake_devkit")
def test_without_cameras_in_the_tables(tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    tiny = tiny_nuscenes()
    assert run(tiny.root) == 0
    info = infos(tiny.root, "mini_val")[0]
    assert info["cam_front_path"] is None
    assert "cams" not in info
    assert run(tiny.root, "--with_camera") == 2
    assert "no image of CAM_FRONT" in caplog.text


@pytest.mark.usefixtures("fake_devkit")
def test_trainval_and_test_together(tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    tiny = tiny_nuscenes("v1.0-trainval", ("scene-0003", "scene-0004", "scene-9999"))
    tiny_nuscenes("v1.0-test", ("scene-0077",))
    assert run(tiny.root) == 0
    assert [len(infos(tiny.root, split)) for split in ("train", "val", "test")] == [3, 3, 3]
    assert "1 scenes of v1.0-trainval belong to no split, such as scene-9999" in caplog.text
    assert "gt_segment_path" not in infos(tiny.root, "test")[0]


def test_split_file_beside_the_tables_comes_first(
    tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tiny = tiny_nuscenes("v1.0-trainval", ("mine-a", "mine-b"))
    path = tiny.root / "v1.0-trainval" / "splits.json"
    path.write_text(json.dumps({"train": ["mine-b"], "val": ["mine-a"]}))
    assert run(tiny.root) == 0
    assert {info["lidar_token"][:-1] for info in infos(tiny.root, "val")} == {"LIDAR_TOPtrainvals0d"}
    path.write_text(json.dumps({"train": ["mine-b"]}))
    assert run(tiny.root) == 2
    assert f"{path} must map each of train, val" in caplog.text


def test_without_devkit_the_error_names_extra_and_command(
    tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits.importlib.util, "find_spec", lambda _: None)
    assert run(tiny_nuscenes().root) == 2
    assert "pointcept[nuscenes]" in caplog.text
    assert "pip install --no-deps nuscenes-devkit" in caplog.text


@pytest.mark.usefixtures("fake_devkit")
def test_what_is_missing_is_named(tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    tiny = tiny_nuscenes()
    root = tiny.root
    assert run(root / "samples") == 2
    assert f"{root / 'samples'} has no folder v1.0-trainval or v1.0-test or v1.0-mini" in caplog.text
    assert run(root, "--versions", "v1.0-test") == 2
    assert "has no folder v1.0-test" in caplog.text

    def without(path: Path, content: str | None = None) -> None:
        saved = path.read_bytes()
        path.unlink() if content is None else path.write_text(content)
        assert run(root) == 2
        path.write_bytes(saved)

    mini = root / "v1.0-mini"
    without(mini / "ego_pose.json")
    assert f"the table {mini / 'ego_pose.json'} is missing" in caplog.text
    without(mini / "lidarseg.json")
    assert "unpack nuScenes-lidarseg of v1.0-mini" in caplog.text
    without(mini / "lidarseg.json", "[]")
    assert "the table lidarseg of v1.0-mini has no labels of the scan samples/LIDAR_TOP" in caplog.text
    without(mini / "scene.json", "{")
    assert f"{mini / 'scene.json'} is not a nuScenes table" in caplog.text
    without(mini / "ego_pose.json", "[]")
    assert "has no record 'pose" in caplog.text
    without(root / "lidarseg" / "v1.0-mini" / "LIDAR_TOPminis0d0_lidarseg.bin")
    assert "1 of 6 label files are missing" in caplog.text
    scan = next((root / "samples" / "LIDAR_TOP").iterdir())
    without(scan)
    assert f"1 scans of scene-0{'061' if 's0d' in scan.name else '103'} are missing, such as {scan}" in caplog.text


@pytest.mark.usefixtures("fake_devkit")
def test_full_disk(
    tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny_nuscenes().root

    def full(path: Path, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(root) == 1
    assert "writing failed: [Errno 28] No space left on device" in caplog.text
    assert not list((root.parent / "info").iterdir())


@pytest.mark.usefixtures("fake_devkit")
def test_scenes_that_were_not_downloaded_are_left_out(
    tiny_nuscenes: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tiny = tiny_nuscenes()
    for path in (tiny.root / "samples" / "LIDAR_TOP").glob("*s1d*"):
        path.unlink()
    assert run(tiny.root) == 0
    assert "1 of 2 scenes are left out" in caplog.text
    assert len(infos(tiny.root, "mini_train")) == 3
    assert infos(tiny.root, "mini_val") == []
    for path in (tiny.root / "samples" / "LIDAR_TOP").iterdir():
        path.unlink()
    assert run(tiny.root) == 2
    assert "none of the scans that the tables list is there" in caplog.text


def test_quaternions_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        record = {"rotation": rng.normal(size=4).tolist(), "translation": rng.normal(size=3).tolist()}
        expected = pose_matrix(record)
        np.testing.assert_allclose(tables.rigid_transform(record), expected, atol=1e-12)
        np.testing.assert_allclose(tables.rigid_transform(record, inverse=True), np.linalg.inv(expected), atol=1e-12)
    with pytest.raises(DataError, match="rotation"):
        tables.rigid_transform({"rotation": [0, 0, 0, 0], "translation": [0, 0, 0]})


@pytest.mark.usefixtures("fake_devkit")
def test_from_tables_to_samples_with_sweeps(tiny_nuscenes: Callable[..., Any]) -> None:
    """A point of the world, seen in every scan of a scene, lies at one place of the sample."""
    tiny = tiny_nuscenes()
    pose = {record["token"]: pose_matrix(record) for record in tiny.tables["ego_pose"]}
    calibration = pose_matrix(tiny.tables["calibrated_sensor"][0])
    for record in tiny.tables["sample_data"]:
        path = tiny.root / record["filename"]
        points = np.fromfile(path, np.float32).reshape(-1, 5)
        world_from_scan = pose[record["ego_pose_token"]] @ calibration
        points[7, :3] = (np.linalg.inv(world_from_scan) @ [3.0, 4.0, 5.0, 1.0])[:3]
        points.tofile(path)
    assert run(tiny.root, "--max_sweeps", "4") == 0
    data = NuScenesDataset("mini_train", tiny.root.parent, sweeps=4, input_sweeps=3)
    sample = data.get_data(2)
    np.testing.assert_allclose(sample["coord"][67], sample["coord"][7], atol=1e-4)
    np.testing.assert_allclose(sample["coord"][127], sample["coord"][7], atol=1e-4)
    assert np.unique(sample["time"]).tolist() == pytest.approx([0, 0.25, 0.5], abs=1e-5)
    assert load_plain_pickle(tiny.root.parent / "info" / "nuscenes_infos_4sweeps_mini_val.pkl")


DEVKIT_SCRIPT = """
import json, os, sys
import numpy as np
from pyquaternion import Quaternion
from nuscenes import NuScenes
from nuscenes.eval.lidarseg.utils import LidarsegClassMapper
from nuscenes.eval.lidarseg.validate_submission import validate_submission
from nuscenes.utils.geometry_utils import transform_matrix
from nuscenes.utils.splits import create_splits_scenes

root, results = sys.argv[1:]
nusc = NuScenes("v1.0-mini", root, verbose=False)
validate_submission(nusc, results, "mini_val")
def pose(table, token):
    record = nusc.get(table, token)
    return transform_matrix(record["translation"], Quaternion(record["rotation"]))
world = {}
for record in nusc.sample_data:
    matrix = pose("ego_pose", record["ego_pose_token"])
    world[record["token"]] = (matrix @ pose("calibrated_sensor", record["calibrated_sensor_token"])).tolist()
mapper = LidarsegClassMapper(nusc)
json.dump({
    "world": world,
    "coarse": mapper.convert_label(np.arange(32, dtype=np.uint8)).tolist(),
    "names": mapper.get_coarse2idx(),
    "splits": create_splits_scenes(),
}, sys.stdout)
"""


def test_devkit_opens_the_tables_and_agrees(
    tiny_nuscenes: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not DEVKIT_PYTHON.is_file():
        pytest.skip(f"no interpreter with nuscenes-devkit at {DEVKIT_PYTHON} (set POINTCEPT_DEVKIT_PYTHON)")
    where = "import importlib.util as u; print(u.find_spec('nuscenes').submodule_search_locations[0])"
    package = subprocess.run([DEVKIT_PYTHON, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "nuscenes").symlink_to(package)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    tiny = tiny_nuscenes(scenes=("scene-0061", "scene-0103", "scene-0916"))
    assert run(tiny.root) == 0  # with the scene lists of the real devkit, which is not imported
    assert "nuscenes" not in sys.modules
    data = NuScenesDataset("mini_val", tiny.root.parent)
    assert len(data) == 6
    rng = np.random.default_rng(2)
    for index in range(len(data)):
        data.write_submission(tmp_path / "results", data.get_data_name(index), rng.integers(0, 16, 60))
    arguments = [DEVKIT_PYTHON, "-c", DEVKIT_SCRIPT, tiny.root, tmp_path / "results"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    official = json.loads(done.stdout)
    for info in infos(tiny.root, "mini_train"):
        world = np.array(official["world"][info["lidar_token"]])
        np.testing.assert_allclose(info["ref_from_car"] @ info["car_from_global"], np.linalg.inv(world), atol=1e-9)
        for sweep in info["sweeps"]:
            expected = np.linalg.inv(world) @ np.array(official["world"][sweep["sample_data_token"]])
            np.testing.assert_allclose(sweep["transform_matrix"], expected, atol=1e-9)
    assert (label_table(-1)[:32] + 1).tolist() == official["coarse"]
    assert [official["names"][name] for name in data.names] == list(range(1, 17))
    scenes = {name for names in official["splits"].values() for name in names}
    for version in ("v1.0-trainval", "v1.0-mini"):
        for split, names in splits.scenes_by_split(tmp_path, version, scenes).items():
            assert names == set(official["splits"][split])
    assert len(splits.scenes_by_split(tmp_path, "v1.0-trainval", scenes)["train"]) == 700
