"""Pictures from above."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pointcept.evaluation.birdseye import (
    NO_CLASS,
    PAPER,
    RIGHT,
    WRONG,
    palette,
    png,
    render,
    render_errors,
    side_by_side,
)


def test_ahead_is_up_left_is_left_and_the_highest_is_seen() -> None:
    coord = np.array([[8, 0, 0], [0, 8, 0], [-8, -8, 0], [-8, -8, 1], [0, 0, 5], [99, 0, 0]], np.float32)
    colours = palette(2, ["#ff0000", "#00ff00"])
    picture = render(coord, np.array([0, 1, 0, 1, -1, 0]), colours, size=100, extent=10)
    assert picture.shape == (100, 100, 3)
    assert tuple(picture[10, 50]) == (255, 0, 0)
    assert tuple(picture[50, 10]) == (0, 255, 0)
    assert tuple(picture[90, 90]) == (0, 255, 0)
    assert tuple(picture[50, 50]) == NO_CLASS
    assert tuple(picture[0, 0]) == PAPER


def test_errors_are_in_front() -> None:
    coord = np.array([[0, 0, 3], [0, 0, 0], [5, 5, 0], [-5, 5, 0]], np.float32)
    picture = render_errors(coord, np.array([0, 1, 1, 1]), np.array([0, 0, 1, -1]), size=50, extent=10)
    assert tuple(picture[25, 25]) == WRONG
    assert tuple(picture[12, 12]) == RIGHT
    assert tuple(picture[37, 12]) == NO_CLASS


def test_colours_are_chosen_where_there_are_none() -> None:
    assert len(np.unique(palette(20), axis=0)) == 20
    assert len(palette(3, ["#000000"])) == 3
    assert palette(0).shape == (0, 3)
    assert render(np.zeros((0, 3)), np.zeros(0, int), palette(2), size=8).shape == (8, 8, 3)


def test_a_png_is_what_other_programs_read() -> None:
    plt = pytest.importorskip("matplotlib.image")
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    two = side_by_side([picture, picture], gap=2)
    assert two.shape == (5, 16, 3)
    np.testing.assert_array_equal(np.round(plt.imread(io.BytesIO(png(two)))[..., :3] * 255), two)
