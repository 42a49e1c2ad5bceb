"""A small scan with two predictions, for tests of the views."""

from __future__ import annotations

import numpy as np

from pointcept.datasets import SemanticKITTIDataset
from pointcept.views.scene import Classes, Scene

CLASSES = Classes.of(SemanticKITTIDataset)
CAR, ROAD, BUILDING = 0, 8, 12


def street(name: str = "08_000000", seed: int = 0, **changes: object) -> Scene:
    """A road with a wall and a car: 900 points. The student takes the car for wall, the teacher some road for car."""
    rng = np.random.default_rng(seed)
    road = np.stack([rng.uniform(-20, 20, 600), rng.uniform(-6, 6, 600), np.full(600, -1.7)], 1)
    wall = np.stack([rng.uniform(-20, 20, 200), np.full(200, 7.0), rng.uniform(-1.7, 3, 200)], 1)
    car = np.stack([rng.uniform(6, 9, 100), rng.uniform(-3, -1, 100), rng.uniform(-1.7, 0, 100)], 1)
    truth = np.repeat(np.array([ROAD, BUILDING, CAR], np.int16), (600, 200, 100))
    teacher, student = truth.copy(), truth.copy()
    teacher[:60] = CAR
    student[30:90] = BUILDING
    student[800:] = BUILDING
    truth[590:600] = -1
    layers = {"truth": truth, "teacher": teacher, "student": student}
    coord = np.concatenate([road, wall, car]).astype(np.float32)
    strength = rng.uniform(0, 1, 900).astype(np.float32)
    return Scene(
        **{"name": name, "coord": coord, "classes": CLASSES, "layers": layers, "strength": strength, **changes}
    )  # type: ignore[arg-type]
