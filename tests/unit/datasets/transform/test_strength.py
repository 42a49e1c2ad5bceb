"""Strengths as other scanners would give them."""

from __future__ import annotations

import numpy as np
import pytest

from pointcept.datasets.transform import RandomStrength
from pointcept.utils.errors import ConfigError


@pytest.fixture
def sample() -> dict[str, np.ndarray]:
    np.random.seed(1)
    strength = np.linspace(0, 1, 5001, dtype=np.float32)[:, None]
    return {"coord": np.zeros((5001, 3), np.float32), "strength": strength}


def test_gain_and_power_follow_their_definition(sample: dict[str, np.ndarray]) -> None:
    before = sample["strength"].copy()
    changed = RandomStrength(gain=(0.5, 0.5), power=(2, 2), sigma=0)(sample)
    np.testing.assert_allclose(changed["strength"], 0.5 * before**2, atol=1e-6)
    assert changed["strength"].dtype == np.float32
    assert changed["coord"] is sample["coord"]
    np.testing.assert_array_equal(sample["strength"], before)


def test_noise_has_its_size_and_limits_hold(sample: dict[str, np.ndarray]) -> None:
    step = RandomStrength(gain=(1, 1), power=(1, 1), sigma=0.1, limits=(-9, 9))
    noise = step(sample)["strength"] - sample["strength"]
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    bounded = RandomStrength(gain=(3, 3), sigma=0.1)(sample)["strength"]
    assert (bounded.min(), bounded.max()) == (0, 1)


def test_draws_differ_and_stay_in_their_range(sample: dict[str, np.ndarray]) -> None:
    step = RandomStrength(gain=(0.7, 1.3), power=(1, 1), sigma=0, limits=(0, 2))
    gains = [float(step(sample)["strength"][-1, 0]) for _ in range(200)]
    assert 0.7 <= min(gains) < 0.75
    assert 1.25 < max(gains) <= 1.3


def test_strengths_are_dropped_as_often_as_asked(sample: dict[str, np.ndarray]) -> None:
    dropped = [not RandomStrength(drop=0.25)(sample)["strength"].any() for _ in range(400)]
    assert 0.18 < np.mean(dropped) < 0.32
    assert RandomStrength(drop=1)(sample)["strength"].shape == (5001, 1)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"gain": (-1, 1)}, "gain"),
        ({"gain": (2, 1)}, "gain"),
        ({"power": (0, 1)}, "power"),
        ({"sigma": -1}, "sigma"),
        ({"limits": 3}, "limits"),
        ({"drop": 1.5}, "drop"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^{place}: got"):
        RandomStrength(**arguments)
