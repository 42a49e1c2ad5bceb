"""Point clouds as other programs write them: nothing here uses the readers or writers of the package."""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Scan(NamedTuple):
    """Points float32 (N, 3), whose coordinates are multiples of 1/1024 m, intensities uint8 (N,), labels uint8 (N,)."""

    coord: np.ndarray
    intensity: np.ndarray
    label: np.ndarray

    @property
    def strength(self) -> np.ndarray:
        """Intensities as KITTI has them, float32 (N,) from 0 to 1."""
        return (self.intensity / 255).astype(np.float32)


def rounded(coord: np.ndarray, strength: np.ndarray, label: np.ndarray) -> Scan:
    """A scan that every format can hold to the last bit."""
    coord = (np.round(coord.astype(np.float64) * 1024) / 1024).astype(np.float32)
    return Scan(coord, np.round(strength.reshape(-1) * 255).astype(np.uint8), label.astype(np.uint8))


def made_up(count: int = 60, seed: int = 0) -> Scan:
    rng = np.random.default_rng(seed)
    intensity = rng.integers(0, 256, count) / 255
    intensity[0] = 1.0  # so that the scale is seen
    return rounded(rng.uniform(-20, 20, (count, 3)), intensity, rng.integers(0, 4, count))


def kitti(path: Path, scan: Scan) -> None:
    np.c_[scan.coord, scan.strength].astype("<f4").tofile(path)


def nuscenes(path: Path, scan: Scan) -> None:
    np.c_[scan.coord, scan.intensity, np.arange(len(scan.coord)) % 32].astype("<f4").tofile(path)


def pcd_header(scan: Scan, data: str, fields: str = "x y z intensity label") -> bytes:
    n = len(scan.coord)
    return (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {fields}\nSIZE 4 4 4 4 1\nTYPE F F F F U\n"
        f"COUNT 1 1 1 1 1\nWIDTH {n}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {n}\nDATA {data}\n"
    ).encode()


def pcd_ascii(path: Path, scan: Scan) -> None:
    rows = zip(scan.coord.tolist(), scan.intensity.tolist(), scan.label.tolist(), strict=True)
    lines = [f"{x} {y} {z} {i} {label}" for (x, y, z), i, label in rows]
    path.write_bytes(pcd_header(scan, "ascii") + "\n".join([*lines, ""]).encode())


def pcd_binary(path: Path, scan: Scan) -> None:
    rows = zip(scan.coord.tolist(), scan.intensity.tolist(), scan.label.tolist(), strict=True)
    body = b"".join(struct.pack("<ffffB", *xyz, i, label) for xyz, i, label in rows)
    path.write_bytes(pcd_header(scan, "binary") + body)


def pcd_compressed(path: Path, scan: Scan) -> None:
    columns = [*scan.coord.T.astype("<f4"), scan.intensity.astype("<f4"), scan.label]
    body = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    packed = lzf(body)
    path.write_bytes(pcd_header(scan, "binary_compressed") + struct.pack("<II", len(packed), len(body)) + packed)


def lzf(data: bytes) -> bytes:
    """Compress as liblzf does: the last place of every three bytes is remembered, and copied from where it repeats."""
    out, literals, seen, at = bytearray(), bytearray(), {}, 0

    def flush() -> None:
        for start in range(0, len(literals), 32):
            piece = literals[start : start + 32]
            out.append(len(piece) - 1)
            out.extend(piece)
        literals.clear()

    while at < len(data):
        key = data[at : at + 3]
        earlier = seen.get(key, -1)
        seen[key] = at
        if len(key) < 3 or earlier < 0 or at - earlier > 8192:
            literals.append(data[at])
            at += 1
            continue
        length = 3
        while length < 264 and at + length < len(data) and data[earlier + length] == data[at + length]:
            length += 1
        flush()
        distance = at - earlier - 1
        if length - 2 < 7:
            out.append((length - 2) << 5 | distance >> 8)
        else:
            out += bytes([7 << 5 | distance >> 8, length - 9])
        out.append(distance & 255)
        at += length
    flush()
    return bytes(out)


def ply_by_hand(path: Path, scan: Scan) -> None:
    """ASCII, with faces behind and an element before the vertices, and CloudCompare's name of the intensity."""
    n = len(scan.coord)
    head = (
        "ply\nformat ascii 1.0\ncomment by hand\nelement camera 1\nproperty float focus\n"
        f"element vertex {n}\nproperty float x\nproperty float y\nproperty float z\nproperty uchar scalar_Intensity\n"
        "property uchar label\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n0.5\n"
    )
    rows = zip(scan.coord.tolist(), scan.intensity.tolist(), scan.label.tolist(), strict=True)
    body = "".join(f"{x} {y} {z} {i} {label}\n" for (x, y, z), i, label in rows)
    path.write_text(head + body + "3 0 1 2\n")


def ply_by_plyfile(**how: Any) -> Callable[[Path, Scan], None]:
    def write(path: Path, scan: Scan) -> None:
        import plyfile

        dtype = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "u1"), ("label", "u1")]
        records = np.empty(len(scan.coord), dtype)
        for axis, values in zip("xyz", scan.coord.T, strict=True):
            records[axis] = values
        records["intensity"], records["label"] = scan.intensity, scan.label
        plyfile.PlyData([plyfile.PlyElement.describe(records, "vertex")], **how).write(str(path))

    return write


def npy(path: Path, scan: Scan) -> None:
    np.save(path, np.c_[scan.coord, scan.strength])


def npz(path: Path, scan: Scan) -> None:
    np.savez(path, coord=scan.coord, intensity=scan.intensity[:, None], label=scan.label)


def las(path: Path, scan: Scan) -> None:
    import laspy

    data = laspy.create(point_format=3, file_version="1.2")
    data.header.scales, data.header.offsets = np.full(3, 1 / 1024), np.zeros(3)
    data.x, data.y, data.z = scan.coord.astype(np.float64).T
    data.intensity, data.classification = scan.intensity.astype(np.uint16) * 257, scan.label
    data.write(str(path))


def text(path: Path, scan: Scan) -> None:
    np.savetxt(path, np.c_[scan.coord, scan.intensity], fmt="%.10g")


def table(delimiter: str, *names: str) -> Callable[[Path, Scan], None]:
    """A table with names, one of its columns text."""

    def write(path: Path, scan: Scan) -> None:
        with open(path, "w", newline="") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            writer.writerow(["frame", *names])
            for xyz, i, label in zip(scan.coord.tolist(), scan.intensity.tolist(), scan.label.tolist(), strict=True):
                writer.writerow(["os1", *map(repr, xyz), i, label])

    return write


FIELDS = [("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 16, 7), ("label", 20, 2)]
STEP = 24  # with a gap, as drivers leave it


def points_of_ros(scan: Scan) -> bytes:
    records = np.zeros(
        len(scan.coord),
        {"names": ["p", "i", "l"], "formats": ["3<f4", "<f4", "u1"], "offsets": [0, 16, 20], "itemsize": STEP},
    )
    records["p"], records["i"], records["l"] = scan.coord, scan.intensity, scan.label
    return records.tobytes()


DEFINITION = """std_msgs/Header header
uint32 height
uint32 width
PointField[] fields
bool is_bigendian
uint32 point_step
uint32 row_step
uint8[] data
bool is_dense
================================================================================
MSG: sensor_msgs/PointField
string name
uint32 offset
uint8 datatype
uint32 count
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""


def bag(path: Path, *scans: Scan, topics: tuple[str, ...] = ("/lidar",)) -> None:
    """A bag of ROS 2, serialized by mcap_ros2."""
    from mcap_ros2.writer import Writer

    with open(path, "wb") as stream:
        writer = Writer(stream)
        schema = writer.register_msgdef("sensor_msgs/msg/PointCloud2", DEFINITION)
        other = writer.register_msgdef("std_msgs/msg/String", "string data")
        for number, scan in enumerate(scans):
            message = {
                "header": {"stamp": {"sec": number, "nanosec": 5}, "frame_id": "os_sensor"},
                "height": 1,
                "width": len(scan.coord),
                "fields": [{"name": n, "offset": o, "datatype": d, "count": 1} for n, o, d in FIELDS],
                "is_bigendian": False,
                "point_step": STEP,
                "row_step": STEP * len(scan.coord),
                "data": points_of_ros(scan),
                "is_dense": True,
            }
            for topic in topics:
                writer.write_message(topic, schema, message, log_time=10**9 * (number + 1))
            writer.write_message("/words", other, {"data": "a"}, log_time=10**9 * (number + 1))
        writer.finish()


def one_bag(path: Path, scan: Scan) -> None:
    bag(path, scan)


WRITERS: dict[str, tuple[str, Callable[[Path, Scan], None], tuple[str, ...]]] = {
    "KITTI": (".bin", kitti, ()),
    "nuScenes": (".pcd.bin", nuscenes, ()),
    "PCD ascii": (".pcd", pcd_ascii, ()),
    "PCD binary": (".pcd", pcd_binary, ()),
    "PCD compressed": (".PCD", pcd_compressed, ()),
    "PLY by hand": (".ply", ply_by_hand, ()),
    "PLY ascii": (".ply", ply_by_plyfile(text=True), ("plyfile",)),
    "PLY little endian": (".ply", ply_by_plyfile(byte_order="<"), ("plyfile",)),
    "PLY big endian": (".ply", ply_by_plyfile(byte_order=">"), ("plyfile",)),
    "npy": (".npy", npy, ()),
    "npz": (".npz", npz, ()),
    "LAS": (".las", las, ("laspy",)),
    "LAZ": (".laz", las, ("laspy", "lazrs")),
    "text": (".xyz", text, ()),
    "csv": (".csv", table(",", "X", "Y", "Z", "Reflectance", "class"), ()),
    "tabs": (".txt", table("\t", "x", "y", "z", "intensity", "label"), ()),
    "bag": (".mcap", one_bag, ("mcap", "mcap_ros2")),
}
"""Name -> suffix, writer, the packages that it needs."""
