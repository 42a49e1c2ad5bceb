"""WaymoDataset on converted frames: reading, submission messages, and what is said about faults."""

from __future__ import annotations

import logging
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("waymo_open_dataset.dataset_pb2", reason="needs the official message classes")

from pointcept.datasets.builder import build_dataset
from pointcept.datasets.preprocessing.waymo import protos
from pointcept.datasets.preprocessing.waymo.convert import convert_segment, frame_arrays, write_frame
from pointcept.datasets.preprocessing.waymo.range_image import LASERS, RETURNS, FramePoints
from pointcept.datasets.waymo import WaymoDataset
from pointcept.utils.errors import ConfigError, DataError

CONTEXTS = ("111_000_020", "222_000_020")
STAMPS = (1543003000000000, 1543003000100000)


def random_frame(seed: int) -> FramePoints:
    rng = np.random.default_rng(seed)
    sizes = {name: (6, 9) if name == "TOP" else (3, 4) for name in LASERS.values()}
    masks = {f"{name}_{number}": rng.random(sizes[name]) < 0.6 for number in RETURNS for name in LASERS.values()}
    count = sum(int(mask.sum()) for mask in masks.values())
    coord, polar = rng.normal(size=(2, count, 3)).astype(np.float32)
    return FramePoints(coord, polar, rng.integers(0, 23, count).astype(np.uint8), masks)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two segments of two frames in each split."""
    frame = protos.dataset_pb2().Frame()
    frame.pose.transform.extend(np.eye(4).ravel())
    for split in ("training", "validation", "testing"):
        for c, context in enumerate(CONTEXTS):
            folder = tmp_path / split / f"segment-{context}_with_camera_labels"
            folder.mkdir(parents=True)
            for s, stamp in enumerate(STAMPS):
                write_frame(folder, stamp, frame_arrays(random_frame(2 * c + s), frame, split))
    return tmp_path


def first_frame(root: Path, split: str) -> Path:
    return root / split / f"segment-{CONTEXTS[0]}_with_camera_labels" / str(STAMPS[0])


def test_samples(root: Path) -> None:
    cfg = {"type": "WaymoDataset", "split": ["training", "validation"], "data_root": str(root), "ignore_index": -3}
    data = build_dataset(cfg)
    assert len(data) == 8
    assert data.num_classes == 22
    assert data.names[0] == "Car"
    assert data.names[21] == "Sidewalk"
    assert data.get_data_name(1) == f"segment-{CONTEXTS[0]}_with_camera_labels_{STAMPS[1]}"
    sample, points = data.get_data(1), random_frame(1)
    np.testing.assert_array_equal(sample["coord"], points.coord)
    np.testing.assert_array_equal(sample["strength"], np.tanh(points.polar[:, 1:2]))
    assert points.semantic is not None
    expected = np.where(points.semantic == 0, -3, points.semantic.astype(int) - 1)
    np.testing.assert_array_equal(sample["segment"], expected)
    assert sample["coord"].dtype == sample["strength"].dtype == np.float32
    assert sample["segment"].dtype == np.int64
    assert sample["coord"].flags.c_contiguous
    assert sample["name"] == data.get_data_name(1)


def test_labels_that_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WaymoDataset, "STRENGTH_RANGE", None)  # those of the frame are random
    for file in root.rglob("segment.npy"):
        file.unlink()
    sample = WaymoDataset(split="training", data_root=root, ignore_index=-100, unlabelled=True)[0]
    assert len(sample["segment"]) == len(sample["coord"])
    assert (sample["segment"] == -100).all()


def test_testing_has_no_labels(root: Path) -> None:
    assert set(WaymoDataset("testing", root).get_data(0)) == {"coord", "strength", "name"}


def test_hidden_folders_are_no_frames(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    segment = first_frame(root, "training").parent
    (segment / f".partial-{STAMPS[0]}").mkdir()
    (segment / ".complete").write_text("{}")
    assert len(WaymoDataset("training", root)) == 4
    assert "1 of 2 segments are converted in part only" in caplog.text


def test_folders_without_a_marker_or_with_all_are_no_parts(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Frames that another program converted have no marker."""
    assert len(WaymoDataset("training", root)) == 4
    for segment in (root / "training").iterdir():
        (segment / ".complete").write_text("{}")
    assert len(WaymoDataset("training", root)) == 4
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def read_image(compressed: bytes) -> np.ndarray:
    message = protos.dataset_pb2().MatrixInt32()
    message.ParseFromString(zlib.decompress(compressed))
    return np.array(message.data).reshape(tuple(message.shape.dims))


def test_submission(root: Path, tmp_path: Path) -> None:
    data, rng, out = WaymoDataset("testing", root), np.random.default_rng(9), tmp_path / "out"
    preds = {}
    for index in range(len(data)):
        name = data.get_data_name(index)
        preds[name] = rng.integers(0, 22, len(data.get_data(index)["coord"]))
        if index == 3:
            with pytest.raises(DataError, match="1 of 4 frames have no prediction"):
                data.finish_submission(out)
        assert data.write_submission(out, name, preds[name]) == out / "frames" / f"{name}.bin"
    message = protos.segmentation_pb2().SegmentationFrameList()
    message.ParseFromString(data.finish_submission(out).read_bytes())
    found = [(frame.context_name, frame.frame_timestamp_micros) for frame in message.frames]
    assert found == [(context, stamp) for context in CONTEXTS for stamp in STAMPS]
    for seed, (frame, pred) in enumerate(zip(message.frames, preds.values(), strict=True)):
        (laser,) = frame.segmentation_labels
        assert laser.name == protos.dataset_pb2().LaserName.TOP
        masks = random_frame(seed).masks
        start = dict(zip(masks, np.cumsum([0] + [mask.sum() for mask in masks.values()]), strict=False))
        for number, image in ((1, laser.ri_return1), (2, laser.ri_return2)):
            labels, mask = read_image(image.segmentation_label_compressed), masks[f"TOP_{number}"]
            assert labels.shape == (6, 9, 2)
            assert (labels[..., 0] == 0).all()
            assert (labels[~mask] == 0).all()
            begin = start[f"TOP_{number}"]
            np.testing.assert_array_equal(labels[mask, 1], pred[begin : begin + mask.sum()] + 1)


def test_a_submission_of_several_splits_joins_the_testing_frames(root: Path, tmp_path: Path) -> None:
    data = WaymoDataset(["validation", "testing"], root)
    for index in range(4, 8):
        data.write_submission(tmp_path, data.get_data_name(index), np.zeros(len(data.get_data(index)["coord"]), int))
    message = protos.segmentation_pb2().SegmentationFrameList()
    message.ParseFromString(data.finish_submission(tmp_path).read_bytes())
    assert len(message.frames) == 4


def test_true_labels_come_back_as_in_the_record(golden_dir: Path, tmp_path: Path) -> None:
    """Record -> arrays -> submission of the true classes gives the label images of the record."""
    pytest.importorskip("google_crc32c")
    from pointcept.datasets.preprocessing.waymo.tfrecord import iter_records

    source = next((golden_dir / "waymo" / "validation").glob("*.tfrecord"))
    assert convert_segment(source, tmp_path, "validation", None).written == 1
    data = WaymoDataset("validation", tmp_path)
    segment = data.get_data(0)["segment"]
    message = protos.segmentation_pb2().SegmentationFrameList()
    path = data.write_submission(tmp_path / "out", data.get_data_name(0), np.maximum(segment, 0))
    message.ParseFromString(path.read_bytes())
    frame = protos.parse_frame(next(iter_records(source))[1])
    assert message.frames[0].context_name == frame.context.name
    (top,) = (laser for laser in frame.lasers if laser.name == 1)
    for number in (1, 2):
        ours = read_image(
            getattr(message.frames[0].segmentation_labels[0], f"ri_return{number}").segmentation_label_compressed
        )
        true = read_image(getattr(top, f"ri_return{number}").segmentation_label_compressed)[..., 1]
        values = protos.decode_matrix(
            getattr(top, f"ri_return{number}").range_image_compressed, protos.dataset_pb2().MatrixFloat(), "r"
        )
        valid = values[..., 0] > 0
        np.testing.assert_array_equal(ours[valid, 1], np.maximum(true[valid], 1))


def test_submission_faults(root: Path, tmp_path: Path) -> None:
    data = WaymoDataset("validation", root)
    name, pred = data.get_data_name(0), np.zeros(len(data.get_data(0)["coord"]), np.int64)
    for given, wrong, message in (
        ("nobody", pred, "no frame 'nobody'"),
        (name, pred[1:], "points"),
        (name, pred + 22, r"outside 0\.\.21"),
    ):
        with pytest.raises(DataError, match=message):
            data.write_submission(tmp_path / "out", given, wrong)
    mask = first_frame(root, "validation") / "mask.npy"
    shutil.copy(first_frame(root, "validation").parent / str(STAMPS[1]) / "mask.npy", mask)
    with pytest.raises(DataError, match=r"mask\.npy marks \d+ pixels"):
        data.write_submission(tmp_path / "out", name, pred)
    np.save(mask, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"cannot read .*mask\.npy"):
        data.write_submission(tmp_path / "out", name, pred)
    assert not (tmp_path / "out").exists()


def test_points_that_are_not_finite(root: Path, tmp_path: Path) -> None:
    frame = first_frame(root, "validation")
    coord = np.load(frame / "coord.npy")
    coord[2, 1] = np.nan
    np.save(frame / "coord.npy", coord)
    with pytest.raises(DataError, match=f"1 of {len(coord)} points"):
        WaymoDataset("validation", root).get_data(0)
    data = WaymoDataset("validation", root, nonfinite="drop")
    sample = data.get_data(0)
    assert len(sample["coord"]) == len(sample["segment"]) == len(coord) - 1
    path = data.write_submission(tmp_path / "out", sample["name"], np.full(len(coord) - 1, 4))
    message = protos.segmentation_pb2().SegmentationFrameList()
    message.ParseFromString(path.read_bytes())
    labels = read_image(message.frames[0].segmentation_labels[0].ri_return1.segmentation_label_compressed)[..., 1]
    mask = random_frame(0).masks["TOP_1"]
    assert labels[mask].tolist() == [5, 5, 0] + [5] * (int(mask.sum()) - 3)


def test_coordinates_of_a_map(root: Path) -> None:
    frame = first_frame(root, "validation")
    coord = np.load(frame / "coord.npy") + np.array([691_000.0, 5_412_345.0, 310.0])
    np.save(frame / "coord.npy", coord)
    np.save(frame / "strength.npy", np.abs(np.load(frame / "strength.npy")))
    data = WaymoDataset("validation", root, [{"type": "CenterShift"}])
    middle = (coord.min(axis=0) + coord.max(axis=0)) / 2
    np.testing.assert_allclose(data[0]["coord"][:, :2], (coord - middle)[:, :2], atol=1e-6)
    np.save(frame / "coord.npy", coord.astype(np.float32))
    with pytest.raises(DataError, match=r"float32 resolves 0\.5 m"):
        data[0]


def test_damaged_frames(root: Path, tmp_path: Path) -> None:
    frame = first_frame(root, "training")
    data = WaymoDataset("training", root)
    segment = np.load(frame / "segment.npy")
    for array, message in (
        (segment[:-1], r"segment\.npy is int32 \(\d+,\), expected \(\d+,\)"),
        (segment.astype(np.float32), r"segment\.npy is float32"),
        (segment + 22, r"segment\.npy has classes from"),
    ):
        np.save(frame / "segment.npy", array)
        with pytest.raises(DataError, match=message):
            data.get_data(0)
    np.save(frame / "coord.npy", np.zeros((0, 3), np.float32))
    with pytest.raises(DataError, match=r"coord\.npy is float32 \(0, 3\)"):
        data.get_data(0)
    (frame / "coord.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read .*coord\.npy"):
        data.get_data(0)
    with pytest.raises(DataError, match=r"no folder .*preprocess_waymo"):
        WaymoDataset("training", tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no split 'train': did you mean 'training'"):
        WaymoDataset("train", root)
