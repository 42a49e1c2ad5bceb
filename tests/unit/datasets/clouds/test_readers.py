"""Every format as an independent program writes it, and what is said about files that are none."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the writers, which other tests use too
import writers
from writers import WRITERS, Scan, made_up

from pointcept.datasets.clouds import CloudFile, CloudOptions, find_clouds, read_cloud
from pointcept.datasets.clouds.frame import TURNS, to_frame, to_strength, turn
from pointcept.datasets.clouds.mcap_bag import decode
from pointcept.datasets.clouds.pcd import decompress
from pointcept.datasets.clouds.sensor import Sensor, differences, ground_height, measure
from pointcept.datasets.clouds.write import coloured_ply, own_format, palette
from pointcept.utils.errors import ConfigError, DataError

PLAIN = CloudOptions()


@pytest.fixture(scope="module")
def scan() -> Scan:
    return made_up()


def written(name: str, folder: Path, scan: Scan) -> Path:
    suffix, write, packages = WRITERS[name]
    for package in packages:
        pytest.importorskip(package)
    path = folder / f"scan{suffix}"
    write(path, scan)
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_points(name: str, tmp_path: Path, scan: Scan) -> None:
    path = written(name, tmp_path, scan)
    (file,) = find_clouds(path)
    cloud = read_cloud(file)
    frame = to_frame(cloud, PLAIN, None)
    assert (frame.sample["coord"].dtype, frame.sample["strength"].dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(frame.sample["coord"], scan.coord)
    np.testing.assert_array_equal(frame.sample["strength"], scan.strength[:, None])
    assert frame.kept is None
    assert frame.notes == {}
    label = cloud.find("label", {})
    assert (label is None) == (name in ("KITTI", "nuScenes", "npy", "text"))
    if label is not None:
        np.testing.assert_array_equal(cloud.fields[label], scan.label)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("KITTI", "nuScenes", "bag")])
def test_the_own_format_with_labels_is_read_by_others(name: str, tmp_path: Path, scan: Scan) -> None:
    path = written(name, tmp_path, scan)
    labels = np.arange(len(scan.coord)) % 5 + (64 if path.suffix in (".las", ".laz") else 0)
    suffix = path.suffix.lower()
    out = tmp_path / f"out{suffix}"
    out.write_bytes(own_format(CloudFile(path), suffix, labels, PLAIN))
    if suffix in (".las", ".laz"):
        import laspy

        data = laspy.read(out)
        found, coord = np.asarray(data.classification), np.stack([data.x, data.y, data.z], 1)
        assert np.array_equal(data.intensity, scan.intensity.astype(int) * 257), "other dimensions stay"
    elif suffix == ".ply":
        plyfile = pytest.importorskip("plyfile")
        vertices = plyfile.PlyData.read(str(out))["vertex"]
        found, coord = vertices["label"], np.stack([vertices[axis] for axis in "xyz"], 1)
    elif suffix in (".npy", ".npz"):
        content = np.load(out)
        found, coord = content["label"], np.stack([content[axis] for axis in "xyz"], 1)
    else:
        cloud = read_cloud(out)
        found, coord = list(cloud.fields.values())[-1], cloud.coord({})
        assert name == "text" or list(cloud.fields)[-1] == "label", (
            "without a line of names the label is the last column"
        )
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(np.asarray(coord, np.float32), scan.coord)


def test_a_table_keeps_its_text(tmp_path: Path, scan: Scan) -> None:
    path = written("csv", tmp_path, scan)
    labels = np.arange(len(scan.coord))
    lines = own_format(CloudFile(path), ".csv", labels, PLAIN).decode().splitlines()
    before = path.read_text().splitlines()
    assert lines[0] == before[0] + ",label"
    assert lines[1:] == [f"{line},{number}" for number, line in enumerate(before[1:])]
    bare = tmp_path / "bare.csv"
    np.savetxt(bare, scan.coord[:2], delimiter=",", fmt="%.10g")
    first = own_format(CloudFile(bare), ".csv", labels[:2], PLAIN).decode().splitlines()
    assert (first[0], first[1].split(",")[-1]) == ("x,y,z,label", "0")


def test_a_bag_holds_many_clouds(tmp_path: Path, scan: Scan) -> None:
    pytest.importorskip("mcap_ros2")
    other = made_up(20, 1)
    writers.bag(tmp_path / "a.mcap", scan, other, topics=("/front", "/rear"))
    files = find_clouds(tmp_path)
    assert [file.part for file in files] == [
        "/front@1000000000", "/rear@1000000000", "/front@2000000000", "/rear@2000000000",
    ]  # fmt: skip
    assert [len(read_cloud(file)) for file in files] == [60, 60, 20, 20]
    assert len(find_clouds(tmp_path, CloudOptions(topic="/rear"))) == 2
    with pytest.raises(DataError, match=r"a\.mcap: has no clouds of the topic '/read': did you mean '/rear'"):
        find_clouds(tmp_path / "a.mcap", CloudOptions(topic="/read"))


def test_messages_of_other_machines(scan: Scan) -> None:
    """Big-endian CDR, rows with a gap at their end, and ROS 1, which aligns nothing."""
    body, n = writers.points_of_ros(scan), len(scan.coord)
    rows = body[: n // 2 * 24] + bytes(7) + body[n // 2 * 24 :] + bytes(7)

    def message(order: str, aligned: bool, head: bytes) -> bytes:
        out = bytearray()

        def put(form: str, value: Any) -> None:
            out.extend(bytes(-len(out) % struct.calcsize(form)) if aligned else b"")
            out.extend(struct.pack(order + form, value))

        def word(text: str) -> None:
            encoded = text.encode() + (b"\0" if aligned else b"")
            put("I", len(encoded))
            out.extend(encoded)

        for value in (1, 2) if aligned else (9, 1, 2):  # seq in ROS 1
            put("I", value)
        word("lidar")
        put("I", 2), put("I", n // 2), put("I", len(writers.FIELDS))
        for name, offset, kind in writers.FIELDS:
            word(name), put("I", offset), put("B", kind), put("I", 1)
        put("B", 0), put("I", 24), put("I", n // 2 * 24 + 7), put("I", len(rows))
        out.extend(rows)
        put("B", 1)
        return head + bytes(out)

    for data, ros1 in ((message(">", True, b"\0\0\0\0"), False), (message("<", False, b""), True)):
        np.testing.assert_array_equal(decode(data, ros1).coord({}), scan.coord)
        with pytest.raises(DataError, match="cut off"):
            decode(data[:-100], ros1)


def test_lzf_of_another_encoder() -> None:
    lzf = pytest.importorskip("lzf")
    data = np.random.default_rng(0).integers(0, 3, 5000).astype(np.uint8).tobytes() + bytes(900)
    assert decompress(lzf.compress(data), len(data)) == data == decompress(writers.lzf(data), len(data))


def test_fields_of_other_names_and_places(tmp_path: Path, scan: Scan) -> None:
    np.save(tmp_path / "a.npy", np.c_[scan.label, scan.intensity, scan.coord])
    options = CloudOptions(fields={"x": "2", "y": "3", "z": "4", "intensity": "1", "label": "0"})
    cloud = read_cloud(tmp_path / "a.npy", options)
    frame = to_frame(cloud, options, None)
    np.testing.assert_array_equal(frame.sample["coord"], scan.coord)
    np.testing.assert_array_equal(frame.sample["strength"][:, 0], scan.strength)
    assert cloud.find("label", options.fields) == "x"
    np.c_[scan.coord, scan.strength, scan.coord].astype(np.float32).tofile(tmp_path / "b.bin")
    seven = to_frame(read_cloud(tmp_path / "b.bin", CloudOptions(columns=7)), PLAIN, None)
    np.testing.assert_array_equal(seven.sample["coord"], scan.coord)
    text = tmp_path / "c.txt"
    text.write_text("60\n" + "\n".join("|".join(map(repr, row)) for row in scan.coord.tolist()))
    bars = to_frame(read_cloud(text, CloudOptions(delimiter="|")), PLAIN, None)
    np.testing.assert_array_equal(bars.sample["coord"], scan.coord)
    text.write_text("x y z red\n1 2 3 255\n-1 -2 -3 0\n")
    assert "intensity" in to_frame(read_cloud(text), PLAIN, None).notes


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("text", "csv", "tabs", "PCD ascii")])
def test_a_truncated_file_is_one_line(name: str, tmp_path: Path, scan: Scan) -> None:
    path = written(name, tmp_path, scan)
    path.write_bytes(path.read_bytes()[:-41] if name != "PLY by hand" else path.read_bytes()[:-400])
    with pytest.raises(DataError) as caught:
        read_cloud(find_clouds(tmp_path)[0])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.bin", b"", "is empty"),
        ("a.pcd", b"VERSION 0.7\nFIELDS x", "no line DATA"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4\nTYPE F F F\nWIDTH 1\nHEIGHT 1\nDATA ascii\n1 2 3\n", "header is damaged"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nHEIGHT 1\nDATA ascii\n1 2 3\n", "its header says 2"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 0\nHEIGHT 1\nDATA ascii\n", "holds no points"),
        ("a.ply", b"solid", "no PLY file"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no element vertex"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty flot x\nend_header\n", "KeyError: 'flot'"),
        ("a.npy", b"nonsense", "damaged or no file of NumPy"),
        ("a.npz", b"PK nonsense", "damaged or no file of NumPy"),
        ("a.txt", b"\xff\xfe\x00", "no text in UTF-8"),
        ("a.txt", b"", "holds no points"),
        ("a.csv", b"x,y,z\n", "holds no points"),
        ("a.csv", b"x,y,z\n1,2,3\n1,b,3\n", "a line is no point"),
        ("a.csv", b"x y z\n1 2 3\n", "expected three or more numbers"),
        ("a.las", b"LASF nonsense", "no LAS file"),
        ("a.mcap", b"nonsense", "no MCAP file"),
    ],
)  # fmt: skip
def test_what_is_no_cloud_is_one_line(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    pytest.importorskip({".las": "laspy", ".mcap": "mcap"}.get(Path(name).suffix, "numpy"))
    options = CloudOptions(delimiter=",") if words.startswith("expected three") else PLAIN
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_cloud(path, options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_are_not_there(tmp_path: Path, scan: Scan) -> None:
    path = written("npz", tmp_path, scan)
    with pytest.raises(DataError, match="no field 'intesity' for intensity: did you mean 'intensity'"):
        to_frame(read_cloud(path), CloudOptions(fields={"intensity": "intesity"}), None)
    np.savez(tmp_path / "b.npz", a=scan.intensity, b=scan.label)
    with pytest.raises(DataError, match="no field 'x', only a, b: say which it is, x=NAME"):
        to_frame(read_cloud(tmp_path / "b.npz"), PLAIN, None)
    with pytest.raises(DataError, match=r"is no cloud by its name; what is read ends in \.pcd\.bin, \.bin, \.pcd"):
        find_clouds(Path(__file__))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no scans"):
        find_clouds(tmp_path / "empty")
    with pytest.raises(DataError, match=r"there is no scan file or folder .*gone"):
        find_clouds(tmp_path / "gone")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fields": {"intensty": "a"}}, "fields: no field has the meaning 'intensty': did you mean 'intensity'"),
        ({"fields": {"x": 0}}, "fields.x: got 0, allowed: the name of a field"),
        ({"fields": "x"}, "fields: got 'x', allowed: a dict"),
        ({"columns": 2}, "columns: got 2"),
        ({"delimiter": ",,"}, "delimiter: got ',,', allowed: one character"),
        ({"intensity_scale": 0}, "intensity_scale: got 0"),
        ({"intensity": 2}, "intensity: got 2"),
        ({"up": "w"}, "up: got 'w'"),
        ({"topic": 1}, "topic: got 1"),
    ],
)
def test_options_are_checked(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CloudOptions(**arguments)
    assert str(caught.value).startswith(words)


def test_points_that_are_not_finite(tmp_path: Path, scan: Scan) -> None:
    points = np.c_[scan.coord, scan.strength]
    points[3, 0], points[5, 3] = np.nan, np.inf
    np.save(tmp_path / "a.npy", points)
    cloud = read_cloud(tmp_path / "a.npy")
    frame = to_frame(cloud, PLAIN, None)
    assert frame.kept is not None
    assert np.flatnonzero(~frame.kept).tolist() == [3, 5]
    assert frame.notes == {"nonfinite": "2 of 60 points have NaN or infinite values and get no class"}
    with pytest.raises(DataError, match="2 of 60 points"):
        to_frame(cloud, PLAIN, None, "raise")
    cloud.fields["x"][:] = np.nan
    with pytest.raises(DataError, match="no point is left"):
        to_frame(cloud, PLAIN, None)


def test_strengths() -> None:
    for values, scale, expected in (
        (np.array([0, 0.5], np.float32), None, [0, 0.5]),
        (np.array([0.0, 51.0]), None, [0, 0.2]),
        (np.array([0, 1], np.uint8), None, [0, 1 / 255]),
        (np.array([0, 13107], np.uint16), None, [0, 0.2]),
        (np.array([0.0, 1.0]), 4.0, [0, 0.25]),
    ):
        np.testing.assert_allclose(to_strength(values, scale), expected, rtol=1e-6)
    for values, scale in ((np.array([-1.0, 2.0]), None), (np.array([0.0, 70000.0]), None), (np.array([0.0, 5.0]), 4.0)):
        with pytest.raises(DataError, match="its intensities go from"):
            to_strength(values, scale)


def test_up_is_turned_to_z() -> None:
    axes = np.eye(3)
    for up in TURNS:
        pointing = (-1 if up[0] == "-" else 1) * axes["xyz".index(up[-1])]
        assert turn(pointing[None], up)[0].tolist() == [0, 0, 1]
        assert np.linalg.det(turn(axes, up)) == 1, "a turn, no mirror"


def street(rng: np.random.Generator, height: float = 1.7) -> np.ndarray:
    flat = np.c_[rng.uniform(-25, 25, (4000, 2)), np.full(4000, -height)]
    walls = np.c_[rng.uniform(-25, 25, (1500, 2)), rng.uniform(-height, 4, 1500)]
    return np.concatenate([flat, walls])


def test_the_ground_comes_where_training_had_it() -> None:
    coord = street(np.random.default_rng(0), 1.2)
    trained = Sensor(5000, 22.0, -1.7, 0.3)
    assert ground_height(coord) == pytest.approx(-1.2)

    def placed(points: np.ndarray, options: CloudOptions) -> tuple[np.ndarray, dict[str, str]]:
        from pointcept.datasets.clouds.cloud import of_columns

        frame = to_frame(of_columns(points), options, trained)
        return frame.sample["coord"], frame.notes

    lifted, _ = placed(coord, CloudOptions(sensor_height=1.2))
    assert ground_height(lifted) == pytest.approx(-1.7, abs=1e-5)
    there, notes = placed(coord + np.array([691000.5, 5334000.25, 512.0]), PLAIN)
    assert ground_height(there) == pytest.approx(-1.7, abs=1e-4)
    assert np.abs(there[:, :2].max(0) + there[:, :2].min(0)).max() < 1e-3
    assert "coordinates of a map" in notes["origin"]
    assert "the strength 0.3 (the mean of the training data)" in notes["intensity"]
    y_up = coord[:, [0, 2, 1]] * [1, 1, -1]
    np.testing.assert_allclose(placed(y_up, CloudOptions(up="y"))[0], coord, atol=1e-5)


def test_another_sensor_is_told_of() -> None:
    coord = street(np.random.default_rng(0))
    strength = np.full((len(coord), 1), 0.3)
    own = measure(coord, strength)
    assert differences(own, own) == {}
    assert differences(own, Sensor()) == {}
    other = Sensor(own.points * 10, own.reach / 3, 0.0, 0.05)  # type: ignore[operator]
    told = differences(own, other)
    assert list(told) == ["points", "reach", "ground", "strength"]
    assert told["ground"].startswith("the ground seems to lie at z = -1.7 m, in training at 0.0 m")


def test_coloured_clouds(tmp_path: Path, scan: Scan) -> None:
    plyfile = pytest.importorskip("plyfile")
    coord = scan.coord.copy()
    coord[2] = np.nan
    np.save(tmp_path / "a.npy", np.c_[coord, scan.strength])
    classes = np.arange(60) % 3
    classes[[2, 4]] = -1
    data = coloured_ply(CloudFile(tmp_path / "a.npy"), classes, ("car", "road", "tree"), PLAIN)
    (tmp_path / "a.ply").write_bytes(data)
    read = plyfile.PlyData.read(str(tmp_path / "a.ply"))
    vertices = read["vertex"]
    kept = np.arange(60) != 2
    assert read.comments == ["label 0 car", "label 1 road", "label 2 tree"]
    np.testing.assert_array_equal(vertices["label"], classes[kept])
    np.testing.assert_array_equal(np.stack([vertices[axis] for axis in "xyz"], 1), coord[kept])
    rgb = np.stack([vertices[colour] for colour in ("red", "green", "blue")], 1)
    np.testing.assert_array_equal(rgb, palette(3)[classes[kept]])
    assert len(np.unique(palette(40), axis=0)) == 41
    assert palette(1, np.array([[1, 2, 3]])).tolist() == [[1, 2, 3], [90, 90, 90]]
