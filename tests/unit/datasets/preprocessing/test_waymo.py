"""Waymo: points against the official code's, and how the conversion stops, fails and goes on."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("google_crc32c", reason="needs the extra 'waymo'")
pytest.importorskip("waymo_open_dataset.dataset_pb2", reason="needs the official message classes")

from pointcept.datasets.preprocessing.waymo import convert, preprocess_waymo, protos, range_image, tfrecord
from pointcept.utils.errors import DataError

LABELLED = {"training": (1543003000000000, 1543003000200000), "validation": (1543004000000000,)}
SECOND_RECORD = 171207
THIRD_RECORD = 328311


@pytest.fixture
def source(golden_dir: Path, tmp_path: Path) -> Path:
    """A writable copy of the official records."""
    root = tmp_path / "waymo"
    for split in LABELLED:
        (root / split).mkdir(parents=True)
        for path in (golden_dir / "waymo" / split).glob("*.tfrecord"):
            (root / split / path.name).write_bytes(path.read_bytes())
    return root


def run(source: Path, output: Path, *extra: str, splits: tuple[str, ...] = ("training",), workers: int = 1) -> int:
    arguments = ["--dataset_root", source, "--output_root", output, "--splits", *splits, "--num_workers", workers]
    return preprocess_waymo.main([*map(str, arguments), *extra])


def record_file(root: Path, split: str = "training") -> Path:
    return next((root / split).glob("*.tfrecord"))


def frames(output: Path, split: str = "training") -> list[Path]:
    return sorted(path for path in output.glob(f"{split}/*/*") if path.name.isdigit())


def leftovers(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if ".partial" in path.name]


def assert_golden(output: Path, golden: Path, split: str) -> None:
    expected = np.load(golden / "waymo" / f"expected_{split}.npz")
    found = frames(output, split)
    assert tuple(int(path.name) for path in found) == LABELLED[split]
    for path in found:
        coord, strength, segment, pose = (np.load(path / f"{n}.npy") for n in ("coord", "strength", "segment", "pose"))
        assert coord.dtype == np.float32
        assert strength.dtype == np.float32
        np.testing.assert_allclose(coord, expected[f"{path.name}_xyz"], rtol=0, atol=1e-3)
        polar = expected[f"{path.name}_range_intensity_elongation"]
        np.testing.assert_allclose(strength, np.tanh(polar[:, 1:2]), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(segment, expected[f"{path.name}_semantic"].astype(int) - 1)
        assert pose.dtype == np.float32
        assert pose.shape == (4, 4)
        assert (path / "mask.npy").exists() == (split != "training")


def test_golden_with_two_processes(golden_dir: Path, source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out", splits=("training", "validation"), workers=2) == 0
    for split in LABELLED:
        assert_golden(tmp_path / "out", golden_dir, split)
    assert not leftovers(tmp_path / "out")


def test_polar_values_are_those_of_the_range_image(golden_dir: Path, source: Path) -> None:
    expected = np.load(golden_dir / "waymo" / "expected_validation.npz")
    _, payload = next(tfrecord.iter_records(record_file(source, "validation")))
    points = range_image.frame_to_points(protos.parse_frame(payload))
    np.testing.assert_array_equal(points.polar, expected["1543004000000000_range_intensity_elongation"])
    assert list(points.masks)[:2] == ["TOP_1", "FRONT_1"]
    assert len(points.masks) == 10
    assert sum(mask.sum() for mask in points.masks.values()) == len(points.coord)


def test_azimuth_and_inclination_by_hand() -> None:
    transform = np.eye(4)
    transform[:3, 3] = 1, 2, 3
    calibration = SimpleNamespace(
        beam_inclinations=[],
        beam_inclination_min=-0.2,
        beam_inclination_max=0.2,
        extrinsic=SimpleNamespace(transform=transform.ravel()),
    )
    points = range_image.pixels_to_vehicle(
        np.full((2, 4), 2.0), np.ones((2, 4), bool), calibration, None, np.eye(4)
    ).reshape(2, 4, 3)
    azimuth = np.pi * np.array([0.75, 0.25, -0.25, -0.75])
    for row, inclination in enumerate((0.1, -0.1)):  # the first row looks up
        level = 2 * np.cos(inclination)
        np.testing.assert_allclose(points[row, :, 0], 1 + level * np.cos(azimuth), atol=1e-12)
        np.testing.assert_allclose(points[row, :, 1], 2 + level * np.sin(azimuth), atol=1e-12)
        np.testing.assert_allclose(points[row, :, 2], 3 + 2 * np.sin(inclination), atol=1e-12)
    calibration.beam_inclinations = [0.1, 0.2, 0.3]
    with pytest.raises(DataError, match="2 rows but the calibration lists 3"):
        range_image.beam_inclinations(calibration, 2)


def test_rotation_agrees_with_scipy() -> None:
    angles = np.random.default_rng(0).uniform(-3, 3, (50, 3))
    expected = Rotation.from_euler("xyz", angles).as_matrix()
    np.testing.assert_allclose(range_image.rotation_from_roll_pitch_yaw(angles), expected, atol=1e-12)


def test_second_run_passes_the_segment_without_reading(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(source, tmp_path / "out") == 0
    monkeypatch.setattr(convert, "iter_records", lambda *_: pytest.fail("the file was read again"))
    assert run(source, tmp_path / "out") == 0
    monkeypatch.undo()
    shutil.rmtree(frames(tmp_path / "out")[0])
    assert run(source, tmp_path / "out") == 0
    assert len(frames(tmp_path / "out")) == 2


def test_killed_run_leaves_no_half_frame_and_continues(golden_dir: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    # Dies without any clean-up in the second frame, after two of its four files.
    script = (
        "import os, sys, numpy as np\n"
        "from pointcept.datasets.preprocessing.waymo import convert, preprocess_waymo\n"
        "real, count = np.save, [0]\n"
        "def save(*a, **k):\n"
        "    count[0] += 1\n"
        "    os._exit(9) if count[0] > 6 else real(*a, **k)\n"
        "convert.np.save = save\n"
        "preprocess_waymo.main(sys.argv[1:])\n"
    )
    arguments = ["--dataset_root", source, "--output_root", output, "--splits", "training", "--num_workers", "1"]
    root = Path(__file__).parents[4]
    killed = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], cwd=root, capture_output=True)
    assert killed.returncode == 9, killed.stderr.decode()
    assert [int(path.name) for path in frames(output)] == [LABELLED["training"][0]]
    assert len(leftovers(output)) == 1
    first = (frames(output)[0] / "coord.npy").stat().st_mtime_ns
    assert run(source, output) == 0
    assert_golden(output, golden_dir, "training")
    assert not leftovers(output)
    assert (frames(output)[0] / "coord.npy").stat().st_mtime_ns == first, "a whole frame was written again"


def test_damaged_record_is_named_and_the_rest_goes_on(
    golden_dir: Path, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, output = record_file(source), tmp_path / "out"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    assert run(source, output, splits=("training", "validation")) == 1
    assert f"{path}: record at byte 0: the checksum" in caplog.text
    assert [int(p.name) for p in frames(output)] == [LABELLED["training"][1]]
    assert_golden(output, golden_dir, "validation")
    path.write_bytes(whole)
    assert run(source, output) == 0
    assert_golden(output, golden_dir, "training")


def test_truncated_file(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = record_file(source)
    path.write_bytes(path.read_bytes()[:-7])
    assert run(source, tmp_path / "out") == 1
    assert f"{path}: record at byte {THIRD_RECORD}: truncated" in caplog.text
    assert len(frames(tmp_path / "out")) == 1


def test_sound_record_that_is_no_frame(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = record_file(source)
    payloads = [payload for _, payload in tfrecord.iter_records(path)]
    no_laser = protos.parse_frame(payloads[2])
    del no_laser.lasers[0]
    tfrecord.write_records(path, [payloads[0], b"\xff\xff", no_laser.SerializeToString()])
    assert run(source, tmp_path / "out") == 1
    assert "record at byte 171207: is not a Waymo Frame" in caplog.text
    assert "no data for the laser(s) SIDE_LEFT" in caplog.text
    assert len(frames(tmp_path / "out")) == 1


def test_renamed_file_is_refused(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = record_file(source)
    path.rename(path.with_name("other.tfrecord"))
    assert run(source, tmp_path / "out") == 1
    assert "segment-1000000000000023757_300_000_320_000_with_camera_labels.tfrecord" in caplog.text


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    output = tmp_path / "out"
    if workers == 1:
        with pytest.MonkeyPatch.context() as patch:

            def full(*_: object, **__: object) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(convert.np, "save", full)
            code = run(source, output)
    else:
        output.write_text("a file where the folder should be")
        code = run(source, output, splits=("training", "validation"), workers=2)
    assert code == 1
    assert "writing failed" in caplog.text
    assert "the same command continues" in caplog.text
    assert not leftovers(tmp_path)


def test_testing_takes_the_listed_frames_only(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output, path = tmp_path / "out", record_file(source, "validation")
    (source / "testing").mkdir()
    path.rename(source / "testing" / path.name)
    assert run(source, output, splits=("testing",)) == 2
    assert "--test_frames" in caplog.text
    assert "3d_semseg_test_set_frames.txt" in caplog.text
    listed = tmp_path / "frames.txt"
    assert run(source, output, "--test_frames", str(listed), splits=("testing",)) == 2
    assert f"there is no file {listed}" in caplog.text
    context = "1000000000000031676_400_000_420_000"
    listed.write_text("1,2\n")
    assert run(source, output, "--test_frames", str(listed), splits=("testing",)) == 2
    assert "none of the 1 segments" in caplog.text
    listed.write_text("no timestamp\n")
    assert run(source, output, "--test_frames", str(listed), splits=("testing",)) == 2
    assert f"{listed}, line 1" in caplog.text
    # The second frame, which has no labels, is the one that is asked for.
    listed.write_text(f"{context},1543004000100000\nanother_context,5\n")
    assert run(source, output, "--test_frames", str(listed), splits=("testing",)) == 0
    (frame,) = frames(output, "testing")
    assert frame.name == "1543004000100000"
    assert {p.stem for p in frame.iterdir()} == {"coord", "strength", "pose", "mask"}
    record = np.load(frame / "mask.npy", allow_pickle=False)
    assert record["TOP_1"].shape == (64, 160)
    assert record["REAR_2"].shape == (20, 40)
    listed.write_text(f"{context},1543004000100000\n{context},77\n")
    assert run(source, output, "--test_frames", str(listed), splits=("testing",)) == 1
    assert "were not found: [77]" in caplog.text


def test_wrong_folders(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(tmp_path / "nothing", tmp_path / "out") == 2
    assert f"there is no folder {tmp_path / 'nothing' / 'training'}" in caplog.text
    record_file(source).unlink()
    assert run(source, tmp_path / "out") == 2
    assert f"there is no *.tfrecord file in {source / 'training'}" in caplog.text
    assert not (tmp_path / "out").exists()
