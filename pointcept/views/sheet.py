"""What a picture of a scene holds: panels, facts and keys, before anything is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointcept.evaluation import Metrics
from pointcept.utils.errors import DataError
from pointcept.views.colours import NO_CLASS, SOURCES, Theme, by_class
from pointcept.views.scene import NOTHING, TRUTH, Difference, Scene, count, difference


@dataclass(frozen=True)
class Panel:
    """A coloured cloud under a title.

    Attributes:
        title: what is seen.
        note: what stands right of it.
        coord: float32 (N, 3) [m].
        colours: float32 (N, 3) in [0, 1].
    """

    title: str
    note: str
    coord: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a colour, its name, and numbers as text, one for each column."""

    colour: str
    name: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """Everything of a picture.

    Attributes:
        title: the scan.
        note: facts about it.
        panels: side by side.
        columns: headings of the values of ``keys``.
        keys: of the classes.
        marks: of differences or sources.
    """

    title: str
    note: str
    panels: tuple[Panel, ...]
    columns: tuple[str, ...]
    keys: tuple[Key, ...]
    marks: tuple[Key, ...]


def percent(value: float) -> str:
    """``0.4321`` -> ``43.2``; a dash for NaN (a hyphen: the font of Pillow has no other)."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def short(number: int) -> str:
    """``123456`` -> ``123 k``."""
    return f"{number}" if number < 1000 else f"{number / 1000:.1f} k" if number < 10000 else f"{number / 1000:.0f} k"


def mark_colours(found: Difference, theme: Theme) -> tuple[str, ...]:
    """The colours of the codes of a difference."""
    return (theme.neutral, *found.colours)


def compared(scene: Scene, theme: Theme, shown: Sequence[int] | None = None) -> Sheet:
    """The layers of a scan beside each other, and where they differ.

    Args:
        scene: the scan, with one layer at least.
        theme: the colours of what is right or unknown.
        shown: classes of the legend, by default those that occur.
    """
    classes = scene.classes
    scores = {name: count(scene, name).compute() for name in scene.predictions if scene.truth is not None}
    panels = [
        Panel(name.capitalize(), _score(scores.get(name)), scene.coord, by_class(layer, classes.colours))
        for name, layer in scene.layers.items()
    ]
    marks: list[Key] = []
    found = difference(scene)
    if found is not None:
        colours = mark_colours(found, theme)
        codes = np.where(found.codes == NOTHING, -1, found.codes.astype(np.int64))
        known = np.bincount(codes[codes >= 0], minlength=len(colours))
        shares = [f"{100 * n / max(known.sum(), 1):.1f} %" for n in known]
        title = "Errors" if scene.truth is not None else "Difference"
        # What cannot be told is nearly as dark as the paper: it is no part of the answer.
        panels.append(Panel(title, "", scene.coord, by_class(codes, colours, theme.line)))
        marks = [Key(*entry) for entry in zip(colours, found.labels, [(s,) for s in shares], strict=True)]
    if not panels:
        raise DataError(f"{scene.name} has no labels and no prediction: name --weight or --pred")
    keys = _keys(scene, scores, scene.classes.shown(*scene.layers.values()) if shown is None else shown)
    columns = ("points", *(f"{name} IoU" for name in scores))
    if scene.truth is not None:
        marks.append(Key(NO_CLASS, "unlabelled", (f"{100 * float((scene.truth < 0).mean()):.1f} %",)))
    return Sheet(
        scene.name, f"{len(scene.coord):,} points".replace(",", " "), tuple(panels), columns, keys, tuple(marks)
    )


def _score(metrics: Metrics | None) -> str:
    return "" if metrics is None or math.isnan(metrics.miou_present) else f"{percent(metrics.miou_present)} % mIoU"


def _keys(scene: Scene, scores: dict[str, Metrics], shown: Sequence[int]) -> tuple[Key, ...]:
    """A key for each class that there is: how many points, and the IoU of each prediction."""
    first = next(iter(scene.layers.values()))
    counts = np.bincount(first[first >= 0], minlength=len(scene.classes.names))
    return tuple(
        Key(
            scene.classes.colours[i],
            scene.classes.names[i],
            # The IoU of a class that the scan does not have is 0 or nothing at all, and counts in no mean.
            (short(int(counts[i])), *(percent(m.iou[i] if m.target_count[i] else math.nan) for m in scores.values())),
        )
        for i in shown
    )


def augmented(before: Scene, after: Scene, steps: Sequence[str]) -> Sheet:
    """A training scan as it lies on the disk, as the network gets it, and which scans its points come from.

    Args:
        before, after: the two.
        steps: names of the transforms between them.
    """
    classes = before.classes
    panels = [
        Panel(title, f"{len(scene.coord):,} points".replace(",", " "), scene.coord, _classes(scene))
        for title, scene in (("Scan", before), ("Sample", after))
    ]
    marks: tuple[Key, ...] = ()
    if after.source is not None:
        colours = [SOURCES[i % len(SOURCES)] for i in range(len(after.sources))]
        panels.append(Panel("Where its points come from", "", after.coord, by_class(after.source, colours)))
        parts = np.bincount(after.source, minlength=len(colours)) / max(len(after.source), 1)
        marks = tuple(
            Key(colour, name, (f"{100 * part:.1f} %",))
            for colour, name, part in zip(colours, after.sources, parts, strict=True)
        )
    shown = classes.shown(*(scene.layers[TRUTH] for scene in (before, after) if scene.truth is not None))
    keys = tuple(
        Key(classes.colours[i], classes.names[i], tuple(short(_number(scene, i)) for scene in (before, after)))
        for i in shown
    )
    return Sheet(before.name, "  ".join(steps), tuple(panels), ("scan", "sample"), keys, marks)


def _classes(scene: Scene) -> np.ndarray:
    truth = scene.truth if scene.truth is not None else np.full(len(scene.coord), -1)
    return by_class(truth, scene.classes.colours)


def _number(scene: Scene, index: int) -> int:
    return 0 if scene.truth is None else int((scene.truth == index).sum())
