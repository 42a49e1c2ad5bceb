"""Label spaces that several data sets share: which of their classes mean the same.

Each data set keeps its own classes; a space names them, in the words of their owners, below the class that they
become. It is checked against the owners when it is used: every class of a data set has exactly one place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pointcept.utils.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class LabelSpace:
    """Classes that several data sets can tell apart.

    Args:
        classes: class -> data set (the ``type`` in configs) -> classes of that data set. The order is that of the
            class indices.
        ignored: data set -> its classes that have no counterpart; their points get the ignore index.
    """

    classes: Mapping[str, Mapping[str, Sequence[str]]]
    ignored: Mapping[str, Sequence[str]]

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in the order of the class indices."""
        return tuple(self.classes)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The data sets whose classes have a place here."""
        return tuple(dict.fromkeys(dataset for members in self.classes.values() for dataset in members))

    def table(self, dataset: str, names: Sequence[str], ignore_index: int) -> np.ndarray:
        """Class of this space for every class of a data set.

        Args:
            dataset: its ``type``.
            names: its class names, K of them, in the order of its class indices.
            ignore_index: for classes without a counterpart.

        Returns:
            int64 (K,).

        Raises:
            ConfigError: the space does not know the data set, or one of the two has a class that the other lacks.
        """
        if dataset not in self.datasets:
            raise ConfigError(f"the label space has no classes of {dataset!r}: {did_you_mean(dataset, self.datasets)}")
        places = [(name, ignore_index) for name in self.ignored.get(dataset, ())]
        for index, members in enumerate(self.classes.values()):
            places += [(name, index) for name in members.get(dataset, ())]
        known = [name for name, _ in places]
        if sorted(known) != sorted(names):
            wrong = sorted({*names} ^ {*known}) or sorted({name for name in known if known.count(name) > 1})
            raise ConfigError(f"classes of {dataset} without exactly one place in the label space: {', '.join(wrong)}")
        index_of = dict(places)
        return np.array([index_of[name] for name in names], np.int64)


_KITTI, _NUSCENES, _WAYMO = "SemanticKITTIDataset", "NuScenesDataset", "WaymoDataset"


def _members(kitti: Sequence[str], nuscenes: Sequence[str], waymo: Sequence[str]) -> dict[str, Sequence[str]]:
    return {_KITTI: kitti, _NUSCENES: nuscenes, _WAYMO: waymo}


# nuScenes labels riders as part of their bicycle or motorcycle, parking areas as driveable, and walls, fences, poles
# and signs as one class; Waymo's Other-Ground is painted or laid on the road, its Walkable mostly grass.
DRIVING = LabelSpace(
    classes={
        "car": _members(["car"], ["car"], ["Car"]),
        "large-vehicle": _members(
            ["truck", "other-vehicle"],
            ["bus", "construction_vehicle", "trailer", "truck"],
            ["Truck", "Bus", "Other-Vehicle"],
        ),
        "bicycle": _members(["bicycle", "bicyclist"], ["bicycle"], ["Bicycle", "Bicyclist"]),
        "motorcycle": _members(["motorcycle", "motorcyclist"], ["motorcycle"], ["Motorcycle", "Motorcyclist"]),
        "person": _members(["person"], ["pedestrian"], ["Pedestrian"]),
        "driveable": _members(["road", "parking"], ["driveable_surface"], ["Road", "Lane-Marker", "Other-Ground"]),
        "sidewalk": _members(["sidewalk"], ["sidewalk"], ["Sidewalk"]),
        "terrain": _members(["terrain"], ["terrain"], ["Walkable"]),
        "vegetation": _members(["vegetation", "trunk"], ["vegetation"], ["Vegetation", "Tree-Trunk"]),
        "structure": _members(
            ["building", "fence", "pole", "traffic-sign"],
            ["manmade"],
            ["Building", "Pole", "Sign", "Traffic-Light"],
        ),
    },
    # SemanticKITTI leaves cones and barriers unlabelled; a curb lies between road and sidewalk, which the others
    # do not separate; traffic islands have no class in Waymo.
    ignored={
        _KITTI: ["other-ground"],
        _NUSCENES: ["barrier", "traffic_cone", "other_flat"],
        _WAYMO: ["Construction-Cone", "Curb"],
    },
)

LABEL_SPACES: dict[str, LabelSpace] = {"driving": DRIVING}
"""Label spaces by the name that configs use."""


def label_space(name: str) -> LabelSpace:
    """Look a label space up.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in LABEL_SPACES:
        raise ConfigError(f"no label space {name!r}: {did_you_mean(name, LABEL_SPACES)}")
    return LABEL_SPACES[name]
