"""SemanticKITTI: class map, layout, bad files, submission, real scans."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch

from pointcept.datasets import Draw, SemanticKITTIDataset, build_dataset
from pointcept.datasets.reading import UNKNOWN
from pointcept.datasets.semantic_kitti import CLASS_TO_RAW, CLASSES, IGNORED_RAW, label_table
from pointcept.utils.errors import ConfigError, DataError

# Written down a second time on purpose: a slip in the owner's table must show.
MAP = {10: 0, 11: 1, 15: 2, 18: 3, 20: 4, 30: 5, 31: 6, 32: 7, 40: 8, 44: 9, 48: 10, 49: 11, 50: 12, 51: 13, 70: 14}
MAP |= {71: 15, 72: 16, 80: 17, 81: 18, 13: 4, 16: 4, 256: 4, 257: 4, 259: 4, 60: 8, 252: 0, 253: 6, 254: 5, 255: 7}
MAP |= {258: 3, 0: -1, 1: -1, 52: -1, 99: -1}

TRAIN = [
    {"type": "RandomRotate", "angle": [-1, 1], "axis": "z", "center": [0, 0, 0], "p": 0.5},
    {"type": "RandomScale", "scale": [0.9, 1.1]},
    {"type": "RandomFlip", "p": 0.5},
    {"type": "RandomJitter", "sigma": 0.005, "clip": 0.02},
    {"type": "GridSample", "grid_size": 0.05, "hash_type": "fnv", "mode": "train", "return_grid_coord": True},
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord", "grid_coord", "segment"), "feat_keys": ("coord", "strength")},
]


def files(root, sequence="00", frame=0):
    folder = root / "dataset" / "sequences" / sequence
    return folder / "velodyne" / f"{frame:06d}.bin", folder / "labels" / f"{frame:06d}.label"


def write(root, points, labels):
    scan, label = files(root)
    np.asarray(points, np.float32).tofile(scan)
    np.asarray(labels, np.uint32).tofile(label)


def dataset(root, **arguments):
    return SemanticKITTIDataset(data_root=root, **{"sequences": [0], **arguments})


def test_class_map():
    table = label_table(-1)
    assert {int(i): int(table[i]) for i in np.flatnonzero(table != UNKNOWN)} == MAP
    assert CLASS_TO_RAW.tolist() == [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]
    np.testing.assert_array_equal(table[CLASS_TO_RAW], np.arange(19))
    assert (label_table(-100)[list(IGNORED_RAW)] == -100).all()
    names = SemanticKITTIDataset.names
    assert len(names) == 19
    assert names[0] == "car"
    assert names[8] == "road"
    assert names[18] == "traffic-sign"


def test_a_class_map_in_the_config_has_to_be_the_one_of_the_data_set(tiny_root):
    own = {raw: index for index, ids in enumerate(CLASSES.values()) for raw in ids}
    assert len(dataset(tiny_root, learning_map={**own, 0: -1, 1: -100})) == len(dataset(tiny_root))
    for change, message in (
        ({252: -1}, "has -1 for the raw label 252, which is class 0 in"),
        ({30: 6}, "has 6 for the raw label 30, which is class 5 in"),
        ({99: 3}, "has 3 for the raw label 99, which is ignored in"),
        ({5: -1}, "has -1 for the raw label 5, which is unknown in"),
        ({"car": 0}, "has 0 for the raw label 'car', which is unknown in"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataset(tiny_root, learning_map={**own, **change})


def test_splits(tiny_root):
    val = SemanticKITTIDataset("val", tiny_root)
    assert [val.get_data_name(i) for i in range(len(val))] == ["08_000000", "08_000001"]
    root = tiny_root / "dataset" / "sequences"
    for number in range(22):
        if not (root / f"{number:02d}").exists():
            shutil.copytree(root / ("00" if number < 11 else "11"), root / f"{number:02d}")
    train, test = SemanticKITTIDataset("train", tiny_root), SemanticKITTIDataset("test", tiny_root)
    assert {scan.name[:2] for scan in train.data_list} == {f"{i:02d}" for i in (*range(8), 9, 10)}
    assert {scan.name[:2] for scan in test.data_list} == {str(i) for i in range(11, 22)}
    both = SemanticKITTIDataset(["train", "val"], tiny_root)
    assert len(both) == len(train) + len(val)


def test_available_sequences(tiny_root, tmp_path, caplog):
    caplog.set_level("INFO", logger="pointcept")
    train = dataset(tiny_root, split=["train", "val"], sequences="available")
    assert [scan.name for scan in train.data_list] == ["00_000000", "00_000001", "08_000000", "08_000001"]
    assert "sequences of the split train+val: 00 08" in caplog.text
    assert set(dataset(tiny_root, split="test", sequences="available")[0]) == {"coord", "strength", "name"}
    shutil.rmtree(tiny_root / "dataset" / "sequences" / "08")
    with pytest.raises(DataError, match="has none of the sequences 08"):
        dataset(tiny_root, split="val", sequences="available")
    with pytest.raises(DataError, match="no folder"):
        dataset(tmp_path / "x", split="val", sequences="available")


def test_sample(tiny_root):
    sample = dataset(tiny_root, sequences=["00", 8])[3]
    scan, label = files(tiny_root, "08", 1)
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    raw = np.fromfile(label, np.uint32)
    assert (raw >> 16).any(), "the labels hold instance ids"
    np.testing.assert_array_equal(sample["coord"], points[:, :3])
    np.testing.assert_array_equal(sample["strength"], points[:, 3:])
    np.testing.assert_array_equal(sample["segment"], [MAP[int(r) & 0xFFFF] for r in raw])
    assert sample["name"] == "08_000001"
    assert (sample["coord"].dtype, sample["strength"].dtype, sample["segment"].dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


def test_unlabelled_split(tiny_root):
    sample = dataset(tiny_root, split="test", sequences=[11])[0]
    assert set(sample) == {"coord", "strength", "name"}
    assert "segment" not in dataset(tiny_root, split="test", sequences=["08"])[0]


def test_missing_folders(tmp_path, tiny_root):
    with pytest.raises(DataError, match=rf"no folder {re.escape(str(tmp_path / 'x' / 'dataset'))}.*sequences/XX/velo"):
        SemanticKITTIDataset("val", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"as far as .*empty"):
        SemanticKITTIDataset("val", tmp_path / "empty")
    with pytest.raises(DataError, match=r"sequences/01/velodyne.*Expected layout"):
        SemanticKITTIDataset("train", tiny_root)
    with pytest.raises(DataError, match=r"sequences/11/labels"):
        dataset(tiny_root, sequences=[11])
    for path in (tiny_root / "dataset" / "sequences" / "00" / "velodyne").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"00/velodyne holds no \.bin files"):
        dataset(tiny_root)


def test_scans_without_labels(tiny_root):
    """Of a folder without them, of a raw test sequence, or of scans whose labels are damaged or not to be used."""
    files(tiny_root, "00", 1)[1].write_bytes(b"no labels")
    for arguments in ({"sequences": [0]}, {"sequences": [11]}, {"sequences": None, "split": "test"}):
        if "split" in arguments:
            arguments["sequences"] = "available"
        data = dataset(tiny_root, **arguments, ignore_index=-100, unlabelled=True)
        for index in range(len(data)):
            sample = data[index]
            assert sample["segment"].dtype == np.int64
            assert len(sample["segment"]) == len(sample["coord"])
            assert (sample["segment"] == -100).all()
    assert "segment" not in dataset(tiny_root, sequences="available", split="test")[0]
    with pytest.raises(DataError, match="11/labels"):
        dataset(tiny_root, sequences=[11])
    collect = [{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "segment")}]
    with pytest.raises(ConfigError, match=r"no 'segment', only .*; data sets of scans without labels take unlabelled"):
        dataset(tiny_root, sequences="available", split="test", transform=collect)[0]
    with pytest.raises(ConfigError, match="unlabelled: got 1, allowed: True or False"):
        dataset(tiny_root, unlabelled=1)
    with pytest.raises(ConfigError, match="unlabelled: got True, allowed: False with test_mode=True"):
        dataset(tiny_root, unlabelled=True, test_mode=True, test_cfg={})


def test_missing_label_file(tiny_root):
    files(tiny_root, frame=1)[1].unlink()
    with pytest.raises(DataError, match=r"1 of 2 scans of .*00 have no label file, the first is .*000001.label"):
        dataset(tiny_root)


def test_wrong_sequences(tiny_root):
    for wrong in ("00", 0, []):
        with pytest.raises(ConfigError, match=r"sequences: got .*a list such as"):
            dataset(tiny_root, sequences=wrong)
    with pytest.raises(ConfigError, match="each sequence once"):
        dataset(tiny_root, sequences=[0, "00"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda scan, label: scan.write_bytes(b""), r"000000.bin is empty"),
        (lambda scan, label: label.write_bytes(b""), r"000000.label is empty"),
        (lambda scan, label: scan.write_bytes(b"\0" * 40), r"000000.bin has 40 bytes, which is no multiple of 16"),
        (lambda scan, label: label.write_bytes(b"\0" * 30), r"000000.label has 30 bytes.*multiple of 4"),
        (lambda scan, label: label.write_bytes(b"\0" * 40), r"000000.label has 10 labels, .*.bin has 200 points"),
        (lambda scan, label: scan.unlink(), r"cannot read .*000000.bin: No such file"),
        (
            lambda scan, label: np.array([10] * 150 + [7] * 30 + [65535] * 20, np.uint32).tofile(label),
            r"000000.label: unknown raw label 7 \(30 points\), 65535 \(20 points\). Known: 0, 1, 10",
        ),
    ],
)
def test_bad_files(tiny_root, damage, message):
    data = dataset(tiny_root)
    damage(*files(tiny_root))
    with pytest.raises(DataError, match=message):
        data[0]
    assert len(data[1]["coord"]) == 200


@pytest.mark.parametrize("column", [1, 3])
def test_nonfinite_points(tiny_root, column):
    scan, _ = files(tiny_root)
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    before = dataset(tiny_root)[0]
    points[3, column], points[9, column] = np.nan, -np.inf
    points.tofile(scan)
    with pytest.raises(DataError, match=r"2 of 200 points of .*000000.bin have NaN or infinite values.*\"drop\""):
        dataset(tiny_root)[0]
    kept = np.delete(np.arange(200), [3, 9])
    sample = dataset(tiny_root, nonfinite="drop")[0]
    for key in ("coord", "strength", "segment"):
        np.testing.assert_array_equal(sample[key], before[key][kept])
    points[:] = np.nan
    points.tofile(scan)
    with pytest.raises(DataError, match="no point is left"):
        dataset(tiny_root, nonfinite="drop")[0]


def test_submission_of_a_scan_with_nonfinite_points(tiny_root, tmp_path):
    scan, _ = files(tiny_root)
    points = np.fromfile(scan, np.float32).reshape(-1, 4)
    points[5, 0] = np.nan
    points.tofile(scan)
    data = dataset(tiny_root, nonfinite="drop")
    raw = np.fromfile(data.write_submission(tmp_path / "s", "00_000000", np.zeros(199, int)), np.uint32)
    assert raw[5] == 0
    assert (np.delete(raw, 5) == 10).all()


def test_one_point_and_all_ignored(tiny_root):
    write(tiny_root, [[1, 2, 3, 0.5]], [0])
    result = dataset(tiny_root, transform=TRAIN)[Draw(0, 1)]
    assert result["coord"].shape == (1, 3)
    assert result["segment"].tolist() == [-1]
    assert result["grid_coord"].tolist() == [[0, 0, 0]]
    assert result["offset"].tolist() == [1]
    write(tiny_root, np.random.default_rng(0).uniform(0, 1, (50, 4)), [99] * 50)
    assert (dataset(tiny_root, transform=TRAIN)[0]["segment"] == -1).all()


def test_too_large_an_extent(tiny_root):
    write(tiny_root, [[0, 0, 0, 0], [1e6, 0, 0, 0]], [0, 0])
    with pytest.raises(DataError, match=r"with grid_size 0.05 m"):
        dataset(tiny_root, transform=TRAIN)[0]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_submission_round_trip(tiny_root, tmp_path, kind):
    data = dataset(tiny_root, sequences=[8])
    pred = np.random.default_rng(0).integers(0, 19, 200)
    path = data.write_submission(tmp_path / "out", "08_000001", kind(pred))
    assert path == tmp_path / "out" / "sequences" / "08" / "predictions" / "000001.label"
    raw = np.fromfile(path, np.uint32)
    np.testing.assert_array_equal(label_table(-1)[raw], pred)
    data.write_submission(tmp_path / "out", "08_000001", kind(np.zeros(200, int)))
    assert (np.fromfile(path, np.uint32) == 10).all()
    assert [p.name for p in path.parent.iterdir()] == ["000001.label"], "no temporary files are left"


def test_wrong_predictions(tiny_root, tmp_path):
    data = dataset(tiny_root, sequences=[8])
    for pred, message in (
        (np.zeros(199, int), r"08_000000 has the shape \(199,\), the scan has 200 points"),
        (np.zeros((200, 19), int), r"shape \(200, 19\)"),
        (np.zeros(200), "expected integer classes, got float64"),
        (np.full(200, 19), r"200 of 200 points have a class outside 0\.\.18"),
        (np.full(200, -1), "for instance -1"),
    ):
        with pytest.raises(DataError, match=message):
            data.write_submission(tmp_path / "out", "08_000000", pred)
    with pytest.raises(DataError, match="cannot read"):
        data.write_submission(tmp_path / "out", "09_000000", np.zeros(200, int))
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_nothing(tiny_root, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        dataset(tiny_root).write_submission(tmp_path / "out", "00_000000", np.zeros(200, int))
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


@pytest.mark.parametrize("sequence", ["00", "08"])
def test_real_scans(kitti_root, sequence):
    data = build_dataset({"type": "SemanticKITTIDataset", "data_root": str(kitti_root), "sequences": [sequence]})
    assert len(data) == 10
    assert data.get_data_name(3) == f"{sequence}_000003"
    for i in range(len(data)):
        sample = data[i]
        assert 100_000 < len(sample["coord"]) < 140_000
        assert np.abs(sample["coord"]).max() < 120
        assert 0 <= sample["strength"].min() <= sample["strength"].max() <= 1
        assert sample["segment"].min() == -1
        assert sample["segment"].max() <= 18
        assert 0.05 < (sample["segment"] == 8).mean() < 0.6, "road"


def test_real_training_sample(kitti_root):
    data = SemanticKITTIDataset("val", kitti_root, TRAIN)
    result = data[Draw(0, 5)]
    n = len(result["coord"])
    assert 60_000 < n < 123_389
    assert result["feat"].shape == (n, 4)
    assert len(torch.unique(result["grid_coord"], dim=0)) == n
    assert result["grid_coord"].min() == 0
    again = data[Draw(0, 5)]
    assert all(torch.equal(result[k], again[k]) for k in ("coord", "grid_coord", "segment", "feat"))


def test_real_fragments(kitti_root, tmp_path):
    post = [
        {"type": "ToTensor"},
        {"type": "Collect", "keys": ("coord", "grid_coord", "index"), "feat_keys": ("coord", "strength")},
    ]
    transform = [
        {"type": "Copy", "keys_dict": {"segment": "origin_segment"}},
        {"type": "GridSample", "grid_size": 0.025, "hash_type": "fnv", "mode": "train", "return_inverse": True},
    ]
    cfg = {
        "voxelize": {
            "type": "GridSample",
            "grid_size": 0.05,
            "hash_type": "fnv",
            "mode": "test",
            "return_grid_coord": True,
        },
        "crop": None,
        "post_transform": post,
        "aug_transform": [[{"type": "RandomScale", "scale": [1.05, 1.05]}, {"type": "RandomFlip", "p": 1}]],
    }
    data = SemanticKITTIDataset("val", kitti_root, transform, test_mode=True, test_cfg=cfg)
    result = data[Draw(4, 0)]
    pred = np.full(result["num_points"], -1)
    for fragment in result["fragment_list"]:
        pred[fragment["index"]] = result["segment"][fragment["index"]]
    np.testing.assert_array_equal(pred, result["segment"])
    full = pred[result["inverse"]]
    assert (full == result["origin_segment"]).mean() > 0.99, "voxels of 2.5 cm rarely hold two classes"
    path = data.write_submission(tmp_path, result["name"], np.maximum(full, 0))
    assert path.stat().st_size == 4 * len(result["origin_segment"])
