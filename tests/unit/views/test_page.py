"""The interactive page: what is in the file, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scans import BUILDING, CAR, CLASSES, street

from pointcept.utils.errors import ConfigError
from pointcept.views.page import encode, page, write_page
from pointcept.views.scene import Classes, difference
from tests import browser

NAMES = ["truth", "teacher", "student"]


def test_points_are_kept_to_a_fraction_of_a_millimetre() -> None:
    scene = street(source=np.repeat(np.array([0, 3], np.int16), (600, 300)), sources=tuple("abcd"))
    rows = np.frombuffer(zlib.decompress(base64.b64decode(encode(scene, NAMES))), np.uint8).reshape(12, 900).T
    low, span = scene.coord.min(0), np.ptp(scene.coord, axis=0)
    place = np.ascontiguousarray(rows[:, :6]).view("<u2") / 65535 * span + low
    assert np.abs(place - scene.coord).max() < 0.4e-3
    assert scene.source is not None
    assert (rows[:, 6] == scene.source).all()
    assert scene.strength is not None
    assert np.abs(rows[:, 7] / 255 - scene.strength / scene.strength.max()).max() < 0.003
    for i, name in enumerate(NAMES):
        assert (rows[:, 8 + i].astype(np.int8) == scene.layers[name]).all()
    found = difference(scene)
    assert found is not None
    assert (rows[:, 11] == found.codes).all()


def test_the_page_loads_nothing_and_survives_any_name() -> None:
    text = page([street("</script><img src=http://example.com/x>")])
    assert not re.search(
        r"(src|href)\s*=\s*[\"']?(?!data:)\w", text.replace("\\u003c", "")[: text.index('id="document"')]
    )
    assert "import(" not in text
    assert "fetch(" not in text
    document = json.loads(re.search(r'id="document">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert document["frames"][0]["name"] == "</script><img src=http://example.com/x>"
    assert "</script><img" not in text
    assert "default-src 'none'" in text
    assert "<!--@" not in text


def test_scores_are_those_of_the_scan_and_of_all() -> None:
    other = street("b", seed=1)
    other.layers["student"][:] = other.layers["truth"]  # type: ignore[index]
    document = json.loads(re.search(r'id="document">(.*?)</script>', page([street(), other]), re.DOTALL)[1])  # type: ignore[index]
    first, second = (frame["scores"]["student"] for frame in document["frames"])
    assert first["miou"] == pytest.approx((530 / 590 + 200 / 360) / 3, abs=1e-5)
    assert second["miou"] == 1
    assert document["total"]["student"]["iou"][CAR] == pytest.approx(100 / 200)
    assert first["iou"][1] is None, "there is no bicycle"
    assert document["frames"][0]["counts"][0][CAR] == 100


def test_a_page_holds_one_data_set() -> None:
    with pytest.raises(ConfigError, match="one data set"):
        page([street(), street(classes=Classes(("x",), ("#000000",)), layers={})])


# --- in a browser ---


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    program = browser.find()
    if program is None:
        pytest.skip(
            f"no Chromium ({', '.join(browser.NAMES)}, or POINTCEPT_CHROMIUM): apt-get install {browser.NAMES[0]}"
        )
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_page(file, [street(), street("08_000001", seed=1)])
    found = browser.Browser(program, 960, 540)
    try:
        found.open(file)
        found.wait("viewer !== null && viewer.frame !== undefined")
        found.settle()
        yield found
    finally:
        found.close()


def pixels(opened: browser.Browser) -> np.ndarray:
    """What the canvas shows, (H, W, 3): without buttons and legend, which have the same colours."""
    opened.settle()
    found = base64.b64decode(opened.run("viewer.canvas.toDataURL()").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(found)).convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: str) -> int:
    """How many pixels have about this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) < 24).sum())


def test_the_page_draws_the_classes(opened: browser.Browser) -> None:
    opened.run("viewer.set({view: 'truth', rings: false})")
    picture = pixels(opened)
    assert near(picture, CLASSES.colours[CAR]) > 20
    assert near(picture, CLASSES.colours[BUILDING]) > 20
    screen = np.asarray(Image.open(io.BytesIO(opened.screenshot())).convert("RGB")).astype(int)
    assert (screen[100:440, :600] == picture[100:440, :600]).all(axis=2).mean() > 0.99, "the page shows the canvas"
    student = opened.run("viewer.set({view: 'student'})") or pixels(opened)
    assert near(student, CLASSES.colours[CAR]) == 0, "the student sees no car"


def test_a_click_in_the_legend_hides_a_class_and_another_shows_it(opened: browser.Browser) -> None:
    opened.run("viewer.set({view: 'truth', hidden: []})")
    before = pixels(opened)
    place = opened.run("(() => { const r = document.querySelector('#legend tbody tr').getBoundingClientRect();"
                       " return [r.x + 30, r.y + r.height / 2]; })()")  # fmt: skip
    opened.click(*place)
    assert opened.run("viewer.state.hidden") == [CAR]
    hidden = pixels(opened)
    assert near(hidden, CLASSES.colours[CAR]) == 0 < near(before, CLASSES.colours[CAR])
    opened.click(*place)
    assert near(pixels(opened), CLASSES.colours[CAR]) == near(before, CLASSES.colours[CAR])


def test_keys_choose_layers_colours_and_scans(opened: browser.Browser) -> None:
    opened.press("4")
    assert opened.run("viewer.state.view") == "difference"
    assert near(pixels(opened), "#ff5a4f") > 20
    opened.press("1")
    opened.press("c")
    assert opened.run("viewer.state.mode") == "strength"
    opened.run("viewer.set({mode: 'class'})")
    opened.press("a")
    assert opened.run("[...document.querySelectorAll('.caption')].length") in (0, 4)
    opened.settle()
    captions = opened.run("[...document.querySelectorAll('.caption')].map((c) => c.textContent)")
    assert captions == ["Truth", "Teacher84.1 % mIoU", "Student48.5 % mIoU", "Errors"]
    opened.run("viewer.show(1)")
    assert opened.run("document.getElementById('title').textContent") == "08_000001"
    opened.run("viewer.show(0)")


def test_dragging_orbits_and_the_wheel_zooms(opened: browser.Browser) -> None:
    opened.run("viewer.set({view: 'truth'})")
    first = opened.run("viewer.camera.state()")
    opened.mouse("mousePressed", 300, 250, button="left", buttons=1, clickCount=1)
    opened.mouse("mouseMoved", 340, 250, button="left", buttons=1)
    opened.mouse("mouseReleased", 340, 250, button="left", clickCount=1)
    opened.mouse("mouseWheel", 300, 250, deltaX=0, deltaY=-200)
    opened.settle()
    then = opened.run("viewer.camera.state()")
    assert then["azimuth"] == pytest.approx(first["azimuth"] - 40 * 0.006)
    assert then["distance"] < 0.9 * first["distance"]


def test_a_point_is_found_under_the_mouse(opened: browser.Browser) -> None:
    opened.run("viewer.set({view: 'truth'}), viewer.camera.go(viewer.homes.top, false)")
    found = opened.run(
        "(() => { const p = positionOf(viewer.frame, 850); const box = viewer.boxes()[0];"
        " const w = box.width * viewer.canvas.clientWidth, h = viewer.canvas.clientHeight;"
        " const at = project(viewer.camera.matrix(w / h).matrix, p);"
        " const hit = viewer.pick(at.x * w, at.y * h); return [p, positionOf(viewer.frame, hit.index)]; })()"
    )
    assert np.abs(np.subtract(*found)).max() < 0.6, "itself, or one beside it"


def test_nothing_is_fetched_and_nothing_fails(opened: browser.Browser) -> None:
    opened.settle()
    assert opened.console == []
    assert [address for address in opened.requests if not address.startswith(("file:", "data:"))] == []
    assert len([address for address in opened.requests if address.startswith("file:")]) == 1


def test_without_webgl_the_page_says_so(opened: browser.Browser, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", [street()])
    opened.open(tmp_path / "page.html", "HTMLCanvasElement.prototype.getContext = () => null;")
    assert opened.run("document.getElementById('message').textContent").startswith("This page draws with WebGL 2")
    assert opened.console == []
