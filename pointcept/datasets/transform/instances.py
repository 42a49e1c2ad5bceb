"""Cut objects of rare classes out of other scans and paste them: ``InstancePaste``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.errors import ConfigError

from .mixing import ClassChoice, MixTransform, ScanSource, concat_scans, turned
from .points import Sample, check_number, check_range, coord_of, select_points


def connected_objects(coord: np.ndarray, segment: np.ndarray, cell: float) -> np.ndarray:
    """Group points into objects: of one class, in cells that touch (corners count) when seen from above.

    Args:
        coord: float (N, 3) [m], N >= 1.
        segment: classes, int (N,), all >= 0.
        cell: edge of the square cells [m].

    Returns:
        Object of every point, int64 (N,) in [0, objects).
    """
    grid = np.floor(coord[:, :2].astype(np.float64) / cell).astype(np.int64)
    # A free row around every class, so that the last cells of one do not touch the first of the next.
    grid -= grid.min(axis=0) - 1
    nx, ny = (grid.max(axis=0) + 2).tolist()
    cells, inverse = np.unique((segment * nx + grid[:, 0]) * ny + grid[:, 1], return_inverse=True)
    edges = []
    for step in (1, ny - 1, ny, ny + 1):
        place = np.minimum(np.searchsorted(cells, cells + step), len(cells) - 1)
        touching = np.flatnonzero(cells[place] == cells + step)
        edges.append((touching, place[touching]))
    group = np.arange(len(cells))
    while True:
        before = group.copy()
        for first, second in edges:
            # One after the other: a cell may be the first of one pair and the second of another.
            group[first] = np.minimum(group[first], group[second])
            group[second] = np.minimum(group[second], group[first])
        group = group[group]
        if (group == before).all():
            return np.unique(group, return_inverse=True)[1][inverse]


def in_boxes(coord: np.ndarray, objects: Sequence[np.ndarray], position: Sequence[float]) -> np.ndarray:
    """Which points lie in the box of an object; a box has one axis along the line of sight to its object.

    Args:
        coord: float (N, 3) [m].
        objects: float (M, 3) each [m], M >= 1.
        position: of the scanner [m].

    Returns:
        bool (N,).
    """
    # One coordinate after the other: columns of (N, 3) are slow to read, and few points pass the first test.
    x, y = (coord[:, axis] - np.float32(position[axis]) for axis in (0, 1))
    found = np.zeros(len(coord), bool)
    for points in objects:
        own = points[:, :2] - np.array(position[:2], np.float32)
        ahead = own.mean(axis=0)
        distance_of_object = float(np.hypot(*ahead))
        # An object around the scanner has no line of sight: any axis will do.
        ahead = ahead / distance_of_object if distance_of_object > 1e-3 else np.array([1, 0], np.float32)
        along, across = own @ ahead, own @ np.array([-ahead[1], ahead[0]])
        distance = ahead[0] * x + ahead[1] * y
        near = np.flatnonzero((distance >= along.min()) & (distance <= along.max()))
        side = ahead[0] * y[near] - ahead[1] * x[near]
        near = near[(side >= across.min()) & (side <= across.max())]
        height = coord[near, 2]
        found[near[(height >= points[:, 2].min()) & (height <= points[:, 2].max())]] = True
    return found


@TRANSFORMS.register_module()
class InstancePaste(MixTransform):
    """Paste objects of rare classes of other scans (CutMix of instances, as copy-and-paste in many LiDAR methods).

    From each partner a number of objects is drawn: a class, uniformly from those of ``classes`` that it has, then an
    object of that class. An object is turned about the scanner by a random angle, so that its range, height and density
    stay those of a scan.

    Objects are the ``instance`` ids >= 0 of a partner that has such an entry, else connected points of one class.

    Args:
        p: probability to paste.
        classes: indices or names of the classes; None: the ``things`` of the data set.
        partners: how many scans objects are taken from.
        count: (low, high) of the number of objects of each partner.
        angle: (low, high) of the turn, drawn uniformly [degrees].
        min_points: objects of fewer points are left out.
        cell: points of one class belong together if their cells of this size, seen from above, touch [m].
        clear: leave out the points of the sample in the boxes of pasted objects.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        p: float = 0.5,
        classes: Sequence[int | str] | None = None,
        partners: int = 1,
        count: Sequence[int] = (1, 5),
        angle: Sequence[float] = (0, 360),
        min_points: int = 20,
        cell: float = 0.5,
        clear: bool = True,
    ) -> None:
        super().__init__(p)
        self.classes = ClassChoice(classes, "InstancePaste")
        if not isinstance(partners, int) or isinstance(partners, bool) or partners < 1:
            raise ConfigError(f"partners must be an integer >= 1, got {partners!r}")
        self.partners = partners
        low, high = check_range(count, "count")
        if low < 1 or not (low.is_integer() and high.is_integer()):
            raise ConfigError(f"count must be two integers (low, high), 1 <= low <= high, got {count!r}")
        self.count = int(low), int(high)
        self.angle = check_range(angle, "angle")
        self.min_points = int(check_number(min_points, "min_points", 1))
        self.cell = check_number(cell, "cell", 0, open_low=True)
        if not isinstance(clear, bool):
            raise ConfigError(f"clear must be True or False, got {clear!r}")
        self.clear = clear

    def bind(self, source: ScanSource, before: Callable[[Sample], Sample]) -> None:
        """See :meth:`MixTransform.bind`."""
        super().bind(source, before)
        self.classes.resolve(source.names, source.things)

    def mix(self, sample: Sample, partner: Sample) -> Sample:
        """See the class."""
        position = self.scanner.position
        pasted = [
            turned(select_points(partner, points), np.random.uniform(*self.angle), position)
            for points in self._choose(partner)
        ]
        if not pasted:
            return sample
        if self.clear:
            sample = select_points(sample, ~in_boxes(coord_of(sample), [new["coord"] for new in pasted], position))
        return concat_scans([sample, *pasted], self.ignore_index)

    def _choose(self, partner: Sample) -> list[np.ndarray]:
        """The points of the objects to paste, int (M,) each."""
        if "segment" not in partner:
            return []
        points = np.flatnonzero(self.classes.mask(partner["segment"]))
        if "instance" in partner:
            points = points[partner["instance"][points] >= 0]
        if len(points) == 0:
            return []
        segment = partner["segment"][points]
        if "instance" in partner:
            instance = partner["instance"][points].astype(np.int64)
            objects = np.unique(segment * (instance.max() + 1) + instance, return_inverse=True)[1]
        else:
            objects = connected_objects(coord_of(partner)[points], segment, self.cell)
        sizes = np.bincount(objects)
        class_of = np.zeros(len(sizes), np.int64)
        class_of[objects] = segment
        large = np.flatnonzero(sizes >= self.min_points)
        if len(large) == 0:
            return []
        present = np.unique(class_of[large])
        chosen = []
        for _ in range(np.random.randint(self.count[0], self.count[1] + 1)):
            candidates = large[class_of[large] == present[np.random.randint(len(present))]]
            chosen.append(points[objects == candidates[np.random.randint(len(candidates))]])
        return chosen
