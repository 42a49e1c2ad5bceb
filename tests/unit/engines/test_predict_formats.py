"""The same real scan in every format gives the same labels; weights alone are enough; what is said on the way."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets.clouds import read_cloud
from pointcept.engines.defaults import load_config
from pointcept.engines.predict import argument_parser, main
from pointcept.engines.prediction import progress
from pointcept.models import build_model
from pointcept.utils.errors import CheckpointError, ConfigError, DataError
from tests.paths import CONFIGS, REPO

sys.path.insert(0, str(REPO / "tests" / "unit" / "datasets" / "clouds"))
from writers import WRITERS, Scan, rounded

LAS = (".las", ".laz")


@pytest.fixture(scope="module")
def scan(shared_dir: Path) -> Scan:
    """The points of a real nuScenes sweep within 12 m, all with a class of their own place."""
    points = np.fromfile(shared_dir / "data" / "nuscenes_sweep.pcd.bin", np.float32).reshape(-1, 5)
    near = points[(np.hypot(*points[:, :2].T) < 12) & (np.hypot(*points[:, :2].T) > 2)][::3]
    near[0, 3] = 255
    return rounded(near[:, :3], near[:, 3] / 255, np.arange(len(near)) % 4)


@pytest.fixture(scope="module")
def weight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small student without training, with its config, as a run leaves them."""
    torch.manual_seed(0)
    cfg = load_config(CONFIGS / "semantic_kitti" / "small_student.py", {"num_worker": 0})
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"state_dict": build_model(cfg.model).state_dict(), "config": cfg.pretty_text()}, path)
    return path


@pytest.fixture(scope="module")
def folder(scan: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scan as every writer leaves it whose packages are there, in folders below one folder."""
    root = tmp_path_factory.mktemp("scans")
    for number, (suffix, write, packages) in enumerate(WRITERS.values()):
        try:
            for package in packages:
                __import__(package)
        except ImportError:
            continue
        path = root / f"group{number % 3}" / f"scan{suffix}"
        while path.exists():
            path = path.with_name(f"x{path.name}")
        path.parent.mkdir(exist_ok=True)
        write(path, scan)
    return root


def run(*arguments: Any) -> None:
    main(argument_parser().parse_args([*map(str, arguments), "--quick"]))


def reference(scan: Scan, weight: Path, folder: Path) -> np.ndarray:
    np.c_[scan.coord, scan.strength].astype(np.float32).tofile(folder / "reference.bin")
    run(folder / "reference.bin", "--weight", weight, "--out", folder / "reference.npy")
    classes = np.load(folder / "reference.npy")
    assert len(np.unique(classes)) > 3
    return classes


def test_the_same_labels_from_every_format(
    scan: Scan, weight: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = reference(scan, weight, tmp_path)
    capsys.readouterr()
    run(folder, "--weight", weight, "--out", tmp_path / "out")
    found = sorted((tmp_path / "out").rglob("*.npy"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    # Beside scans of the benchmark, .npy, .npz and .txt are its labels and calibrations.
    left_out = [path for path in files if path.suffix in (".npy", ".npz", ".txt")]
    assert len(found) == len(files) - len(left_out) >= 8
    said = capsys.readouterr().out
    run(*left_out, "--weight", weight, "--out", tmp_path / "more")
    for path in (*found, *(tmp_path / "more").iterdir()):
        np.testing.assert_array_equal(np.load(path), expected, err_msg=str(path))
    assert re.search(r"\[1/\d+\] \d+ points in \d+\.\d+ s: .*\.npy, 0:00:\d\d left", said)
    assert f"classes of {len(scan.coord) * len(found)} points in {len(found)} scans:" in said
    table = dict(re.findall(r"^  ([a-z-]+) +(\d+) ", said.split("classes of")[1], re.MULTILINE))
    assert sum(map(int, table.values())) == len(expected) * len(found)
    assert "points, in training about 124000" in said
    assert "mean strength" in said


def test_labels_beside_the_points(scan: Scan, weight: Path, folder: Path, tmp_path: Path) -> None:
    expected = reference(scan, weight, tmp_path)
    pcd = next(folder.rglob("scan.pcd"))
    run(folder, "--weight", weight, "--out", tmp_path / "same", "--suffix", "same")
    for path in (tmp_path / "same").rglob("*"):
        if path.is_file():
            cloud = read_cloud(path)
            name = "column4" if path.suffix == ".xyz" else "classification" if path.suffix in LAS else "label"
            label = cloud.fields[name]
            codes = expected.astype(int) + 64 if path.suffix in LAS else expected
            np.testing.assert_array_equal(label, codes, err_msg=str(path))
    run(
        pcd,
        "--scan",
        next(folder.rglob("*.xyz")),
        "--weight",
        weight,
        "--out",
        tmp_path / "labels",
        "--suffix",
        ".label",
    )
    assert [len(np.fromfile(path, np.uint32)) for path in (tmp_path / "labels").iterdir()] == [len(expected)] * 2
    run(pcd, "--weight", weight, "--out", tmp_path / "a.ply")
    cloud = read_cloud(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.fields["label"], expected)
    assert len({*zip(*(cloud.fields[c].tolist() for c in ("red", "green", "blue")), strict=True)}) == len(set(expected))


def test_without_arguments_it_is_the_shipped_student(
    scan: Scan, weight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = ModuleType("pointcept.assets")
    monkeypatch.setattr(assets, "shipped_weight", lambda: weight, raising=False)
    monkeypatch.setitem(sys.modules, "pointcept.assets", assets)
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", np.c_[scan.coord, scan.strength])
    run("scan.npy")
    assert read_cloud(Path("predictions/scan.ply")).fields["red"].dtype == np.uint8
    run("scan.npy", "--engine")
    torch.save({"state_dict": {}}, "bare.pth")
    with pytest.raises(ConfigError, match="carries no config"):
        run("scan.npy", "--weight", "bare.pth")
    with pytest.raises(CheckpointError, match="does not exist"):
        run("scan.npy", "--weight", "gone.pth")


def test_bad_files_are_named_and_skipped(
    scan: Scan, weight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    points = np.c_[scan.coord, scan.strength]
    points[5] = np.nan
    np.save(root / "a.npy", points)
    (root / "b.pcd").write_bytes(b"")
    (root / "c.csv").write_text("a,b,c\n1,2,3\n")
    (root / "d.txt").write_text("1 2 3\n")
    (root / "notes.md").write_text("no scan")
    with pytest.raises(DataError, match=r"^2 of 4 scans have no prediction: .*b\.pcd: .*\(and 1 more, named above\)$"):
        run(root, "--weight", weight, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert re.search(r"ERROR\] skipped: \S+b\.pcd: no PCD file", said)
    assert re.search(r"ERROR\] skipped: \S+c\.csv: there is no field 'x', only a, b, c", said)
    assert re.search(r"WARNING\] a\.npy: 1 of \d+ points have NaN or infinite values and get no class", said)
    assert re.search(r"WARNING\] d\.txt: .*no intensity: all points get the strength 0\.28 \(the mean", said)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npy", "d.npy"]
    assert np.flatnonzero(np.load(tmp_path / "out" / "a.npy") < 0).tolist() == [5]
    assert "no class" in said


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress.Progress(3, ("a", "b"))
    bar.note("x.pcd", {"kind": "something"})
    bar.written(Path("x.npy"), np.array([0, 1, -1]))
    bar.skip("y.pcd", DataError("y.pcd: damaged"))
    bar.written(Path("z.npy"), np.array([0]))
    with pytest.raises(DataError, match="1 of 3 scans"):
        bar.finish()
    assert "3/3" in capsys.readouterr().err
    assert bar.counts.tolist() == [2, 1, 1]


def test_options_reach_the_reader(scan: Scan, weight: Path, tmp_path: Path) -> None:
    """The scan upside down, without a line of names, with intensities of another scale, from 2 m above the ground."""
    expected = reference(scan, weight, tmp_path)
    x, y, z = scan.coord.T
    rows = np.c_[scan.intensity * 4.0, z + 0.25, y, -x].tolist()  # up is x; -z of the file is x of the sensor
    lines = ["|".join(f"{value:.10g}" for value in row) for row in rows]
    (tmp_path / "odd.txt").write_text("\n".join(lines))
    run(
        *(tmp_path / "odd.txt", "--weight", weight, "--out", tmp_path / "odd.npy", "--delimiter", "|", "--up", "x"),
        *("--fields", "intensity=0", "x=1", "y=2", "z=3", "--intensity-scale", "1020", "--sensor-height", "1.5"),
    )
    np.testing.assert_array_equal(np.load(tmp_path / "odd.npy"), expected)
