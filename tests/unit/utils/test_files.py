"""Files that are whole or absent, and folders that can hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import read_json, read_regular, writable_folder, write_bytes_atomic, write_text_atomic


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text_atomic(tmp_path / "a" / "b.txt", "K\u00f6ln \udcff")
    assert path.read_bytes() == b"K\xc3\xb6ln \\udcff"
    (tmp_path / "folder").mkdir()
    for target, error in ((tmp_path / "folder", IsADirectoryError), (path / "below", NotADirectoryError)):
        with pytest.raises(error) as caught:
            write_bytes_atomic(target, b"x")
        assert caught.value.filename == str(target)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_text_atomic(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_bytes().startswith(b"K")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b.txt", "folder"]


def test_a_name_as_long_as_can_be_is_no_problem(tmp_path: Path) -> None:
    assert write_text_atomic(tmp_path / ("\u00f6" * 127), "x").read_text() == "x"


def test_folders_are_tried_before_they_are_needed(tmp_path: Path) -> None:
    assert writable_folder(tmp_path / "a" / "b", "save_path").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path, words in (
        (tmp_path / "file", "is a file, expected a folder"),
        (tmp_path / "file" / "below", "is a file, expected a folder"),
        (tmp_path / "loop", "is a symbolic link that leads nowhere, expected a folder"),
        (tmp_path / ("x" * 300), "File name too long"),
        (Path("/proc/run"), "cannot write in /proc/run"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            writable_folder(path, "save_path")
        assert str(caught.value).startswith("save_path: ")


def test_only_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "a", 5) == b"12345"
    for path, words in (
        (tmp_path / "a", "has 5 bytes, expected at most 4"),
        (tmp_path / "pipe", "is a pipe, a device or a socket"),
        (Path("/dev/zero"), "is a pipe, a device or a socket"),
        (tmp_path, "is a folder"),
        (tmp_path / "none", "No such file"),
    ):
        with pytest.raises(OSError, match=words) as caught:
            read_regular(path, 4)
        assert caught.value.filename == str(path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff", "3", "[]", '{"a": 1}'])
def test_damaged_json_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"a\.json is (no JSON file|damaged)"):
        read_json(path, ("a", "b"))
    path.write_text('{"a": 1, "b": 2, "c": 3}')
    assert read_json(path, ("a", "b"))["c"] == 3
