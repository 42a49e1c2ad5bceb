"""Projection and z-buffer against what one can work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pointcept.views.raster import Camera, draw, ground_height, nearest, shade

ABOVE = Camera((0, 0, 10), (0, 0, 0), (1, 0, 0), 20, perspective=False)
AHEAD = Camera((0, 0, 0), (1, 0, 0), (0, 0, 1), 90)
BLACK = np.zeros(3, np.float32)


def test_from_above_ahead_is_up_and_left_is_left() -> None:
    coord = np.array([[0, 0, 0], [5, 0, 1], [0, 5, 2]], np.float32)
    x, y, depth, scale = ABOVE.project(coord, 100, 100)
    assert x.tolist() == pytest.approx([50, 50, 25])
    assert y.tolist() == pytest.approx([50, 25, 50])
    assert depth.tolist() == pytest.approx([10, 9, 8])
    assert scale.tolist() == pytest.approx([5, 5, 5])


def test_perspective_has_the_angle_that_it_says() -> None:
    x, y, depth, scale = AHEAD.project(np.array([[4, 0, 4], [2, -1, 0]], np.float32), 200, 100)
    assert (x[0], y[0], depth[0]) == pytest.approx((100, 0, 4), abs=1e-4)
    assert (x[1], y[1], scale[1]) == pytest.approx((125, 50, 25))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_nearest_point_is_seen(order: list[int]) -> None:
    coord = np.array([[9, 0, 0], [3, 0, 0]], np.float32)[order]
    pixels, _ = nearest(AHEAD, coord, 0.2, (50, 50), 1)
    assert pixels[25, 25] == order.index(1)
    assert pixels[0, 0] == -1


def test_points_behind_and_beside_are_not_seen() -> None:
    coord = np.array([[-5, 0, 0], [1, 30, 0], [0.1, 0, 0]], np.float32)
    pixels, _ = nearest(AHEAD, coord, 0.2, (50, 50), 1)
    assert (pixels == -1).all()


def test_many_points_keep_their_order_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    coord = rng.uniform((2, -2, -2), (9, 2, 2), (500, 3)).astype(np.float32)
    whole, depth = nearest(AHEAD, coord, 0.3, (60, 60), 1)
    monkeypatch.setattr("pointcept.views.raster.CHUNK", 7)
    assert (nearest(AHEAD, coord, 0.3, (60, 60), 1)[0] == whole).all()
    x, y, _, _ = AHEAD.project(coord, 60, 60)
    for i in range(0, 500, 17):  # no point hides one that stands in front of it
        if 0 <= round(x[i]) < 60 and 0 <= round(y[i]) < 60:
            assert depth[whole[round(y[i]), round(x[i])]] <= depth[i]


def test_a_picture_has_the_colour_of_its_point_and_the_paper_around() -> None:
    colours = np.array([[1, 0.5, 0]], np.float32)
    picture = draw(AHEAD, np.array([[2, 0, 0]], np.float32), colours, (40, 40), np.full(3, 0.2, np.float32), size=0.8)
    assert picture.shape == (40, 40, 3)
    assert picture[20, 20].tolist() == [255, 128, 0]
    assert picture[0, 0].tolist() == [51, 51, 51]
    empty = draw(AHEAD, np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), (8, 8), BLACK)
    assert empty.max() == 0


def test_what_stands_behind_is_darker_along_an_edge() -> None:
    depth = np.full((9, 9), 4.0, np.float32)
    depth[:, :4] = 2
    light = shade(depth, True, 1, 1.0)
    assert light[4, 4] < 0.9
    assert light[4, 3] == light[4, 7] == 1
    depth[:, :4] = np.inf  # nothing casts no shade
    assert shade(depth, True, 1, 1.0)[4, 4] == 1


def test_the_ground_is_what_lies_low_near_the_scanner() -> None:
    coord = np.array([[1, 0, -1.7]] * 50 + [[2, 0, 3.0]] * 50 + [[90, 0, -30]] * 200, np.float32)
    assert ground_height(coord) == pytest.approx(-1.7)
    assert ground_height(coord[100:]) == pytest.approx(-30)
