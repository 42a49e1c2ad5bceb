"""Scenes as one interactive HTML file: WebGL 2 of our own, all data inside, nothing from a network.

``web/`` holds the page; it is written by us, without libraries. A scan becomes 12 bytes a point, deflated, in base64.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.evaluation import ConfusionMatrix, Metrics
from pointcept.utils.errors import ConfigError
from pointcept.utils.files import write_text_atomic
from pointcept.views.colours import NO_CLASS, RAMP, SOURCES, THEMES
from pointcept.views.raster import ground_height
from pointcept.views.scene import NOTHING, TRUTH, Scene, count, difference

WEB = Path(__file__).parent / "web"
SCRIPTS = ("data.js", "camera.js", "renderer.js", "panel.js", "viewer.js")
LAYERS = 3
"""Classes that a point has in the page: of the truth and of two predictions."""
NONE = 255
"""A point without a class there."""


def write_page(path: Path, scenes: Sequence[Scene], theme: str = "dark") -> None:
    """Write scenes, in the order of the scrubber, as one HTML file.

    Raises:
        ConfigError: the data set has more than 255 classes, or scans differ in their classes.
        OSError: the file cannot be written.
    """
    write_text_atomic(path, page(scenes, theme))


def page(scenes: Sequence[Scene], theme: str = "dark") -> str:
    """The text of :func:`write_page`."""
    classes = scenes[0].classes
    if len(classes.names) >= NONE or any(scene.classes != classes for scene in scenes):
        raise ConfigError(f"a page holds scans of one data set with at most {NONE - 1} classes")
    names = list(dict.fromkeys(name for scene in scenes for name in scene.layers))[:LAYERS]
    found = next((d for d in map(difference, scenes) if d is not None), None)
    document = {
        "classes": [{"name": n, "colour": c} for n, c in zip(classes.names, classes.colours, strict=True)],
        "layers": names,
        "truth": TRUTH in names,
        "difference": None if found is None else {"labels": found.labels, "colours": [None, *found.colours]},
        "noClass": NO_CLASS,
        "ramp": RAMP,
        "sources": SOURCES,
        "themes": {name: vars(entry) for name, entry in THEMES.items()},
        "theme": theme,
        "frames": [describe(scene, names) for scene in scenes],
        "total": _total(scenes, names),
    }
    blocks = [
        f'<script type="application/octet-stream" id="frame-{i}">{encode(scene, names)}</script>'
        for i, scene in enumerate(scenes)
    ]
    # In a script element "</script>" would end it, wherever it stands: names of scans may hold anything.
    text = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "@style": _web("page.css"),
        "@document": text,
        "@frames": "\n".join(blocks),
        "@script": "\n".join(_web(name) for name in SCRIPTS),
    }
    html = _web("page.html")
    for place, content in parts.items():
        before, after = html.split(f"<!--{place}-->")
        html = before + content + after
    return html


def _web(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def describe(scene: Scene, names: Sequence[str]) -> dict[str, Any]:
    """What the page says of a scan."""
    low, high = scene.coord.min(axis=0), scene.coord.max(axis=0)
    number = len(scene.classes.names)
    found = difference(scene)
    codes = np.zeros(0, np.uint8) if found is None else found.codes[found.codes != NOTHING]
    return {
        "name": scene.name,
        "points": len(scene.coord),
        "low": low.astype(float).tolist(),
        "span": np.maximum(high - low, 1e-3).astype(float).tolist(),
        "ground": ground_height(scene.coord),
        "heights": np.percentile(scene.coord[:, 2], (2, 98)).astype(float).tolist(),
        "strength": scene.strength is not None,
        "sources": list(scene.sources),
        "has": [name in scene.layers for name in names],
        "counts": [
            np.bincount(layer[layer >= 0], minlength=number).tolist() if layer is not None else None
            for layer in map(scene.layers.get, names)
        ],
        "codes": np.bincount(codes, minlength=0 if found is None else len(found.labels)).tolist(),
        "scores": {name: _scores(count(scene, name).compute()) for name in _scored(scene, names)},
    }


def _scored(scene: Scene, names: Sequence[str]) -> list[str]:
    return [name for name in scene.predictions if name in names] if scene.truth is not None else []


def _scores(metrics: Metrics) -> dict[str, Any]:
    """What the page shows of metrics; None for what is undefined, and for the IoU of classes that are not there."""
    return {
        "miou": _number(metrics.miou_present),
        "accuracy": _number(metrics.all_acc),
        "iou": [_number(v) if there else None for v, there in zip(metrics.iou, metrics.present(), strict=True)],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


def _total(scenes: Sequence[Scene], names: Sequence[str]) -> dict[str, Any]:
    """Scores over all scans."""
    matrices: dict[str, ConfusionMatrix] = {}
    for scene in scenes:
        for name in _scored(scene, names):
            matrix = count(scene, name)
            if name in matrices:
                matrices[name].merge(matrix)
            else:
                matrices[name] = matrix
    return {name: _scores(matrix.compute()) for name, matrix in matrices.items()}


def encode(scene: Scene, names: Sequence[str]) -> str:
    """The points of a scan for the page.

    A point is x, y, z as uint16 in 65535ths of the box of the scan, source and strength as a byte each, the classes of
    three layers and the code of the difference as a byte each. The bytes of all points at one place of the 12 stand
    together, which deflates better.

    Returns:
        base64 of a zlib stream.
    """
    n = len(scene.coord)
    low, high = scene.coord.min(axis=0), scene.coord.max(axis=0)
    span = np.maximum(high - low, 1e-3)
    rows = np.zeros((n, 12), np.uint8)
    rows[:, :6] = np.rint((scene.coord - low) / span * 65535).astype("<u2").view(np.uint8).reshape(n, 6)
    if scene.source is not None:
        rows[:, 6] = np.minimum(scene.source, NONE)
    if scene.strength is not None:
        rows[:, 7] = np.rint(np.clip(scene.strength / max(float(scene.strength.max()), 1e-6), 0, 1) * 255)
    for i in range(LAYERS):
        layer = scene.layers.get(names[i]) if i < len(names) else None
        rows[:, 8 + i] = NONE if layer is None else np.where(layer < 0, NONE, layer)
    found = difference(scene)
    rows[:, 11] = NOTHING if found is None else found.codes
    return base64.b64encode(zlib.compress(rows.T.tobytes(), 7)).decode("ascii")
