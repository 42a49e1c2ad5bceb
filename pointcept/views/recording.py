"""Scenes in the viewer of Rerun: live on a screen, or as a recording (extra ``rerun``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import ConfigError
from pointcept.views.colours import NO_CLASS, SOURCES, THEMES, rgb
from pointcept.views.scene import NOTHING, Scene, difference
from pointcept.views.sheet import mark_colours

NAME = "pointcept view"
RADIUS = 0.04  # m
NONE = 65535
"""Class id of points without a class, as Rerun's ids cannot be negative."""


def rerun() -> Any:
    """The package that records.

    Raises:
        ConfigError: it is missing.
    """
    try:
        import rerun
    except ImportError as error:
        raise ConfigError(f"--live and .rrd need Rerun ({error}): pip install '.[rerun]'") from error
    return rerun


def show(scenes: Sequence[Scene]) -> None:
    """Open the viewer and send it the scenes.

    Raises:
        ConfigError: Rerun is missing.
    """
    package = rerun()
    package.init(NAME, spawn=True)
    record(package, scenes)


def save(path: Path, scenes: Sequence[Scene]) -> None:
    """Write the scenes as a recording, ``.rrd``, which Rerun opens.

    Raises:
        ConfigError: Rerun is missing.
        OSError: the file cannot be written.
    """
    package = rerun()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.rrd")
    try:
        package.init(NAME)
        package.save(str(temporary))
        record(package, scenes)
        package.disconnect()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def record(package: Any, scenes: Sequence[Scene]) -> None:
    """Log the scenes: each layer as points with class ids, the names and colours of those beside it.

    Args:
        package: ``rerun``, or what stands for it.
        scenes: one for each step of the timeline ``scan``.
    """
    for layer, entries in legends(scenes).items():
        package.log(layer, package.AnnotationContext(entries), static=True)
    for step, scene in enumerate(scenes):
        package.set_time("scan", sequence=step)
        package.log("name", package.TextLog(scene.name))
        for layer, ids in layers(scene).items():
            package.log(f"{layer}/points", package.Points3D(scene.coord, class_ids=ids, radii=RADIUS))


def layers(scene: Scene) -> dict[str, np.ndarray]:
    """Name -> class ids uint16 (N,) of what is logged: the layers, the difference and the sources."""
    result = {name: np.where(layer < 0, NONE, layer).astype(np.uint16) for name, layer in scene.layers.items()}
    found = difference(scene)
    if found is not None:
        result["difference"] = np.where(found.codes == NOTHING, NONE, found.codes).astype(np.uint16)
    if scene.source is not None:
        result["source"] = scene.source.astype(np.uint16)
    return result


def legends(scenes: Sequence[Scene]) -> dict[str, list[tuple[int, str, tuple[int, int, int]]]]:
    """Layer -> (class id, name, colour) of each of its classes."""
    result: dict[str, list[tuple[int, str, tuple[int, int, int]]]] = {}
    for scene in scenes:
        classes = list(zip(scene.classes.names, scene.classes.colours, strict=True))
        named = dict.fromkeys(scene.layers, classes)
        found = difference(scene)
        if found is not None:
            named["difference"] = list(zip(found.labels, mark_colours(found, THEMES["dark"]), strict=True))
        if scene.source is not None:
            named["source"] = [(name, SOURCES[i % len(SOURCES)]) for i, name in enumerate(scene.sources)]
        for layer, entries in named.items():
            numbered = [(i, name, rgb(colour)) for i, (name, colour) in enumerate([*entries])]
            result[layer] = [*numbered, (NONE, "none", rgb(NO_CLASS))]
    return result
