"""A procedural street simulator: an embedded data set in the official layouts of the three real ones.

``python tools/generate_synthetic.py --layout semantic_kitti --out data/synthetic --scenes train=4 val=1``

A scene (:mod:`.scene`) is a street drawn from a seed: a plan in street coordinates (:mod:`.plan`), a painted ground
(:mod:`.ground`), lots and furniture (:mod:`.street`), moving actors (:mod:`.actors`). A sensor (:mod:`.sensors`)
scans it (:mod:`.scan`) by ray casting with Embree (:mod:`.raycast`); a layout (:mod:`.layouts`) writes the scans.
"""

from .generate import Settings, generate
from .layouts import LAYOUTS
from .scan import Scan, Simulator
from .scene import Scene, draw_scene
from .sensors import Sensor, hdl32e, hdl64e, waymo_lasers

__all__ = [
    "LAYOUTS",
    "Scan",
    "Scene",
    "Sensor",
    "Settings",
    "Simulator",
    "draw_scene",
    "generate",
    "hdl32e",
    "hdl64e",
    "waymo_lasers",
]
