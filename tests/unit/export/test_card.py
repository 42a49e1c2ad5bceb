"""What a card may say: nothing of a folder is opened or run before its card is whole, and never what it leads to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pointcept_runtime import ExportError, load, read_card
from pointcept_runtime.card import CARD, Card

SHA = "0" * 64


@pytest.fixture
def folder(card: Card, tmp_path: Path) -> Path:
    """A folder with a card and the file that it names."""
    content = json.loads((card.folder / CARD).read_text())
    content["files"] = {"model.onnx": {"sha256": _sha(b"program"), "bytes": 7}}
    content["programs"] = {
        "onnx": {"file": "model.onnx", "opset": 20, "precision": "float32", "attention": "patchwise"}
    }
    (tmp_path / CARD).write_text(json.dumps(content))
    (tmp_path / "model.onnx").write_bytes(b"program")
    return tmp_path


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_a_card_says_what_the_network_reads(folder: Path) -> None:
    card = read_card(folder)
    card.verify()
    assert card.names[0] == "car"
    assert card.raw_values is not None
    assert (card.raw_values[0], card.raw_type, card.raw_suffix) == (10, "uint32", ".label")
    assert (card.columns, card.grid_size, card.scan_columns) == ((0, 1, 2, 3), (0.4, 0.4, 0.4), 4)
    assert card.tables[0] == "neighbours.0.5"
    assert len({*card.colors}) == 19


def put(*place: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *way, last = place
        inner: Any = content
        for key in way:
            inner = inner[key]
        inner[last] = to

    return change


ATTACKS = [
    (put("version", to=2), "version 2, this program reads version 1"),
    (put("version", to=True), "version True"),
    (put("format", to="torch"), "'format' must be"),
    (put("note", to=1), "unknown key 'note'"),
    (put("network", "hook", to="os.system"), r"unknown key 'network\.hook'"),
    (put("programs", "python", to={}), r"unknown key 'programs\.python'"),
    (lambda c: c.pop("metrics"), "the key 'metrics' is missing"),
    (lambda c: c["classes"][3].pop("color"), r"the key 'classes\.3\.color' is missing"),
    (put("classes", to=[]), "classes: got"),
    (put("classes", 0, "name", to="car\x1b[2J"), r"classes\.0\.name"),
    (put("classes", 0, "color", to=[0, 0, 256]), r"classes\.0\.color"),
    (put("classes", 0, "raw", to=-1), r"classes\.0\.raw"),
    (put("classes", 0, "raw", to=None), r"classes\.0\.raw: got None, allowed: 0 to 4294967295"),
    (put("voxels", "grid_size", to=[0.05, 0.05, 0]), r"voxels\.grid_size"),
    (put("voxels", "grid_size", to=[0.05, 0.05, 10**400]), r"voxels\.grid_size"),
    (put("voxels", "clip", to=[1, 0, 0, 0, 1, 1]), r"voxels\.clip"),
    (put("features", "keys", to=["color"]), r"features\.keys"),
    (put("features", "strength_range", to=[1, 0]), r"features\.strength_range"),
    (put("scan", "columns", to=3), r"scan\.columns"),
    (put("scan", "strength_divisor", to=0), r"scan\.strength_divisor"),
    (put("scan", "labels", "suffix", to="/../../x"), r"scan\.labels\.suffix"),
    (put("scan", "labels", "type", to="object"), r"scan\.labels\.type"),
    (put("network", "orders", to=["z", "z"]), r"network\.orders"),
    (put("network", "strides", to=[3]), r"network\.strides"),
    (put("network", "strides", to=[8] * 13), r"network\.strides"),
    (put("network", "tables", 0, to="neighbours.0.99"), r"network\.tables: 'neighbours\.0\.99'"),
    (put("files", to={}), "files: got"),
    (put("files", "../model.onnx", to={"sha256": SHA, "bytes": 1}), r"files: got '\.\./model\.onnx'"),
    (put("files", "/etc/passwd", to={"sha256": SHA, "bytes": 1}), "files: got '/etc/passwd'"),
    (put("files", "a\\b", to={"sha256": SHA, "bytes": 1}), "files: got"),
    (put("files", "..", to={"sha256": SHA, "bytes": 1}), "files: got"),
    (put("files", CARD, to={"sha256": SHA, "bytes": 1}), "files: got 'card.json'"),
    (put("files", "model.onnx", "sha256", to="0"), "sha256"),
    (put("files", "model.onnx", "bytes", to=-1), "bytes"),
    (put("files", "model.onnx", "bytes", to=1e3), "bytes"),
    (put("programs", "onnx", "file", to="../../model.onnx"), r"programs\.onnx: got"),
    (put("programs", "onnx", "file", to="other.onnx"), r"programs\.onnx: 'other\.onnx' is not among 'files'"),
    (put("programs", "onnx", "file", to={"a": 1}), r"programs\.onnx: got"),
    (put("programs", to=[1]), "programs: got"),
]


@pytest.mark.parametrize(("change", "words"), ATTACKS)
def test_a_card_that_says_something_else(folder: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    content = json.loads((folder / CARD).read_text())
    change(content)
    (folder / CARD).write_text(json.dumps(content))
    with pytest.raises(ExportError, match=words) as error:
        load(folder)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no card"),
        ("{", "is no card"),
        ("[]", "'format' must be"),
        ("[" * 100000, "is no card"),
        ('{"format": "pointcept-export", "version": NaN}', "NaN is no number"),
        ('{"version": 1, "version": 1}', "a key occurs twice"),
        ("\x00" * 10, "is no card"),
        (" " * (1 << 20) + "{}", "more than 1048576 bytes"),
    ],
)
def test_a_card_that_is_none(folder: Path, text: str, words: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(ExportError, match=words):
        read_card(folder)


def test_files_that_are_not_those_of_the_card(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    program = folder / "model.onnx"
    for data in (b"Program", b"program!", b"prog", b""):
        program.write_bytes(data)
        with pytest.raises(ExportError, match="is damaged"):
            load(folder)
    outside = tmp_path_factory.mktemp("outside") / "model.onnx"
    outside.write_bytes(b"program")
    program.unlink()
    with pytest.raises(ExportError, match="does not exist"):
        load(folder)
    program.symlink_to(outside)
    with pytest.raises(ExportError, match="is a link"):
        load(folder)
    program.unlink()
    os.mkfifo(program)
    with pytest.raises(ExportError, match="expected a file"):
        load(folder)
    shutil.rmtree(folder)
    with pytest.raises(ExportError, match=r"card\.json does not exist"):
        load(folder)


def test_a_program_that_is_no_program(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ExportError, match=r"model\.onnx cannot be loaded") as error:
        load(folder)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ExportError, match="device: got 'tpu'"):
        load(folder, device="tpu")
