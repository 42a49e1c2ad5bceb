"""The card of an exported folder, ``card.json``: what the network is, what it reads, and which files belong to it.

Everything in it is checked before any other file is opened. A program is read once, its bytes are compared with the
card's checksum, and these bytes are what is run.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointcept_runtime.curves import ORDERS
from pointcept_runtime.errors import ExportError
from pointcept_runtime.tables import MAX_LEVELS, MAX_STRIDE, parse_table

CARD = "card.json"
FORMAT, VERSION = "pointcept-export", 1
MOST_CARD = 1 << 20  # bytes
MOST_FILE = 1 << 33
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_FEATURES = {"coord": (0, 1, 2), "strength": (3,)}
RAW_TYPES = ("uint8", "uint16", "uint32")


@dataclass(frozen=True)
class Card:
    """A checked card.

    Attributes:
        folder: where it lies.
        names: of the classes, in the order of the network's outputs.
        colors: (r, g, b) of each class, 0 to 255.
        grid_size: edges of a voxel [m].
        clip: box that points are clamped to, (x, y, z) low and high [m], or None.
        features: what the network reads of each voxel, out of "coord" and "strength".
        strength_range: of the strengths in training, or None.
        dataset: whose scans the network was trained with.
        scan_columns: numbers of a point in a headerless float32 file, x, y, z, strength first; None: no such files.
        strength_divisor: what the strength in such a file is divided by.
        raw_suffix, raw_type, raw_values: of the benchmark's own label files, the number of each class; or None.
        orders, strides: of the network.
        tables: names of the index tables that it reads, in its order.
        programs: kind -> entry.
        files: name -> (SHA-256, bytes).
        facts: all the rest, for people: network, training, metrics, provenance.
    """

    folder: Path
    names: tuple[str, ...]
    colors: tuple[tuple[int, ...], ...]
    grid_size: tuple[float, ...]
    clip: tuple[float, ...] | None
    features: tuple[str, ...]
    strength_range: tuple[float, float] | None
    dataset: str
    scan_columns: int | None
    strength_divisor: float
    raw_suffix: str | None
    raw_type: str | None
    raw_values: tuple[int, ...] | None
    orders: tuple[str, ...]
    strides: tuple[int, ...]
    tables: tuple[str, ...]
    programs: dict[str, dict[str, Any]]
    files: dict[str, tuple[str, int]]
    facts: dict[str, Any]

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of the points (N, 4) that are the features."""
        return tuple(column for feature in self.features for column in _FEATURES[feature])

    def read_file(self, name: str) -> bytes:
        """A file of the folder, if it is what the card says.

        Raises:
            ExportError: it is missing, no regular file, or its bytes are others.
        """
        if name not in self.files:
            raise ExportError(f"{self.folder / CARD}: 'files' has no {name!r}")
        checksum, size = self.files[name]
        data = _read(self.folder / name, size)
        if len(data) != size or hashlib.sha256(data).hexdigest() != checksum:
            raise ExportError(
                f"{self.folder / name} is damaged: {len(data)} bytes with SHA-256 "
                f"{hashlib.sha256(data).hexdigest()[:16]}..., the card says {size} and {checksum[:16]}..."
            )
        return data

    def verify(self) -> None:
        """Compare every file with its checksum; see :meth:`read_file`."""
        for name in self.files:
            self.read_file(name)


def _read(path: Path, most: int) -> bytes:
    """At most ``most + 1`` bytes of a regular file, no link."""
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise ExportError(f"{path} is a link, a folder or a device, expected a file")
        with open(path, "rb") as file:
            return file.read(most + 1)
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist") from None
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror or error}") from None


def read_card(folder: str | Path) -> Card:
    """Read and check the card of an exported folder.

    Raises:
        ExportError: it is missing, damaged, of another version, or anything in it is not what it must be.
    """
    folder = Path(folder)
    path = folder / CARD
    data = _read(path, MOST_CARD)
    if len(data) > MOST_CARD:
        raise ExportError(f"{path} has more than {MOST_CARD} bytes")
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_repetition)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is no card: {error or type(error).__name__}") from None
    try:
        return _check(folder, content)
    except _Wrong as error:
        raise ExportError(f"{path}: {error}") from None


class _Wrong(ValueError):
    """What is wrong with a card."""


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


_KEYS = {
    "": "format version classes voxels features scan network programs files sensor training metrics provenance",
    "classes.": "name color raw",
    "voxels": "grid_size clip",
    "features": "keys strength_range",
    "scan": "dataset columns strength_divisor labels",
    "scan.labels": "suffix type",
    "network": "type form parameters orders strides tables",
    "files.": "sha256 bytes",
}
_PROGRAMS = {"onnx": "file opset precision attention", "pt2": "files device input capacities torch"}


def _object(value: Any, where: str, keys: str) -> dict[str, Any]:
    """A JSON object with exactly these keys."""
    if not isinstance(value, dict):
        raise _Wrong(f"{where or 'the card'} must be an object, got {_short(value)}")
    allowed, place = keys.split(), f"{where}." if where else ""
    for key in value:
        if key not in allowed:
            raise _Wrong(f"unknown key {place + key!r:.60}; allowed: {', '.join(allowed)}")
    for key in allowed:
        if key not in value:
            raise _Wrong(f"the key {place + key!r} is missing")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _want(value: Any, where: str, allowed: str, test: Callable[[Any], bool]) -> Any:
    if not test(value):
        raise _Wrong(f"{where}: got {_short(value)}, allowed: {allowed}")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
    # by comparison: an integer may be too large for a float
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def _is_list(value: Any, low: int, high: int) -> bool:
    return isinstance(value, list) and low <= len(value) <= high


def _check(folder: Path, content: Any) -> Card:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _Wrong(f"this is no card of an exported student: 'format' must be {FORMAT!r}")
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise _Wrong(f"version {_short(content.get('version'))}, this program reads version {VERSION}")
    _object(content, "", _KEYS[""])
    names, colors, raw = _classes(content["classes"])
    voxels, features = _object(content["voxels"], "voxels", _KEYS["voxels"]), content["features"]
    size = _want(
        voxels["grid_size"], "voxels.grid_size", "three numbers above 0",
        lambda v: _is_numbers(v, 3) and min(v) > 0,
    )  # fmt: skip
    clip = _want(
        voxels["clip"], "voxels.clip", "null, or six numbers, low below high",
        lambda v: v is None or (_is_numbers(v, 6) and all(a < b for a, b in zip(v[:3], v[3:], strict=True))),
    )  # fmt: skip
    _object(features, "features", _KEYS["features"])
    keys = _want(
        features["keys"], "features.keys", "'coord' and 'strength'",
        lambda v: _is_list(v, 1, 2) and all(isinstance(k, str) and k in _FEATURES for k in v),
    )  # fmt: skip
    strength = _want(
        features["strength_range"], "features.strength_range", "null, or two numbers, low below high",
        lambda v: v is None or (_is_numbers(v, 2) and v[0] < v[1]),
    )  # fmt: skip
    scan = _object(content["scan"], "scan", _KEYS["scan"])
    orders, strides, tables = _network(content["network"])
    files = _files(content["files"])
    return Card(
        folder=folder,
        names=names,
        colors=colors,
        grid_size=tuple(map(float, size)),
        clip=None if clip is None else tuple(map(float, clip)),
        features=tuple(keys),
        strength_range=None if strength is None else (float(strength[0]), float(strength[1])),
        dataset=_want(scan["dataset"], "scan.dataset", "a name", _is_text),
        scan_columns=_want(
            scan["columns"], "scan.columns", "null or 4 to 64", lambda v: v is None or _is_integer(v, 4, 64)
        ),
        strength_divisor=_want(
            scan["strength_divisor"], "scan.strength_divisor", "a number above 0", lambda v: _is_number(v) and v > 0
        ),
        **_labels(scan["labels"], raw),
        orders=orders,
        strides=strides,
        tables=tables,
        programs=_programs(content["programs"], files),
        files=files,
        facts={key: content[key] for key in ("network", "sensor", "training", "metrics", "provenance")},
    )


def _classes(value: Any) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...], list[int | None]]:
    _want(value, "classes", "a list of 1 to 1000 classes", lambda v: _is_list(v, 1, 1000))
    for number, entry in enumerate(value):
        where = f"classes.{number}"
        _object(entry, where, _KEYS["classes."])
        _want(entry["name"], f"{where}.name", "a name", _is_text)
        _want(
            entry["color"], f"{where}.color", "three integers from 0 to 255",
            lambda v: _is_list(v, 3, 3) and all(_is_integer(c, 0, 255) for c in v),
        )  # fmt: skip
        _want(
            entry["raw"], f"{where}.raw", "null or an integer of 32 bits",
            lambda v: v is None or _is_integer(v, 0, 2**32 - 1),
        )  # fmt: skip
    names = tuple(entry["name"] for entry in value)
    return names, tuple(tuple(entry["color"]) for entry in value), [entry["raw"] for entry in value]


def _labels(value: Any, raw: list[int | None]) -> dict[str, Any]:
    """The benchmark's own label files."""
    if value is None:
        return {"raw_suffix": None, "raw_type": None, "raw_values": None}
    _object(value, "scan.labels", _KEYS["scan.labels"])
    suffix = _want(
        value["suffix"], "scan.labels.suffix", "a suffix such as .label, but not .npy",
        lambda v: isinstance(v, str) and re.fullmatch(r"\.[a-z]{1,10}", v) is not None and v != ".npy",
    )  # fmt: skip
    kind = _want(value["type"], "scan.labels.type", ", ".join(RAW_TYPES), lambda v: v in RAW_TYPES)
    most = 2 ** int(kind.removeprefix("uint")) - 1
    for number, entry in enumerate(raw):
        _want(
            entry, f"classes.{number}.raw", f"0 to {most}, since labels are {kind}", lambda v: _is_integer(v, 0, most)
        )
    return {"raw_suffix": suffix, "raw_type": kind, "raw_values": tuple(raw)}


def _network(value: Any) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
    _object(value, "network", _KEYS["network"])
    orders = _want(
        value["orders"], "network.orders", ", ".join(ORDERS),
        lambda v: _is_list(v, 1, 4) and all(isinstance(o, str) and o in ORDERS for o in v) and len({*v}) == len(v),
    )  # fmt: skip
    strides = _want(
        value["strides"], "network.strides", f"up to {MAX_LEVELS} powers of two up to {MAX_STRIDE}",
        lambda v: _is_list(v, 0, MAX_LEVELS) and all(_is_integer(s, 1, MAX_STRIDE) and not s & (s - 1) for s in v),
    )  # fmt: skip
    tables = _want(
        value["tables"], "network.tables", "names of tables, each once",
        lambda v: _is_list(v, 0, 300) and all(isinstance(t, str) for t in v) and len({*v}) == len(v),
    )  # fmt: skip
    for name in tables:
        try:
            parse_table(name, tuple(orders), tuple(strides))
        except ValueError as error:
            raise _Wrong(f"network.tables: {error}") from None
    return tuple(orders), tuple(strides), tuple(tables)


def _files(value: Any) -> dict[str, tuple[str, int]]:
    _want(value, "files", "an object of 1 to 100 files", lambda v: isinstance(v, dict) and 1 <= len(v) <= 100)
    files = {}
    for name, entry in value.items():
        _file_name(name, "files")
        _object(entry, f"files.{name}", _KEYS["files."])
        _want(
            entry["sha256"], f"files.{name}.sha256", "64 hexadecimal digits",
            lambda v: isinstance(v, str) and re.fullmatch(r"[0-9a-f]{64}", v) is not None,
        )  # fmt: skip
        _want(entry["bytes"], f"files.{name}.bytes", f"0 to {MOST_FILE}", lambda v: _is_integer(v, 0, MOST_FILE))
        files[name] = (entry["sha256"], entry["bytes"])
    return files


def _file_name(name: Any, where: str) -> str:
    """A name without a folder: nothing outside the exported one can be named."""
    plain = isinstance(name, str) and _FILE.fullmatch(name) is not None and name != CARD
    if not plain:
        raise _Wrong(f"{where}: got {_short(name)}, allowed: names of files in this folder, of A-Z a-z 0-9 . _ -")
    return str(name)


def _programs(value: Any, files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    _want(value, "programs", "an object", lambda v: isinstance(v, dict))
    for kind, entry in value.items():
        if kind not in _PROGRAMS:
            raise _Wrong(f"unknown key {f'programs.{kind}'!r:.60}; allowed: {', '.join(_PROGRAMS)}")
        _object(entry, f"programs.{kind}", _PROGRAMS[kind])
        named = [entry["file"]] if "file" in entry else entry["files"]
        _want(named, f"programs.{kind}", "names of files", lambda v: _is_list(v, 1, 50))
        for name in named:
            if _file_name(name, f"programs.{kind}") not in files:
                raise _Wrong(f"programs.{kind}: {name!r} is not among 'files'")
    return dict(value)
