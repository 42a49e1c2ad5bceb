"""The centre line of the street: from street coordinates (s along, t to the left) to the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alignment:
    """A smooth plane curve with a height profile, sampled every ``step`` metres.

    Attributes:
        step: distance of the samples [m].
        xy: (M,2) centre line in the world [m].
        heading: (M,) its direction [rad].
        height: (M,) its height [m].
    """

    step: float
    xy: np.ndarray
    heading: np.ndarray
    height: np.ndarray

    @property
    def length(self) -> float:
        """Length of the street [m]."""
        return self.step * (len(self.heading) - 1)

    @staticmethod
    def draw(rng: np.random.Generator, length: float, tightest: float, hill: float) -> Alignment:
        """Draw a street of ``length`` [m] with radii above ``tightest`` [m] and hills of about ``hill`` [m]."""
        step = 1.0
        s = np.arange(0.0, length + step, step)
        curvature = np.zeros_like(s)
        height = np.zeros_like(s)
        for _ in range(3):
            wave, phase = rng.uniform(90, 260), rng.uniform(0, 2 * np.pi)
            curvature += rng.uniform(0, 0.33) / tightest * np.sin(2 * np.pi * s / wave + phase)
            height += hill / 3 * rng.uniform(0, 1) * np.sin(2 * np.pi * s / rng.uniform(90, 260) + rng.uniform(0, 6.3))
        heading = rng.uniform(-np.pi, np.pi) + np.cumsum(curvature) * step
        direction = np.stack([np.cos(heading), np.sin(heading)], 1)
        xy = np.concatenate([np.zeros((1, 2)), np.cumsum(0.5 * step * (direction[1:] + direction[:-1]), axis=0)])
        return Alignment(step, xy, heading, height)

    def _at(self, values: np.ndarray, s: np.ndarray) -> np.ndarray:
        position = np.clip(np.asarray(s, np.float64) / self.step, 0, len(values) - 1.001)
        low = position.astype(np.int64)
        share = position - low
        return values[low] * (1 - share) + values[low + 1] * share

    def yaw(self, s: np.ndarray | float) -> np.ndarray:
        """Direction of the street at stations ``s`` (any shape) [rad]."""
        return self._at(self.heading, np.asarray(s))

    def profile(self, s: np.ndarray | float) -> np.ndarray:
        """Height of the centre line at stations ``s`` (any shape) [m]."""
        return self._at(self.height, np.asarray(s))

    def to_plane(self, s: np.ndarray | float, t: np.ndarray | float) -> np.ndarray:
        """World x, y (...,2) of street coordinates ``s``, ``t`` (...) [m]."""
        s, t = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(t, np.float64))
        yaw = self.yaw(s)
        x = self._at(self.xy[:, 0], s) - t * np.sin(yaw)
        y = self._at(self.xy[:, 1], s) + t * np.cos(yaw)
        return np.stack([x, y], axis=-1)
