"""One scan with what is known of its points, and what follows: scores, differences, the worst scans."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pointcept.evaluation import ConfusionMatrix
from pointcept.utils.errors import DataError
from pointcept.views.colours import distinct

TRUTH = "truth"
NOTHING = 255
"""Code of points of which no difference can be told: without a label or a prediction."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set: their names and colours (``#rrggbb``), K of each."""

    names: tuple[str, ...]
    colours: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Any) -> Classes:
        """Those of a data set or its class; colours are made up where it has none."""
        colours = tuple(getattr(dataset, "colours", ()))
        names = tuple(dataset.names)
        return cls(names, colours if len(colours) == len(names) else distinct(len(names)))

    def shown(self, *layers: np.ndarray) -> list[int]:
        """The classes that occur in one of the layers, int (N,) each, ascending."""
        found = [np.unique(layer[layer >= 0]) for layer in layers]
        return np.unique(np.concatenate(found)).tolist() if found else []


@dataclass(frozen=True)
class Scene:
    """One scan.

    Args:
        name: of the scan.
        coord: float32 (N, 3) [m].
        classes: what the numbers of the layers mean.
        layers: name -> int16 (N,) classes, -1 for none: ``truth`` if there is one, then one or two predictions,
            the better known first (teacher, student).
        strength: float32 (N,) or None.
        source: int16 (N,), of which of ``sources`` a point is, or None.
        sources: names of the scans that a mixed sample is made of.

    Raises:
        DataError: an entry has not one row for each point, or a class that there is not.
    """

    name: str
    coord: np.ndarray
    classes: Classes
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    strength: np.ndarray | None = None
    source: np.ndarray | None = None
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            if layer.shape != (len(self.coord),):
                raise DataError(f"{self.name}: {name} has {len(layer)} classes, the scan {len(self.coord)} points")
            if layer.max(initial=-1) >= len(self.classes.names):
                known = len(self.classes.names) - 1
                raise DataError(f"{self.name}: {name} has class {layer.max()}, the data set has 0 to {known}")

    @property
    def truth(self) -> np.ndarray | None:
        """The true classes, or None."""
        return self.layers.get(TRUTH)

    @property
    def predictions(self) -> list[str]:
        """Names of the layers that are predictions."""
        return [name for name in self.layers if name != TRUTH]


@dataclass(frozen=True)
class Difference:
    """Where layers differ.

    Attributes:
        codes: uint8 (N,), an index of ``labels``; ``NOTHING`` where it cannot be told.
        labels: what the codes mean; code 0 is agreement.
        colours: of the codes but the first, which is drawn as the background wants it.
    """

    codes: np.ndarray
    labels: tuple[str, ...]
    colours: tuple[str, ...]


WRONG, OTHER, BOTH = "#ff5a4f", "#35a7ff", "#ffc53d"


def difference(scene: Scene) -> Difference | None:
    """Where the predictions are wrong; without a truth where two predictions differ; None with less than two layers."""
    truth, names = scene.truth, scene.predictions
    layers = [scene.layers[name] for name in names]
    if not names or (truth is None and len(names) < 2):
        return None
    last = names[-1]
    if truth is None:
        codes = (layers[0] != layers[-1]).astype(np.uint8)
        known = (layers[0] >= 0) & (layers[-1] >= 0)
        labels = ["the same class", f"{names[0]} and {last} differ"]
    elif len(names) == 1:
        codes = (layers[0] != truth).astype(np.uint8)
        known = (truth >= 0) & (layers[0] >= 0)
        labels = ["right", "wrong"]
    else:
        codes = (layers[-1] != truth) + 2 * (layers[0] != truth).astype(np.uint8)
        known = (truth >= 0) & (layers[0] >= 0) & (layers[-1] >= 0)
        labels = ["both right", f"only {last} wrong", f"only {names[0]} wrong", "both wrong"]
    colours = (WRONG, OTHER, BOTH)[: len(labels) - 1]
    return Difference(np.where(known, codes, NOTHING).astype(np.uint8), tuple(labels), colours)


def count(scene: Scene, layer: str) -> ConfusionMatrix:
    """The confusion matrix of a prediction against the truth, which there must be; points without a class do not
    count."""
    truth, pred = scene.layers[TRUTH], scene.layers[layer]
    matrix = ConfusionMatrix(len(scene.classes.names), -1, scene.classes.names)
    target = np.where(pred < 0, -1, truth).astype(np.int64)
    matrix.update(torch.from_numpy(np.maximum(pred, 0).astype(np.int64)), torch.from_numpy(target))
    return matrix


def error_rate(scene: Scene) -> float:
    """Share of the labelled points that the last prediction has wrong; 0 where nothing can be told."""
    if scene.truth is None or not scene.predictions:
        return 0.0
    pred = scene.layers[scene.predictions[-1]]
    known = (scene.truth >= 0) & (pred >= 0)
    return float((pred != scene.truth)[known].mean()) if known.any() else 0.0


def worst(scenes: Iterable[Scene], number: int) -> list[Scene]:
    """The ``number`` scenes with the largest :func:`error_rate`, the worst first; no more are held at a time."""
    kept: list[tuple[float, int, Scene]] = []
    for order, scene in enumerate(scenes):
        entry = (error_rate(scene), -order, scene)
        (heapq.heappush if len(kept) < number else heapq.heappushpop)(kept, entry)
    return [scene for *_, scene in sorted(kept, key=lambda entry: entry[:2], reverse=True)]
