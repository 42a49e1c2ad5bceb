"""What changes the strengths of points, so that a network does not depend on one scanner's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.checks import check_number, check_range

from .points import Sample, child_generator


@TRANSFORMS.register_module()
class RandomStrength:
    """Give ``strength`` as another scanner would: to a random power, times a random gain, with noise; or none at all.

    Args:
        gain: (low, high) of the factor.
        power: (low, high) of the exponent, above 0.
        sigma: standard deviation of the noise of each point.
        limits: (low, high) to which the result is clipped.
        drop: probability that all points have the strength 0, as scans of scanners without one.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        gain: Sequence[float] = (0.7, 1.3),
        power: Sequence[float] = (0.7, 1.4),
        sigma: float = 0.03,
        limits: Sequence[float] = (0, 1),
        drop: float = 0.0,
    ) -> None:
        self.gain = check_range("gain", gain, 0)
        self.power = check_range("power", power, 0, open_low=True)
        self.sigma = check_number("sigma", sigma, 0)
        self.limits = check_range("limits", limits)
        self.drop = check_number("drop", drop, 0, 1)

    def __call__(self, sample: Sample) -> Sample:
        strength = sample["strength"]
        if np.random.random() < self.drop:
            return {**sample, "strength": np.zeros_like(strength)}
        gain, power = np.random.uniform(*self.gain), np.random.uniform(*self.power)
        noise = child_generator().standard_normal(strength.shape, dtype=np.float32)
        changed = np.float32(gain) * np.maximum(strength, 0) ** np.float32(power) + np.float32(self.sigma) * noise
        return {**sample, "strength": np.clip(changed, *self.limits).astype(np.float32, copy=False)}
