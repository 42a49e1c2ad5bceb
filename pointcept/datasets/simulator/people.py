"""Pedestrians and riders made of tubes and ellipsoids."""

from __future__ import annotations

import numpy as np

from .shapes import Mesh, ellipsoid, tube
from .surfaces import Kind, Material


def person(rng: np.random.Generator, pose: str = "walking", phase: float | None = None) -> Mesh:
    """A person of random build, facing +x.

    Args:
        rng: draws height, build and clothes.
        pose: ``walking`` (legs apart by ``phase``), ``standing`` or ``riding`` (seated, hands forward).
        phase: where in the step cycle the legs are [rad]; drawn when None.
    """
    height = rng.uniform(1.55, 1.92) * (0.65 if pose == "walking" and rng.uniform() < 0.1 else 1.0)
    build = rng.uniform(0.85, 1.25)
    hip, shoulder = 0.5 * height, 0.82 * height
    if phase is None:
        phase = float(rng.uniform(0, 2 * np.pi))
    swing = 0.28 * height * np.sin(phase) if pose == "walking" else 0.0
    forward = 0.32 if pose == "riding" else 0.03
    neck = np.array([forward, 0, shoulder])
    parts = []
    for side in (-1, 1):
        root = np.array([0, side * 0.09 * build, hip])
        if pose == "riding":
            leg = np.array(
                [root, [0.34, side * 0.12, hip - 0.12 + 0.08 * side], [0.22, side * 0.12, 0.24 + 0.06 * side]]
            )
        else:
            leg = np.array([root, [0.5 * side * swing + 0.03, root[1], 0.5 * hip], [side * swing, root[1], 0.03]])
        parts.append(tube(leg, (0.09 * build, 0.065 * build, 0.05 * build), 5))
        hand = (
            [0.52, side * 0.24, 0.58 * height]
            if pose == "riding"
            else [-0.7 * side * swing + 0.05, side * 0.26 * build, hip]
        )
        shoulder_joint = np.add(neck, [0, side * 0.2 * build, -0.03])
        parts.append(tube(np.array([shoulder_joint, hand]), (0.055 * build, 0.04 * build), 4))
    spine = np.array([[0, 0, hip - 0.05], 0.5 * (np.add(neck, [0, 0, hip])), neck])
    torso = tube(spine, (0.14 * build, 0.15 * build, 0.12 * build), 7)
    torso[:, :, 1] *= 1.35
    parts.append(torso)
    parts.append(ellipsoid((0.1, 0.085, 0.13), np.add(neck, [0.03, 0, 0.1 * height]), 6))
    if rng.uniform() < 0.25:
        parts.append(ellipsoid((0.12, 0.17, 0.22), np.add(neck, [-0.22, 0, -0.2]), 5))
    return Mesh.of(np.concatenate(parts), Kind.PEDESTRIAN, Material.CLOTH)
