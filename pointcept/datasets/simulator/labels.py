"""From semantic kinds to the raw label ids of the three data sets, through the class maps of their modules."""

from __future__ import annotations

import numpy as np

from ..nuscenes import CLASSES as NUSCENES_CLASSES
from ..semantic_kitti import CLASSES as KITTI_CLASSES
from ..waymo import NAMES as WAYMO_NAMES
from .surfaces import Kind

UNLABELED, OTHER_STRUCTURE, OTHER_OBJECT = 0, 52, 99
"""Raw ids of SemanticKITTI that belong to no class."""

_KITTI: dict[Kind, str | int] = {
    Kind.UNLABELED: UNLABELED,
    Kind.EGO: UNLABELED,
    Kind.ROAD: "road",
    Kind.LANE_MARKING: 60,
    Kind.PARKING: "parking",
    Kind.SIDEWALK: "sidewalk",
    Kind.CURB: "sidewalk",
    Kind.OTHER_GROUND: "other-ground",
    Kind.TERRAIN: "terrain",
    Kind.BUILDING: "building",
    Kind.FENCE: "fence",
    Kind.OTHER_STRUCTURE: OTHER_STRUCTURE,
    Kind.OTHER_OBJECT: OTHER_OBJECT,
    Kind.VEGETATION: "vegetation",
    Kind.TRUNK: "trunk",
    Kind.POLE: "pole",
    Kind.TRAFFIC_SIGN: "traffic-sign",
    Kind.TRAFFIC_LIGHT: OTHER_OBJECT,
    Kind.CONE: OTHER_OBJECT,
    Kind.BARRIER: OTHER_OBJECT,
    Kind.CAR: "car",
    Kind.TRUCK: "truck",
    Kind.BUS: 13,
    Kind.CONSTRUCTION_VEHICLE: "other-vehicle",
    Kind.TRAILER: "other-vehicle",
    Kind.BICYCLE: "bicycle",
    Kind.MOTORCYCLE: "motorcycle",
    Kind.BICYCLIST: "bicyclist",
    Kind.MOTORCYCLIST: "motorcyclist",
    Kind.PEDESTRIAN: "person",
}
_NUSCENES: dict[Kind, str | int] = {
    Kind.UNLABELED: 0,
    Kind.EGO: 31,
    Kind.ROAD: "driveable_surface",
    Kind.LANE_MARKING: "driveable_surface",
    Kind.PARKING: "driveable_surface",
    Kind.SIDEWALK: "sidewalk",
    Kind.CURB: "sidewalk",
    Kind.OTHER_GROUND: "other_flat",
    Kind.TERRAIN: "terrain",
    Kind.BUILDING: "manmade",
    Kind.FENCE: "manmade",
    Kind.OTHER_STRUCTURE: "manmade",
    Kind.OTHER_OBJECT: 29,
    Kind.VEGETATION: "vegetation",
    Kind.TRUNK: "vegetation",
    Kind.POLE: "manmade",
    Kind.TRAFFIC_SIGN: "manmade",
    Kind.TRAFFIC_LIGHT: "manmade",
    Kind.CONE: "traffic_cone",
    Kind.BARRIER: "barrier",
    Kind.CAR: "car",
    Kind.TRUCK: "truck",
    Kind.BUS: 16,
    Kind.CONSTRUCTION_VEHICLE: "construction_vehicle",
    Kind.TRAILER: "trailer",
    Kind.BICYCLE: "bicycle",
    Kind.MOTORCYCLE: "motorcycle",
    Kind.BICYCLIST: "bicycle",
    Kind.MOTORCYCLIST: "motorcycle",
    Kind.PEDESTRIAN: "pedestrian",
}
_WAYMO: dict[Kind, str] = {
    Kind.ROAD: "Road",
    Kind.LANE_MARKING: "Lane-Marker",
    Kind.PARKING: "Road",
    Kind.SIDEWALK: "Sidewalk",
    Kind.CURB: "Curb",
    Kind.OTHER_GROUND: "Other-Ground",
    Kind.TERRAIN: "Walkable",
    Kind.BUILDING: "Building",
    Kind.FENCE: "Building",
    Kind.OTHER_STRUCTURE: "Building",
    Kind.VEGETATION: "Vegetation",
    Kind.TRUNK: "Tree-Trunk",
    Kind.POLE: "Pole",
    Kind.TRAFFIC_SIGN: "Sign",
    Kind.TRAFFIC_LIGHT: "Traffic-Light",
    Kind.CONE: "Construction-Cone",
    Kind.BARRIER: "Building",
    Kind.CAR: "Car",
    Kind.TRUCK: "Truck",
    Kind.BUS: "Bus",
    Kind.CONSTRUCTION_VEHICLE: "Other-Vehicle",
    Kind.TRAILER: "Other-Vehicle",
    Kind.BICYCLE: "Bicycle",
    Kind.MOTORCYCLE: "Motorcycle",
    Kind.BICYCLIST: "Bicyclist",
    Kind.MOTORCYCLIST: "Motorcyclist",
    Kind.PEDESTRIAN: "Pedestrian",
}
_KITTI_MOVING = {
    Kind.CAR: 252,
    Kind.TRUCK: 258,
    Kind.BUS: 257,
    Kind.CONSTRUCTION_VEHICLE: 259,
    Kind.TRAILER: 259,
    Kind.BICYCLIST: 253,
    Kind.MOTORCYCLIST: 255,
    Kind.PEDESTRIAN: 254,
}


def semantic_kitti_ids() -> np.ndarray:
    """Raw ids of SemanticKITTI, uint32 (2, len(Kind)): row 0 of what stands, row 1 of what moves."""
    table = np.zeros((2, len(Kind)), np.uint32)
    for kind in Kind:
        name = _KITTI[kind]
        raw = KITTI_CLASSES[name][0] if isinstance(name, str) else name
        table[:, kind] = raw, _KITTI_MOVING.get(kind, raw)
    return table


def nuscenes_ids() -> np.ndarray:
    """Raw ids of nuScenes lidarseg, uint8 (len(Kind),)."""
    table = np.zeros(len(Kind), np.uint8)
    for kind in Kind:
        name = _NUSCENES[kind]
        table[kind] = NUSCENES_CLASSES[name][0] if isinstance(name, str) else name
    return table


def waymo_ids() -> np.ndarray:
    """Official numbers of Waymo, int32 (len(Kind),): class + 1, 0 for what has no class."""
    table = np.zeros(len(Kind), np.int32)
    for kind, name in _WAYMO.items():
        table[kind] = WAYMO_NAMES.index(name) + 1
    return table
