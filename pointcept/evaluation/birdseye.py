"""Scans seen from above as small pictures, in NumPy alone: for TensorBoard and for reports.

The sensor is in the middle, ahead (x) is up and left (y) is left.
"""

from __future__ import annotations

import colorsys
import struct
import zlib
from collections.abc import Sequence

import numpy as np

PAPER = (14, 17, 23)
NO_CLASS = (70, 76, 86)
RIGHT, WRONG = (82, 92, 108), (255, 72, 66)
NEAREST, FARTHEST = 5.0, 60.0
"""Bounds of what a picture shows around the sensor [m], where it is not told."""


def palette(number: int, colours: Sequence[str] = ()) -> np.ndarray:
    """Colours of ``number`` classes, uint8 (K, 3).

    Args:
        number: K.
        colours: ``#rrggbb`` for each class; others are chosen where there are not K of them.
    """
    if len(colours) == number:
        return np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], np.uint8).reshape(-1, 3)
    # The golden angle spreads the hues of any first few over the circle.
    hues = [
        colorsys.hls_to_rgb((0.58 + i * 0.381966) % 1, (0.62, 0.5, 0.74)[i % 3], (0.7, 0.6)[i % 2])
        for i in range(number)
    ]
    return np.array(np.round(np.array(hues) * 255), np.uint8).reshape(-1, 3)


def extent_of(coord: np.ndarray) -> float:
    """How far a picture of the points (N, 3) [m] should reach from the sensor [m]: nearly all of them are in it."""
    reach = np.abs(coord[:, :2]).max(axis=1) if len(coord) else np.zeros(1)
    return float(np.clip(np.quantile(reach, 0.95), NEAREST, FARTHEST))


def render(
    coord: np.ndarray, classes: np.ndarray, colours: np.ndarray, size: int = 384, extent: float | None = None
) -> np.ndarray:
    """Points from above, the highest in front.

    Args:
        coord: (N, 3) [m], the sensor at the origin.
        classes: int (N,), negative for none.
        colours: uint8 (K, 3), see :func:`palette`.
        size: width and height of the picture [px].
        extent: how far it reaches from the sensor [m]; by default that of :func:`extent_of`.

    Returns:
        uint8 (size, size, 3).
    """
    coord = np.asarray(coord, np.float32)
    reach = extent_of(coord) if extent is None else extent
    table = np.vstack([np.asarray(colours, np.uint8).reshape(-1, 3), np.array([NO_CLASS], np.uint8)])
    own = table[np.where(np.asarray(classes) < 0, len(table) - 1, classes)]
    order = np.argsort(coord[:, 2], kind="stable")
    place = np.floor((reach - coord[order][:, :2]) * (size / (2 * reach))).astype(np.int64)  # row, column
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = PAPER
    for shift in ((0, 1), (1, 0), (1, 1), (0, 0)):  # two pixels wide; a point's own pixel is drawn last
        at = place + shift
        inside = ((at >= 0) & (at < size)).all(axis=1)
        picture[at[inside, 0], at[inside, 1]] = own[order[inside]]
    return picture


def render_errors(
    coord: np.ndarray, pred: np.ndarray, target: np.ndarray, size: int = 384, extent: float | None = None
) -> np.ndarray:
    """Where a prediction is wrong, in front of where it is right; see :func:`render`.

    Args:
        coord: (N, 3) [m].
        pred: int (N,) classes.
        target: int (N,), negative where there is no label.
        size: width and height of the picture [px].
        extent: how far it reaches from the sensor [m].
    """
    wrong = np.where(target < 0, -1, pred != target)
    above = np.array(coord, np.float32)
    above[:, 2] = np.where(wrong == 1, 1.0, 0.0)
    reach = extent_of(above) if extent is None else extent
    return render(above, wrong, np.array([RIGHT, WRONG]), size, reach)


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Pictures (H, W, 3) of one height in a row, uint8."""
    bar = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, bar)]
    return np.concatenate(parts[:-1], axis=1)


def png(picture: np.ndarray) -> bytes:
    """The PNG file (RFC 2083) of a picture, uint8 (H, W, 3)."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with its filter, 0 for none
    rows[:, 1:] = picture.reshape(height, -1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
