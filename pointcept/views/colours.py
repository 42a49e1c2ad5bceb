"""Colours: of classes, of numbers, of errors, and of the paper that they are drawn on."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NO_CLASS = "#5b6270"
"""Points without a class: unlabelled, or without a prediction."""

RAMP = ("#30123b", "#4662d8", "#35abf8", "#1be5b5", "#74fe5d", "#c9ef34", "#fbb938", "#f56918", "#c92903", "#7a0403")
"""Ten colours of Turbo (Mikhailov, Google AI blog 2019), dark blue to dark red."""

SOURCES = ("#4c9dff", "#ff9f43", "#3fcf8e", "#ff5fc4", "#f4e3a1", "#9b6bff", "#39d9e6", "#ff4d5a")
"""Of the scans that a mixed sample is made of, in turn."""


@dataclass(frozen=True)
class Theme:
    """The colours around the points, ``#rrggbb`` each."""

    paper: str
    panel: str
    text: str
    muted: str
    line: str
    neutral: str
    """Of points that are right."""


THEMES = {
    "dark": Theme("#0b0e14", "#11151d", "#e8ecf2", "#8b95a5", "#2a3240", "#4a5568"),
    "light": Theme("#ffffff", "#f4f6f9", "#171b22", "#626c7a", "#ccd3dd", "#b3bcc8"),
}


def rgb(colour: str) -> tuple[int, int, int]:
    """``#rrggbb`` as three numbers in [0, 255]."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def table(colours: Sequence[str]) -> np.ndarray:
    """Colours as float32 (K, 3) in [0, 1]."""
    return np.array([rgb(colour) for colour in colours], np.float32).reshape(-1, 3) / 255


def distinct(number: int) -> tuple[str, ...]:
    """``number`` colours that differ, for classes to which nobody has given any."""
    result = []
    for i in range(number):
        # The golden angle: the hues of any first few are spread over the circle.
        r, g, b = colorsys.hls_to_rgb((0.6 + i * 0.381966) % 1, (0.62, 0.5, 0.74)[i % 3], 0.65)
        result.append(f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}")
    return tuple(result)


def by_class(classes: np.ndarray, colours: Sequence[str], none: str = NO_CLASS) -> np.ndarray:
    """Colour of every point, float32 (N, 3) in [0, 1].

    Args:
        classes: int (N,), negative for none.
        colours: of the K classes.
        none: colour of points without a class.
    """
    return table([*colours, none])[np.where(classes < 0, len(colours), classes)]


def by_value(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours of :data:`RAMP`, float32 (N, 3) in [0, 1], of numbers (N,) from ``low`` to ``high``."""
    place = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (len(RAMP) - 1)
    stops, first = table(RAMP), np.minimum(place.astype(int), len(RAMP) - 2)
    part = (place - first)[:, None].astype(np.float32)
    return stops[first] * (1 - part) + stops[first + 1] * part
