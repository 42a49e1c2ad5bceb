"""What pictures and movies show: sizes, titles, every class in its colour."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scans import BUILDING, CAR, CLASSES, ROAD, street

from pointcept.utils.errors import ConfigError, DataError
from pointcept.views import movie
from pointcept.views.colours import SOURCES, THEMES, rgb
from pointcept.views.picture import Look, camera, palette, render, write_picture
from pointcept.views.sheet import augmented, compared

DARK = THEMES["dark"]
SMALL = Look(DARK, width=640, angles=("perspective",))


def colours_of(picture: Any) -> set[tuple[int, ...]]:
    return set(map(tuple, np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0).tolist()))


def test_a_sheet_compares_the_layers() -> None:
    sheet = compared(street(), DARK)
    assert [panel.title for panel in sheet.panels] == ["Truth", "Teacher", "Student", "Errors"]
    assert sheet.panels[2].note == "48.5 % mIoU"  # (0 + 530 / 590 + 200 / 360) / 3
    keys = {key.name: key.values for key in sheet.keys}
    assert keys["car"] == ("100", "62.5", "0.0")
    assert set(keys) == {"car", "road", "building"}
    assert [mark.values for mark in sheet.marks[:4]] == [("78.7 %",), ("14.6 %",), ("3.4 %",), ("3.4 %",)]


def test_a_scan_without_anything_to_show_is_refused() -> None:
    with pytest.raises(DataError, match="no labels and no prediction"):
        compared(street(layers={}), DARK)


def test_a_picture_has_every_class_and_error_in_its_colour(tmp_path: Path) -> None:
    sheet = compared(street(), DARK)
    picture = render(sheet, Look(DARK, width=960))
    found = colours_of(picture)
    for colour in (*(CLASSES.colours[i] for i in (CAR, ROAD, BUILDING)), *(mark.colour for mark in sheet.marks[:4])):
        assert rgb(colour) in found
    assert picture.width == 960
    top = picture.height - render(sheet, Look(DARK, width=960, angles=("perspective",))).height
    assert top > 200, "the view from above adds a row"


def test_a_small_file_keeps_rare_colours(tmp_path: Path) -> None:
    sheet = compared(street(), DARK)
    write_picture(tmp_path / "whole.png", sheet, SMALL)
    write_picture(tmp_path / "small.png", sheet, Look(DARK, width=640, angles=("perspective",), small=True))
    small = Image.open(tmp_path / "small.png")
    assert small.mode == "P"
    assert (tmp_path / "small.png").stat().st_size < 0.8 * (tmp_path / "whole.png").stat().st_size
    assert {rgb(key.colour) for key in (*sheet.keys, *sheet.marks)} <= colours_of(small)


def test_themes_differ_and_turning_moves_the_points() -> None:
    sheet = compared(street(), DARK)
    first = np.asarray(render(sheet, SMALL))
    light = np.asarray(render(compared(street(), THEMES["light"]), Look(THEMES["light"], 640, ("perspective",))))
    assert light.mean() > 150 > 60 > first.mean()
    turned = np.asarray(render(sheet, Look(DARK, 640, ("perspective",), turn=90)))
    assert (turned != first).any(axis=2).mean() > 0.02


def test_the_camera_looks_ahead_from_behind() -> None:
    for turn, ahead in ((0, [10, 0, -1.7]), (90, [0, 10, -1.7])):
        x, _, depth, _ = camera("perspective", 40, -1.7, turn).project(np.array([ahead], np.float32), 200, 150)
        assert 60 < x[0] < 140
        assert depth[0] > 10
        _, y, _, _ = camera("top", 40, -1.7, turn).project(np.array([ahead], np.float32), 200, 200)
        assert y[0] == pytest.approx(75)


def test_a_sample_shows_where_its_points_come_from() -> None:
    before = street()
    after = street(source=np.repeat(np.array([0, 1], np.int16), (600, 300)), sources=("a", "b"))
    sheet = augmented(before, after, ["RandomFlip", "Mix3D"])
    assert sheet.note == "RandomFlip  Mix3D"
    assert [(mark.colour, mark.name, mark.values[0]) for mark in sheet.marks] == [
        (SOURCES[0], "a", "66.7 %"),
        (SOURCES[1], "b", "33.3 %"),
    ]
    shown = np.rint(sheet.panels[2].colours[[0, 700]] * 255).astype(int).tolist()
    assert shown == [list(rgb(SOURCES[0])), list(rgb(SOURCES[1]))]


def test_a_gif_has_a_picture_for_each_scan(tmp_path: Path) -> None:
    sheets = [compared(street(f"08_{i:06d}", seed=i), DARK, [CAR, ROAD, BUILDING]) for i in range(3)]
    movie.write_gif(tmp_path / "a.gif", movie.frames(sheets, SMALL), 10, palette(sheets[0], DARK))
    gif = Image.open(tmp_path / "a.gif")
    assert (gif.n_frames, gif.info["duration"], gif.info["loop"]) == (3, 100, 0)
    assert rgb(CLASSES.colours[CAR]) in colours_of(gif)


def test_spinning_turns_the_camera() -> None:
    sheets = [compared(street(), DARK)]
    pictures = [np.asarray(picture) for picture in movie.frames(sheets, SMALL, spin=3)]
    assert len(pictures) == 3
    assert (pictures[0] != pictures[1]).any()


class FakeFfmpeg:
    """Writes what it gets, with the size in front."""

    @staticmethod
    def write_frames(path: str, size: tuple[int, int], **options: Any) -> Iterator[None]:
        stream = io.BytesIO()
        try:
            while True:
                frame = yield
                if frame is not None:
                    assert len(frame) == size[0] * size[1] * 3
                    stream.write(bytes(frame[:1]))
        finally:
            Path(path).write_bytes(stream.getvalue())


def test_an_mp4_has_even_sides_and_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", FakeFfmpeg)
    pictures = (Image.new("RGB", (33, 21), (i, 0, 0)) for i in range(4))
    movie.write_mp4(tmp_path / "a.mp4", pictures, 5)
    assert (tmp_path / "a.mp4").read_bytes() == bytes([0, 1, 2, 3])
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[video\]'"):
        movie.check_video()
