"""A sheet as a picture: panels in perspective and from above, scale, legend. Text by Pillow (extra ``view``)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError
from pointcept.utils.files import write_bytes_atomic
from pointcept.views.colours import NO_CLASS, Theme, rgb, table
from pointcept.views.raster import Camera, draw, ground_height
from pointcept.views.sheet import Key, Sheet

ANGLES = ("perspective", "top")
SIDES = {"perspective": 0.72, "top": 1.0}
"""Height of a panel, as a share of its width."""
SIZES = {"perspective": 0.09, "top": 0.2}
"""Diameter of the points [m], at the usual reach."""
REACH = 40.0
"""How far a picture looks from the scanner [m], unless it is told."""
RINGS = (5, 10, 20, 25, 50, 100, 200)  # m, distances of rings, of which a picture has those that suit it


@dataclass(frozen=True)
class Look:
    """How sheets are drawn.

    Args:
        theme: the colours around the points.
        width: of the picture [px].
        angles: rows of panels, out of :data:`ANGLES`.
        reach: how far from the scanner is seen [m].
        turn: of the camera about the scanner [degrees], counterclockwise.
        small: a PNG with a palette of 256 colours, a third as large.
    """

    theme: Theme
    width: int = 1920
    angles: tuple[str, ...] = ANGLES
    reach: float = REACH
    turn: float = 0.0
    small: bool = False

    @property
    def unit(self) -> float:
        """What a pixel of the design, 1920 wide, is in this picture [px]."""
        return max(self.width, 640) / 1920


def pillow() -> Any:
    """The package that draws text and writes pictures.

    Raises:
        ConfigError: it is missing.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ConfigError(f"pictures need Pillow ({error}): pip install '.[view]'") from error
    return Image, ImageDraw, ImageFont


def write_picture(path: Path, sheet: Sheet, look: Look) -> None:
    """Draw a sheet into a PNG file.

    Raises:
        ConfigError: Pillow is missing.
        OSError: the file cannot be written.
    """
    picture, stream = render(sheet, look), io.BytesIO()
    if look.small:
        picture = picture.quantize(palette=palette(sheet, look.theme), dither=0)
    picture.save(stream, format="PNG", optimize=True)
    write_bytes_atomic(path, stream.getvalue())


def palette(sheet: Sheet, theme: Theme) -> Any:
    """A palette for pictures of a sheet, as an image: its colours in some shades, on the paper and on panels.

    A palette made from the pixels would lose rare classes, which a picture is often looked at for.
    """
    image, _, _ = pillow()
    own = table([key.colour for key in (*sheet.keys, *sheet.marks)] + [NO_CLASS, theme.line])
    panel, ends = table([theme.panel])[0], table([theme.text, theme.muted, theme.neutral, theme.paper])
    most = 256 // (len(own) + len(ends))
    # Full colours, dark sides by the lighting, and edges that blend into the panel.
    lights = [1.0, 0.62, 0.8, 0.42, 0.9, 0.7, 0.5, 0.3][: max(1, most - 2)]
    shades = [own * light for light in lights] + [own * part + panel * (1 - part) for part in (0.5, 0.25)]
    greys = [ends * part + panel * (1 - part) for part in (1.0, 0.66, 0.33)]
    colours = np.concatenate([*greys, panel[None], *shades])[:256]
    result = image.new("P", (1, 1))
    result.putpalette(np.rint(colours * 255).astype(np.uint8).tobytes())
    return result


def camera(angle: str, reach: float, ground: float, turn: float = 0.0) -> Camera:
    """Where a panel is taken from: behind and above the scanner, looking ahead, or from above with ahead upwards.

    Args:
        angle: one of :data:`ANGLES`.
        reach: see :class:`Look`.
        ground: height of the ground [m].
        turn: see :class:`Look`.
    """
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def turned(x: float, y: float, z: float) -> tuple[float, float, float]:
        return x * cos - y * sin, x * sin + y * cos, ground + z

    if angle == "top":
        ahead = turned(1, 0, 0)
        return Camera((0, 0, ground + 100), (0, 0, ground), (ahead[0], ahead[1], 0), 2 * reach, perspective=False)
    return Camera(turned(-0.46 * reach, -0.08 * reach, 0.34 * reach), turned(0.14 * reach, 0, 0), (0, 0, 1), 46)


def render(sheet: Sheet, look: Look, ground: float | None = None) -> Any:
    """Draw a sheet.

    Args:
        sheet: what to draw.
        look: how.
        ground: height of the ground [m]; by default that of the first panel.

    Returns:
        A ``PIL.Image.Image`` in RGB, ``look.width`` wide.

    Raises:
        ConfigError: Pillow is missing.
    """
    image, image_draw, _ = pillow()
    px = _scaled(look)
    margin, gap = px(28), px(14)
    ground = ground_height(sheet.panels[0].coord) if ground is None else ground
    width = (look.width - 2 * margin - gap * (len(sheet.panels) - 1)) // len(sheet.panels)
    heights = [round(width * SIDES[angle]) for angle in look.angles]
    legend = _legend_rows(sheet, look)
    head = px(116)
    foot = px(34) * legend + px(30) if legend else px(16)
    height = head + sum(heights) + gap * (len(heights) - 1) + foot
    canvas = image.new("RGB", (look.width, height), rgb(look.theme.paper))
    pen = image_draw.Draw(canvas)
    _header(pen, sheet, look, margin)
    top = head
    for angle, tall in zip(look.angles, heights, strict=True):
        for number, panel in enumerate(sheet.panels):
            left = margin + number * (width + gap)
            view = camera(angle, look.reach, ground, look.turn)
            paper = table([look.theme.panel])[0]
            size = SIZES[angle] * look.reach / REACH
            pixels = draw(view, panel.coord, panel.colours, (tall, width), paper, size)
            tile = image.fromarray(_rounded(pixels, table([look.theme.paper])[0], px(12)))
            _rings(image_draw.Draw(tile), view, look, ground, (width, tall), number == 0)
            canvas.paste(tile, (left, top))
            if angle == look.angles[0]:
                _title(pen, panel.title, panel.note, look, left, top, width)
        top += tall + gap
    _legend(pen, sheet, look, margin, top + px(16))
    return canvas


def _scaled(look: Look) -> Any:
    """A function from pixels of the design to those of this picture."""
    return lambda value: max(1, round(value * look.unit))


@cache
def _font(size: int) -> Any:
    _, _, image_font = pillow()
    return image_font.load_default(size)


def _header(pen: Any, sheet: Sheet, look: Look, margin: int) -> None:
    px = _scaled(look)
    pen.text((margin, px(24)), sheet.title, rgb(look.theme.text), _font(px(27)), anchor="lt")
    pen.text((look.width - margin, px(28)), sheet.note, rgb(look.theme.muted), _font(px(19)), anchor="rt")


def _title(pen: Any, title: str, note: str, look: Look, left: int, top: int, width: int) -> None:
    px = _scaled(look)
    base = top - px(14)
    pen.text((left + px(2), base), title, rgb(look.theme.text), _font(px(21)), anchor="ls")
    pen.text((left + width - px(2), base), note, rgb(look.theme.muted), _font(px(19)), anchor="rs")


def _rounded(pixels: np.ndarray, paper: np.ndarray, radius: int) -> np.ndarray:
    """The panel (H, W, 3) with round corners in the colour of the paper."""
    height, width = pixels.shape[:2]
    y, x = np.ogrid[:height, :width]
    dx = np.maximum(np.maximum(radius - x, x - (width - 1 - radius)), 0)
    dy = np.maximum(np.maximum(radius - y, y - (height - 1 - radius)), 0)
    cover = np.clip(radius + 0.5 - np.hypot(dx, dy), 0, 1)[..., None]
    return np.rint(pixels * cover + 255 * paper * (1 - cover)).astype(np.uint8)


def _rings(pen: Any, view: Camera, look: Look, ground: float, size: tuple[int, int], labels: bool) -> None:
    """Rings around the scanner on the ground; from above with their distances."""
    px = _scaled(look)
    step = next((ring for ring in RINGS if ring >= look.reach / 4), RINGS[-1])
    circle = np.linspace(0, 2 * np.pi, 181)
    for distance in np.arange(step, look.reach * 1.01, step):
        ring = np.stack([distance * np.cos(circle), distance * np.sin(circle), np.full(181, ground)], 1)
        x, y, depth, _ = view.project(ring.astype(np.float32), *size)
        line = [(a, b) if d > 1 else None for a, b, d in zip(x.tolist(), y.tolist(), depth.tolist(), strict=True)]
        for first, second in zip(line[:-1:2], line[1::2], strict=True):  # every other piece: a dashed line
            if first is not None and second is not None:
                pen.line([first, second], rgb(look.theme.neutral), 1)
        if labels and not view.perspective:
            off = distance * size[1] / view.extent * math.sqrt(0.5)
            at = (size[0] / 2 + off, size[1] / 2 + off)
            text = f"{distance:g} m"
            box = pen.textbbox(at, text, _font(px(14)), anchor="mm")
            pen.rectangle([box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2], rgb(look.theme.panel))
            pen.text(at, text, rgb(look.theme.text), _font(px(14)), anchor="mm")


def _legend_size(sheet: Sheet, look: Look) -> tuple[int, int]:
    """How many columns of keys fit beside the marks, and the width of a column [px]."""
    px = _scaled(look)
    width = px(196 + 84 * len(sheet.columns))
    marks = px(330) if sheet.marks else 0
    return max(1, (look.width - 2 * px(28) - marks) // width), width


def _legend_rows(sheet: Sheet, look: Look) -> int:
    columns, _ = _legend_size(sheet, look)
    keys = -(-len(sheet.keys) // columns) + 1 if sheet.keys else 0
    return max(keys, len(sheet.marks) + 1 if sheet.marks else 0)


def _legend(pen: Any, sheet: Sheet, look: Look, left: int, top: int) -> None:
    """Keys in columns, marks at the right."""
    px = _scaled(look)
    columns, width = _legend_size(sheet, look)
    rows = -(-len(sheet.keys) // columns) if sheet.keys else 0
    for column in range(columns):
        part = sheet.keys[column * rows : (column + 1) * rows]
        if part:
            _key_column(pen, part, sheet.columns, look, left + column * width)(top)
    if sheet.marks:
        at = look.width - px(28) - px(310)
        _key_column(pen, sheet.marks, ("share",), look, at, px(310))(top)


def _key_column(
    pen: Any, keys: Sequence[Key], heads: Sequence[str], look: Look, left: int, width: int | None = None
) -> Any:
    """A function that draws a column of keys from a height on."""
    px = _scaled(look)
    step, value = px(34), px(84)
    names = px(180) if width is None else width - value * len(heads)
    ends = [left + names + value * (i + 1) - px(8) for i in range(len(heads))]

    def drawn(top: int) -> None:
        for head, end in zip(heads, ends, strict=True):
            pen.text((end, top), head, rgb(look.theme.muted), _font(px(13)), anchor="rt")
        for row, key in enumerate(keys):
            y = top + step * row + px(28)
            pen.rounded_rectangle([left, y, left + px(18), y + px(18)], px(5), rgb(key.colour))
            name = _fitted(pen, key.name, _font(px(18)), names - px(34))
            pen.text((left + px(28), y + px(9)), name, rgb(look.theme.text), _font(px(18)), anchor="lm")
            for text, end in zip(key.values, ends, strict=False):
                pen.text((end, y + px(9)), text, rgb(look.theme.muted), _font(px(17)), anchor="rm")

    return drawn


def _fitted(pen: Any, text: str, font: Any, width: float) -> str:
    """``text``, shortened where it is wider than ``width`` [px]."""
    if pen.textlength(text, font) <= width:
        return text
    while len(text) > 1 and pen.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."
