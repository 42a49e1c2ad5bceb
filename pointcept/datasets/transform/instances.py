"""Objects of rare classes, cut out of other scans and pasted: ``InstancePaste``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.checks import check_integer, check_integers, check_number, check_range, refused

from .mixing import JOIN, ClassChoice, MixTransform, ScanSource, concat_scans, turned
from .points import Sample, coord_of, point_keys, select_points

logger = logging.getLogger(__name__)


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
        reach = float(np.hypot(*ahead))
        # An object around the scanner has no line of sight: any axis will do.
        ahead = ahead / reach if reach > 1e-3 else np.array([1, 0], np.float32)
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
    """Add objects of rare classes of other scans: CutMix of instances.

    The objects of up to ``scans`` scans, spread evenly over the data set, are cut out of the scans as they are read,
    when the first one is needed, and kept in memory, so that a class that few scans have is as likely to be pasted as
    the others. For a sample a number of objects is drawn, for each a class, uniformly from those that there are, and an
    object of it. It is turned about the scanner, so that range and density stay those of a scan, and the points of the
    sample in its box make room.

    Objects are the ``instance`` ids >= 0 of a scan that has such an entry, else connected points of one class. Cutting
    and pasting objects to balance the classes is common in LiDAR segmentation, for instance in WaffleIron (Puy et al.,
    ICCV 2023), which puts them on the ground at random places.

    Args:
        p: probability to paste.
        classes: indices or names of the classes; None: the ``rare`` ones of the data set.
        scans: how many scans the objects are cut out of, at most.
        count: (low, high) of the number of objects of a sample.
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
        scans: int = 1000,
        count: Sequence[int] = (1, 10),
        angle: Sequence[float] = (0, 360),
        min_points: int = 20,
        cell: float = 0.5,
        clear: bool = True,
    ) -> None:
        super().__init__(p)
        self.classes = ClassChoice(classes)
        self.scans = check_integer("scans", scans, 1)
        low, high = check_integers("count", count, 2, 1)
        if low > high:
            raise refused("count", count, "two integers (low, high), low not above high")
        self.count = low, high
        self.angle = check_range("angle", angle)
        self.min_points = check_integer("min_points", min_points, 1)
        self.cell = check_number("cell", cell, 0, open_low=True)
        if not isinstance(clear, bool):
            raise refused("clear", clear, "True or False")
        self.clear = clear
        self._bank: list[list[Sample]] | None = None

    def bind(self, source: ScanSource, before: Callable[[Sample], Sample]) -> None:
        """See :meth:`MixTransform.bind`."""
        super().bind(source, before)
        self.classes.resolve(source.names, source.rare)

    def mixed(self, sample: Sample, source: ScanSource) -> Sample:
        """``sample`` with objects drawn from those of the data set."""
        if self._bank is None:
            self._bank = self._collect(source)
        return self.paste(sample, self._bank)

    def mix(self, sample: Sample, partner: Sample) -> Sample:
        """``sample`` with objects drawn from those of ``partner`` alone."""
        return self.paste(sample, self._by_class(self.cut(partner)))

    def paste(self, sample: Sample, bank: Sequence[Sequence[Sample]]) -> Sample:
        """``sample`` with objects drawn from ``bank``: for each class its objects, at least one."""
        if not bank:
            return sample
        pasted = []
        for _ in range(np.random.randint(self.count[0], self.count[1] + 1)):
            candidates = bank[np.random.randint(len(bank))]
            chosen = candidates[np.random.randint(len(candidates))]
            pasted.append(turned(chosen, np.random.uniform(*self.angle), self.scanner.position))
        if self.clear:
            boxes = [new["coord"] for new in pasted]
            sample = select_points(sample, ~in_boxes(coord_of(sample), boxes, self.scanner.position))
        result = concat_scans([sample, *pasted], self.ignore_index)
        if "name" in result:
            result["name"] += f"{JOIN}{len(pasted)} objects"  # their scans would make it longer than a file name may be
        return result

    def cut(self, scan: Sample) -> list[Sample]:
        """The objects of a scan, each with its per-point entries."""
        if "segment" not in scan:
            return []
        points = np.flatnonzero(self.classes.mask(scan["segment"]))
        if "instance" in scan:
            points = points[scan["instance"][points] >= 0]
        if len(points) == 0:
            return []
        segment = scan["segment"][points].astype(np.int64)
        if "instance" in scan:
            instance = scan["instance"][points].astype(np.int64)
            objects = np.unique(segment * (instance.max() + 1) + instance, return_inverse=True)[1]
        else:
            objects = connected_objects(coord_of(scan)[points], segment, self.cell)
        large = np.flatnonzero(np.bincount(objects) >= self.min_points)
        kept = {key: scan[key] for key in (*point_keys(scan), "index_valid_keys") if key in scan}
        return [select_points(kept, points[objects == number]) for number in large]

    def _collect(self, source: ScanSource) -> list[list[Sample]]:
        """The objects of ``scans`` scans of the data set, by class."""
        number = len(source.data_list)
        indices = np.linspace(0, number - 1, min(self.scans, number)).round().astype(int).tolist()
        bank = self._by_class([found for index in indices for found in self.cut(source.read(index))])
        if not bank:
            logger.warning(
                "InstancePaste: %d scans have no object of its classes, so that it pastes none", len(indices)
            )
        return bank

    @staticmethod
    def _by_class(objects: Sequence[Sample]) -> list[list[Sample]]:
        """The objects of each class that there is, in the order of classes."""
        bank: dict[int, list[Sample]] = {}
        for found in objects:
            bank.setdefault(int(found["segment"][0]), []).append(found)
        return [bank[number] for number in sorted(bank)]
