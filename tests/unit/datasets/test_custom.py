"""Scans of one's own: where they and their labels lie, what the config says of them, what is said about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointcept.datasets import DATASETS, build_dataset
from pointcept.datasets.arguments import check_dataset
from pointcept.datasets.clouds.reader import CloudReader
from pointcept.utils.errors import ConfigError, DataError

NAMES = ["ground", "tree", "car"]
MAP = {2: "ground", 5: "tree", 6: "car", 7: "car", 0: None}
RAW = np.array([2, 5, 6, 7, 0, 2], np.int64)
CLASSES = [0, 1, 2, 2, -1, 0]
COORD = np.arange(18, dtype=np.float32).reshape(6, 3) - 8


def dataset(root: Path, **arguments: Any) -> Any:
    return build_dataset(
        {"type": "CustomDataset", "names": NAMES, "data_root": str(root), "transform": [], **arguments}
    )


def scan(path: Path, labels: np.ndarray | None = RAW, seed: int = 0) -> Path:
    """A table with labels or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = np.c_[COORD + seed, np.full(6, 0.5)]
    head = "x,y,z,intensity"
    if labels is not None:
        fields, head = np.c_[fields, labels], f"{head},class"
    np.savetxt(path, fields, delimiter=",", header=head, comments="", fmt="%g")
    return path


def test_labels_in_the_scans(tmp_path: Path) -> None:
    scan(tmp_path / "train" / "a.csv")
    scan(tmp_path / "train" / "b" / "a.csv", seed=1)
    data = dataset(tmp_path, label_map=MAP, ignored_labels=[9])
    assert [data.get_data_name(i) for i in range(2)] == ["train_a", "train_b_a"]
    sample = data[1]
    assert (sample["coord"].dtype, sample["strength"].shape) == (np.float32, (6, 1))
    np.testing.assert_array_equal(sample["coord"], COORD + 1)
    assert sample["segment"].tolist() == CLASSES
    assert data.names == tuple(NAMES)
    assert data.encode_prediction(np.array([0, 1, 2, -1])).tolist() == [2, 5, 6, 0]
    unlabelled = dataset(tmp_path, unlabelled=True)
    assert set(unlabelled[0]["segment"].tolist()) == {-1}


@pytest.mark.parametrize("suffix", [".label", ".npy", ".txt"])
@pytest.mark.parametrize("folder", [None, "labels"])
def test_labels_beside_the_scans(tmp_path: Path, suffix: str, folder: str | None) -> None:
    path = scan(tmp_path / "train" / "points" / "a.b.csv", None)
    place = path.parent if folder is None else path.parent.with_name(folder)
    place.mkdir(exist_ok=True)
    if suffix == ".label":
        (RAW + (3 << 16)).astype("<u4").tofile(place / "a.b.label")
    elif suffix == ".npy":
        np.save(place / "a.b.npy", RAW[:, None])
    else:
        np.savetxt(place / "a.b.txt", RAW, fmt="%d")
    data = dataset(tmp_path, label_map=MAP, labels=suffix, label_folder=folder, scan_suffixes=[".csv"])
    assert data[0]["segment"].tolist() == CLASSES
    classes = data.read_classes(place / f"a.b{suffix}")
    assert classes.tolist() == CLASSES
    next(place.glob("a.b" + suffix)).unlink()
    with pytest.raises(DataError, match=r"a\.b\.csv has no labels, looked for .*a\.b\.\w+"):
        dataset(tmp_path, label_map=MAP, labels=suffix, label_folder=folder, scan_suffixes=[".csv"])
    test = dataset(tmp_path, labels=suffix, split="test", splits={"test": "train"}, scan_suffixes=[".csv"])
    assert "segment" not in test[0]


def test_splits(tmp_path: Path) -> None:
    for name in ("s1/a", "s1/b", "s2/a"):
        scan(tmp_path / f"{name}.csv")
    (tmp_path / "val.txt").write_text("# of the second scene\ns2\n\ns1/b.csv\n")
    names = dataset(tmp_path, label_map=MAP, split="val")
    assert [s.name for s in names.data_list] == ["s2_a", "s1_b"]
    several = dataset(tmp_path, label_map=MAP, splits={"train": ["s1/a.csv", "s2"]})
    assert [s.name for s in several.data_list] == ["s1_a", "s2_a"]
    with pytest.raises(DataError, match=r"split 'test': there is no .*test; a split is the folder"):
        dataset(tmp_path, split="test")
    with pytest.raises(DataError, match=r"s2/a\.csv is twice among the scans"):
        dataset(tmp_path, split=["train", "val"], splits={"train": "s2"})
    np.save(tmp_path / "s2" / "a.npy", COORD)
    mixed = dataset(tmp_path, split="test", splits={"test": "s2"})
    assert [s.name for s in mixed.data_list] == ["s2_a.csv", "s2_a.npy"]


@pytest.mark.parametrize(
    ("labels", "arguments", "words"),
    [
        (
            [2, 77, 77, 2, 2, 3],
            {"label_map": MAP},
            r"a\.csv: unknown label 3 \(1 points\), 77 \(2 points\)\. Known: -1, 0",
        ),
        ([0, 1, 2, 3, -1, 0], {}, r"a\.csv: unknown label 3 \(1 points\)\. Known: -1, 0, 1, 2"),
        ([0, 1, 2.5, 2, 1, 0], {}, r"a\.csv: labels are integers, got \[2\.5\]"),
        (None, {}, r"a\.csv has no field of labels, only x, y, z, intensity: clouds=dict"),
        (RAW, {"clouds": {"fields": {"label": "klass"}}}, "no field 'klass' for label: did you mean 'class'"),
    ],
)
def test_wrong_labels_are_one_line(tmp_path: Path, labels: Any, arguments: dict[str, Any], words: str) -> None:
    scan(tmp_path / "train" / "a.csv", None if labels is None else np.array(labels))
    with pytest.raises(DataError, match=words) as caught:
        dataset(tmp_path, **arguments)[0]
    assert "\n" not in str(caught.value)


def test_another_number_of_labels(tmp_path: Path) -> None:
    scan(tmp_path / "train" / "a.csv", None)
    np.save(tmp_path / "train" / "a.npy", RAW[:5])
    data = dataset(tmp_path, labels=".npy", scan_suffixes=[".csv"], label_map=MAP)
    with pytest.raises(DataError, match=r"a\.npy has 5 labels, .*a\.csv has 6 points"):
        data[0]
    (tmp_path / "train" / "a.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"a\.npy holds no labels"):
        data[0]


def test_points_that_are_not_finite(tmp_path: Path) -> None:
    path = scan(tmp_path / "train" / "a.csv")
    path.write_text(path.read_text().replace("-8,", "nan,", 1))
    with pytest.raises(DataError, match=r'a\.csv: 1 of 6 points have NaN .*; nonfinite="drop" leaves'):
        dataset(tmp_path, label_map=MAP)[0]
    data = dataset(tmp_path, label_map=MAP, nonfinite="drop")
    assert data[0]["segment"].tolist() == CLASSES[1:]
    written = data.write_submission(tmp_path / "out", "train_a", np.array([0, 1, 2, 2, 1]))
    assert np.load(written).tolist() == [-1, 0, 1, 2, 2, 1]
    assert written.name == "train_a.npy"
    with pytest.raises(DataError, match="there is no scan 'b'"):
        data.write_submission(tmp_path, "b", np.zeros(6, int))


def test_clouds_are_read_as_the_config_says(tmp_path: Path) -> None:
    path = tmp_path / "train" / "a.npy"
    path.parent.mkdir()
    np.save(path, np.c_[COORD[:, [0, 2, 1]] * [1, 1, -1], RAW, RAW * 10.0])
    clouds = {"fields": {"label": "3", "intensity": "4"}, "up": "y", "intensity_scale": 100.0, "sensor_height": 2.0}
    data = dataset(tmp_path, label_map=MAP, clouds=clouds, sensor={"ground": -1.5, "strength": 0.2})
    sample = data[0]
    np.testing.assert_allclose(sample["coord"], COORD + np.array([0, 0, 0.5]))
    np.testing.assert_allclose(sample["strength"][:, 0], RAW / 10)
    assert sample["segment"].tolist() == CLASSES
    # Predictions read files alike, but for what the user says.
    reader = CloudReader(check_dataset({"type": "CustomDataset", "names": NAMES, "clouds": clouds}, "data.test"))
    (file,) = reader.find(tmp_path / "train")
    np.testing.assert_allclose(reader.read(file).sample["strength"][:, 0], RAW / 10)
    other = CloudReader(reader.dataset, {"intensity_scale": 200.0, "up": None, "fields": {}})
    np.testing.assert_allclose(other.read(file).sample["strength"][:, 0], RAW / 20)
    found, kept = data.read_scan(path)
    np.testing.assert_array_equal(found["coord"], sample["coord"])
    assert kept is None


def test_objects_can_be_pasted(tmp_path: Path) -> None:
    for number in range(3):
        scan(tmp_path / "train" / f"{number}.csv", seed=number)
    paste = {"type": "InstancePaste", "p": 1, "min_points": 1, "count": (2, 2)}
    data = dataset(tmp_path, label_map=MAP, things=["car"], transform=[paste])
    np.random.seed(0)
    sample = data[0]
    assert "+2 objects" in sample["name"]
    assert (sample["segment"] == 2).sum() > 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": []}, "names: got [], allowed: a list of names, each once"),
        ({"names": ["a", "a"]}, "names: got"),
        ({"things": ["cra"]}, "things: no class 'cra': did you mean 'car'"),
        ({"label_map": {1: "tre"}}, "label_map: label 1 is of no class 'tre': did you mean 'tree'"),
        ({"label_map": {1: "tree"}}, "label_map: no label has the class 'ground', 'car'"),
        ({"label_map": {"1": "tree"}}, "label_map: got '1', allowed: a dict from labels (integers)"),
        ({"ignored_labels": [1]}, "ignored_labels: got [1], allowed: labels without a class; 1 has one"),
        ({"ignored_labels": "a"}, "ignored_labels: got 'a'"),
        ({"labels": ".lable"}, "labels: got '.lable': did you mean '.label'"),
        ({"label_folder": "labels"}, "label_folder: got 'labels'"),
        ({"splits": {"vall": "a"}}, "splits: there is no split 'vall': did you mean 'val'"),
        ({"splits": {"val": []}}, "splits.val: got []"),
        ({"scan_suffixes": [".foo"]}, "scan_suffixes: got ['.foo'], allowed: a list out of .pcd.bin"),
        ({"colours": ["red"]}, "colours: got ['red'], allowed: 3 colours such as"),
        ({"sensor": {"hight": 1}}, "sensor: got {'hight': 1}, allowed: a dict of numbers"),
        ({"clouds": {"intensty": 1}}, "clouds: takes no 'intensty': did you mean 'intensity'"),
        ({"clouds": {"up": "q"}}, "clouds.up: got 'q'"),
    ],
)
def test_wrong_arguments_are_found_without_scans(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_dataset({"type": "CustomDataset", "names": NAMES, **arguments}, "data.train")
    assert str(caught.value).startswith(f"data.train.{words}")
    assert "CustomDataset" in DATASETS
