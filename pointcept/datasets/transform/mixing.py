"""Transforms that mix scans: what they share, PolarMix and LaserMix.

A :class:`MixTransform` stands in ``transform`` of a data set and asks it for other scans, its partners. Which ones is
drawn from the global ``np.random`` as all else, so that a sample stays a function of its draw. Angles are in degrees,
about the position of the scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.checks import check_integers, check_number, check_range, refused
from pointcept.utils.errors import ConfigError, DataError, did_you_mean

from .geometry import rotation_matrix
from .points import LABEL_KEYS, POINT_KEYS, Sample, coord_of, point_keys, select_points

JOIN = "+"
"""What stands between the names of the scans that a sample is made of, as in Mix3D."""

DRAWS = 20
"""How often a partner is drawn anew if it is in the sample already; a scan mixed with itself does no harm."""


class Scanner(NamedTuple):
    """From where a data set's scans are seen."""

    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the (main) scanner in the coordinates of the scans [m]."""
    pitch_range: tuple[float, float] | None = None
    """Its lowest and its highest beam, in degrees above the horizon; None: unknown."""


class ScanSource(Protocol):
    """What a mix needs of its data set; every ``BaseDataset`` has it."""

    names: tuple[str, ...]
    things: tuple[str, ...]
    rare: tuple[str, ...]
    scanner: Scanner
    ignore_index: int
    data_list: list[Any]

    def read(self, idx: int) -> Sample:
        """Read scan ``idx``."""

    def get_data_name(self, idx: int) -> str:
        """Name of scan ``idx``."""


class MixTransform:
    """Base of transforms that mix a sample with another scan of its data set: derive and write :meth:`mix`.

    It goes first in ``transform`` of a training set: before what moves the scanner, before voxels and tensors. The
    partner has passed the transforms that stand before the mix, except other mixes.

    Args:
        p: probability to mix.

    Raises:
        ConfigError: ``p`` is outside [0, 1].
    """

    def __init__(self, p: float) -> None:
        self.p = check_number("p", p, 0, 1)
        self.scanner = Scanner()
        self.ignore_index = -1
        self.source: ScanSource | None = None
        self._before: Callable[[Sample], Sample]

    def bind(self, source: ScanSource, before: Callable[[Sample], Sample]) -> None:
        """Take partners from ``source`` from now on, each passed through ``before``.

        Raises:
            ConfigError: an argument does not suit the data set, or the transform serves another one already.
        """
        if self.source is not None:
            raise ConfigError(f"this {type(self).__name__} belongs to another data set: each needs its own")
        self.source, self._before = source, before
        self.scanner, self.ignore_index = source.scanner, source.ignore_index

    def mix(self, sample: Sample, partner: Sample) -> Sample:
        """Mix two scans; entries that are not per point are those of ``sample``, neither is changed."""
        raise NotImplementedError

    def __call__(self, sample: Sample) -> Sample:
        """Mix ``sample`` with a drawn partner, with probability ``p``.

        Raises:
            ConfigError: there is no data set to draw from, or the sample consists of voxels or tensors already.
            DataError: the partner cannot be read or has other entries.
        """
        coord_of(sample)
        if "grid_coord" in sample or "inverse" in sample:
            raise ConfigError(f"{type(self).__name__} mixes points, not voxels: put it before GridSample")
        if self.source is None:
            raise ConfigError(f"{type(self).__name__} needs other scans: it works in the transform of a data set only")
        return self.mixed(sample, self.source) if np.random.random() < self.p else sample

    def mixed(self, sample: Sample, source: ScanSource) -> Sample:
        """``sample`` mixed with a scan drawn uniformly from those that it is not made of, if there are others."""
        used = str(sample.get("name")).split(JOIN)
        for _ in range(DRAWS):
            index = np.random.randint(len(source.data_list))
            if source.get_data_name(index) not in used:
                break
        return self.mix(sample, self._before(source.read(index)))


class ClassChoice:
    """Classes that a config gives by number or by name.

    Args:
        classes: a list of class indices or names; None for the data set's default.

    Raises:
        ConfigError: ``classes`` is no such list.
    """

    def __init__(self, classes: Sequence[int | str] | None) -> None:
        self.classes = classes
        self.ids: np.ndarray | None = None
        if classes is None:
            return
        listed = isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes) > 0
        if not listed or not all(
            isinstance(c, str) or (isinstance(c, int) and not isinstance(c, bool) and c >= 0) for c in classes
        ):
            raise refused("classes", classes, "a list of class names or of indices, at least 0")
        if all(isinstance(c, int) for c in classes):
            self.ids = np.unique(np.array(classes, np.int64))

    def resolve(self, names: Sequence[str], default: Sequence[str]) -> None:
        """Look the classes up among ``names``; ``default`` are those to take if none are given.

        Raises:
            ConfigError: there is no such class, or none are given and the default is empty.
        """
        if self.classes is None and not default:
            raise refused(
                "classes", None, "a list of them, as the data set does not say which of its classes are objects"
            )
        ids = []
        for entry in default if self.classes is None else self.classes:
            if isinstance(entry, str) and entry not in names:
                raise ConfigError(f"there is no class {entry!r}: {did_you_mean(entry, names)}", "classes")
            if isinstance(entry, int) and entry >= len(names):
                raise refused("classes", entry, f"class indices from 0 to {len(names) - 1}")
            ids.append(names.index(entry) if isinstance(entry, str) else entry)
        self.ids = np.unique(np.array(ids, np.int64))

    def mask(self, segment: np.ndarray) -> np.ndarray:
        """Which points have one of the classes, bool (N,).

        Raises:
            ConfigError: the classes are not resolved: there is no data set.
        """
        if self.ids is None:
            raise refused("classes", self.classes, "a list of indices, where there is no data set that has names")
        table = np.zeros(self.ids[-1] + 3, bool)
        table[self.ids + 1] = True
        # Row 0 is any negative label, the last row any class beyond the chosen ones.
        return np.take(table, segment + 1, mode="clip")


def concat_scans(parts: Sequence[Sample], ignore_index: int) -> Sample:
    """Put the points of several scans into one sample.

    Args:
        parts: samples with the same per-point entries, the first with all else that the result shall have. Labels
            that a part lacks are filled in: ``ignore_index``, instance -1. Instances >= 0 are numbered anew.
        ignore_index: label of points without a class.

    Returns:
        The sample; its ``name`` says which scans gave points, joined with "+".

    Raises:
        DataError: a part lacks an entry that another has, or has it in another shape.
    """
    keys = list(dict.fromkeys(key for part in parts for key in point_keys(part)))
    result = dict(parts[0])
    for key in keys:
        values = [_values(part, key, ignore_index, parts[0].get("name")) for part in parts]
        if key == "instance":
            values = _renumber(values)
        shapes = {value.shape[1:] for value in values}
        if len(shapes) > 1:
            raise DataError(f"scans with different shapes of {key!r} cannot be mixed: {sorted(map(str, shapes))}")
        result[key] = np.concatenate(values)
    if any("index_valid_keys" in part for part in parts):
        known = [key for part in parts for key in part.get("index_valid_keys", POINT_KEYS)]
        result["index_valid_keys"] = list(dict.fromkeys(known))
    if "name" in result:
        names = [str(part["name"]) for part in parts if "name" in part and len(part["coord"])]
        result["name"] = JOIN.join(dict.fromkeys(single for name in names for single in name.split(JOIN)))
    return result


def _values(part: Sample, key: str, ignore_index: int, name: Any) -> np.ndarray:
    """Entry ``key`` of a part, made up for labels that it lacks."""
    if key in part:
        return np.asarray(part[key])
    if key not in LABEL_KEYS:
        raise DataError(f"scan {part.get('name')} has no {key!r}, so that it cannot be mixed with {name}")
    return np.full(len(part["coord"]), ignore_index if key == "segment" else -1, np.int64)


def _renumber(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Instances >= 0 of each part behind those of the parts before it."""
    result, start = [], 0
    for value in values:
        result.append(np.where(value >= 0, value + start, value))
        start = max(start, int(result[-1].max(initial=-1)) + 1)
    return result


def turned(sample: Sample, angle: float, position: Sequence[float]) -> Sample:
    """Turn a scan by ``angle`` [degrees] about the vertical axis through ``position`` [m]; ``normal`` turns, too."""
    matrix = rotation_matrix("z", np.radians(angle))
    center, coord = np.array(position), coord_of(sample)
    shift = (center - matrix @ center).astype(coord.dtype)
    matrix = matrix.astype(coord.dtype)
    result = {**sample, "coord": coord @ matrix.T + shift}
    if "normal" in sample:
        result["normal"] = (sample["normal"] @ matrix.T).astype(sample["normal"].dtype, copy=False)
    return result


def in_sector(coord: np.ndarray, start: float, width: float, position: Sequence[float]) -> np.ndarray:
    """Which points lie in the azimuths [start, start + width) [degrees], seen from ``position`` [m], bool (N,)."""
    first, last = np.radians(start), np.radians(start + width)
    x, y = coord[:, 0] - np.float32(position[0]), coord[:, 1] - np.float32(position[1])
    # Sides of the two edges: a tenth of the time of an arc tangent.
    after_first = np.float32(np.cos(first)) * y >= np.float32(np.sin(first)) * x
    before_last = np.float32(np.cos(last)) * y < np.float32(np.sin(last)) * x
    return after_first & before_last if width <= 180 else after_first | before_last


@TRANSFORMS.register_module()
class PolarMix(MixTransform):
    """PolarMix (Xiao et al., NeurIPS 2022): swap a sector of azimuths, and paste objects of the partner at several
    angles.

    The two parts are independent: first, with probability ``swap_ratio``, the points of a sector are replaced by those
    of the partner; then, with probability ``rotate_paste_ratio``, all points of ``classes`` of the partner are added
    once for each entry of ``turns``. The defaults are those of the authors' program.

    Args:
        p: probability to mix.
        swap_ratio: probability of the swap, if mixed.
        sector: (low, high) of the sector's width, drawn uniformly, in [0, 360] degrees; its start is uniform.
        rotate_paste_ratio: probability of the pasting, if mixed.
        classes: indices or names of the classes to paste; None: the ``things`` of the data set.
        turns: for each copy (low, high) of its turn about the scanner, drawn uniformly [degrees].

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        p: float = 0.5,
        swap_ratio: float = 0.5,
        sector: Sequence[float] = (180, 180),
        rotate_paste_ratio: float = 1.0,
        classes: Sequence[int | str] | None = None,
        turns: Sequence[Sequence[float]] = ((0, 0), (0, 120), (120, 240)),
    ) -> None:
        super().__init__(p)
        self.swap_ratio = check_number("swap_ratio", swap_ratio, 0, 1)
        self.rotate_paste_ratio = check_number("rotate_paste_ratio", rotate_paste_ratio, 0, 1)
        self.sector = check_range("sector", sector, 0, 360)
        self.classes = ClassChoice(classes)
        if isinstance(turns, str) or not isinstance(turns, Sequence) or len(turns) == 0:
            raise refused("turns", turns, "a list of pairs (low, high) of degrees")
        self.turns = [check_range(f"turns.{i}", turn) for i, turn in enumerate(turns)]

    def bind(self, source: ScanSource, before: Callable[[Sample], Sample]) -> None:
        """See :meth:`MixTransform.bind`."""
        super().bind(source, before)
        self.classes.resolve(source.names, source.things)

    def mix(self, sample: Sample, partner: Sample) -> Sample:
        """See the class."""
        position = self.scanner.position
        parts = [sample]
        if np.random.random() < self.swap_ratio:
            width = np.random.uniform(*self.sector)
            start = np.random.uniform(0, 360)
            parts = [
                select_points(sample, ~in_sector(coord_of(sample), start, width, position)),
                select_points(partner, in_sector(coord_of(partner), start, width, position)),
            ]
        if np.random.random() < self.rotate_paste_ratio and "segment" in partner:
            chosen = self.classes.mask(partner["segment"])
            if chosen.any():
                objects = select_points(partner, chosen)
                parts += [turned(objects, np.random.uniform(*turn), position) for turn in self.turns]
        return _joined(sample, parts, self.ignore_index)


@TRANSFORMS.register_module()
class LaserMix(MixTransform):
    """LaserMix (Kong et al., CVPR 2023): take bands of pitch angles from the two scans in turn.

    The range of the beams is cut into bands of equal angle; every other band comes from the partner, the highest from
    either. Points above or below belong to the outer bands.

    Args:
        p: probability to mix.
        num_areas: how many bands, drawn from this list; each >= 2.
        pitch_range: (lowest, highest) pitch [degrees]; None: that of the data set's scanner.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        p: float = 0.5,
        num_areas: Sequence[int] = (3, 4, 5, 6),
        pitch_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__(p)
        self.num_areas = check_integers("num_areas", num_areas, low=2)
        self.pitch_range = None if pitch_range is None else check_range("pitch_range", pitch_range, -90, 90)
        if self.pitch_range is not None and self.pitch_range[0] == self.pitch_range[1]:
            raise refused("pitch_range", pitch_range, "two numbers (low, high), low below high")

    def bind(self, source: ScanSource, before: Callable[[Sample], Sample]) -> None:
        """See :meth:`MixTransform.bind`."""
        super().bind(source, before)
        if self.pitch_range is None:
            self.pitch_range = source.scanner.pitch_range
        if self.pitch_range is None:
            raise refused("pitch_range", None, "two numbers, as the data set does not say that of its scanner")

    def mix(self, sample: Sample, partner: Sample) -> Sample:
        """See the class."""
        if self.pitch_range is None:
            raise refused("pitch_range", None, "two numbers, where there is no data set")
        low, high = self.pitch_range
        edges = np.linspace(low, high, self.num_areas[np.random.randint(len(self.num_areas))] + 1)[1:-1]
        first = np.random.random() < 0.5
        parts = [
            select_points(scan, _odd_band(coord_of(scan), edges, self.scanner.position) == (first == own))
            for scan, own in ((sample, True), (partner, False))
        ]
        return _joined(sample, parts, self.ignore_index)


def _odd_band(coord: np.ndarray, edges: np.ndarray, position: Sequence[float]) -> np.ndarray:
    """Whether the number of ``edges`` [degrees] below the pitch of a point is odd, bool (N,)."""
    x, y, z = (coord[:, axis] - np.float32(position[axis]) for axis in range(3))
    distance = np.sqrt(x * x + y * y)
    odd = np.zeros(len(coord), bool)
    for edge in np.radians(edges):
        # z / distance >= tan(edge), also right above the scanner and for edges at +-90 degrees
        odd ^= np.float32(np.cos(edge)) * z >= np.float32(np.sin(edge)) * distance
    return odd


def _joined(sample: Sample, parts: Sequence[Sample], ignore_index: int) -> Sample:
    """The parts as one scan; ``sample`` where they have no points at all."""
    return concat_scans(parts, ignore_index) if any(len(part["coord"]) for part in parts) else sample
