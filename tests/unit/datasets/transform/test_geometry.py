"""Transforms that move points: known answers, ranges, an independent library for the elastic distortion."""

from __future__ import annotations

import numpy as np
import pytest

from pointcept.datasets.transform import (
    CenterShift,
    ElasticDistortion,
    PointClip,
    RandomFlip,
    RandomJitter,
    RandomRotate,
    RandomRotateTargetAngle,
    RandomScale,
    RandomShift,
)
from pointcept.datasets.transform.geometry import interpolate, rotation_matrix, smooth_noise
from pointcept.datasets.transform.points import child_generator
from pointcept.utils.errors import ConfigError, DataError

ALL = [
    RandomRotate(p=1),
    RandomRotateTargetAngle(p=1),
    RandomScale((0.5, 0.6)),
    RandomShift(((1, 2), (1, 2), (1, 2))),
    RandomFlip(1),
    RandomJitter(),
    PointClip((-1, -1, -1, 1, 1, 1)),
    CenterShift(),
    ElasticDistortion(),
]


@pytest.fixture(autouse=True)
def seed():
    np.random.seed(3)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("n", [1, 300])
def test_keeps_shape_dtype_labels_and_input(transform, n, make_sample):
    sample = make_sample(n)
    before = sample["coord"].copy()
    for _ in range(20):
        result = transform(sample)
    assert result["coord"].shape == (n, 3)
    assert result["coord"].dtype == np.float32
    assert np.isfinite(result["coord"]).all()
    np.testing.assert_array_equal(result["segment"], np.arange(n))
    np.testing.assert_array_equal(sample["coord"], before)


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_is_a_function_of_the_global_seed(transform, make_sample):
    results = []
    for state in (5, 5, 6):
        np.random.seed(state)
        results.append(transform(make_sample(100))["coord"])
    np.testing.assert_array_equal(results[0], results[1])
    if not isinstance(transform, (PointClip, CenterShift, RandomFlip, RandomRotateTargetAngle)):
        assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("axis", "point", "expected"),
    [("x", (0, 1, 0), (0, 0, 1)), ("y", (0, 0, 1), (1, 0, 0)), ("z", (1, 0, 0), (0, 1, 0))],
)
def test_quarter_turn_is_right_handed(axis, point, expected):
    np.testing.assert_allclose(rotation_matrix(axis, np.pi / 2) @ point, expected, atol=1e-12)
    sample = {"coord": np.array([point], np.float32), "normal": np.array([point], np.float32)}
    for transform in (
        RandomRotate([0.5, 0.5], [0, 0, 0], axis, p=1),
        RandomRotateTargetAngle([0.5], [0, 0, 0], axis, p=1),
    ):
        result = transform(sample)
        np.testing.assert_allclose(result["coord"], [expected], atol=1e-6)
        np.testing.assert_allclose(result["normal"], [expected], atol=1e-6)


def test_rotation_about_a_center():
    coord = np.array([[0, 0, 0], [4, 2, 6]], np.float32)
    half_turn = RandomRotate([1, 1], None, "z", always_apply=True, p=0)
    np.testing.assert_allclose(half_turn({"coord": coord})["coord"], [[4, 2, 0], [0, 0, 6]], atol=1e-5)
    about_x1 = RandomRotate([1, 1], [1, 0, 0], "z", p=1)
    np.testing.assert_allclose(about_x1({"coord": coord})["coord"], [[2, 0, 0], [-2, -2, 6]], atol=1e-5)


def test_rotation_angles_fill_the_range():
    sample = {"coord": np.array([[1, 0, 0]], np.float32)}
    transform = RandomRotate([-0.25, 0.5], [0, 0, 0], "z", p=1)
    angles = [np.arctan2(*transform(sample)["coord"][0, 1::-1]) / np.pi for _ in range(500)]
    assert -0.25 <= min(angles) < -0.2
    assert 0.45 < max(angles) <= 0.5
    targets = RandomRotateTargetAngle([0.5, 1, 1.5], [0, 0, 0], p=1)
    seen = {tuple(np.round(targets(sample)["coord"][0]).astype(int)) for _ in range(100)}
    assert seen == {(0, 1, 0), (-1, 0, 0), (0, -1, 0)}


def test_probability():
    sample = {"coord": np.array([[1, 0, 0]], np.float32)}
    turned = sum(RandomRotate([1, 1], [0, 0, 0], p=0.3)(sample)["coord"][0, 0] < 0 for _ in range(2000))
    assert 520 < turned < 680
    assert RandomRotate(p=0)(sample)["coord"] is sample["coord"]


def test_scale(make_sample):
    sample = make_sample(50)
    np.testing.assert_array_equal(RandomScale([2, 2])(sample)["coord"], 2 * sample["coord"])
    factors = np.array([RandomScale([0.9, 1.1])(sample)["coord"] / sample["coord"] for _ in range(200)])
    assert np.ptp(factors[0]) < 1e-6, "one factor for all axes"
    assert 0.9 <= factors.min() < 0.91
    assert 1.09 < factors.max() <= 1.1001
    factors = RandomScale([0.9, 1.1], anisotropic=True)(sample)["coord"] / sample["coord"]
    assert np.ptp(factors, axis=0).max() < 1e-6 < np.ptp(factors[0]), "one factor per axis"


def test_shift(make_sample):
    sample = make_sample(50)
    moved = np.array([RandomShift(((1, 2), (-4, -3), (0, 0)))(sample)["coord"] - sample["coord"] for _ in range(100)])
    assert np.ptp(moved, axis=1).max() < 1e-5, "the same for all points"
    assert ((moved[..., 0] > 0.99) & (moved[..., 0] < 2.01)).all()
    assert np.ptp(moved[..., 0]) > 0.8
    assert ((moved[..., 1] > -4.01) & (moved[..., 1] < -2.99)).all()
    assert (moved[..., 2] == 0).all()


def test_flip_axes_are_independent():
    sample = {"coord": np.ones((1, 3), np.float32), "normal": np.ones((1, 3), np.float32)}
    seen = [tuple(RandomFlip(0.5)(sample)["coord"][0].astype(int)) for _ in range(400)]
    assert set(seen) == {(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)}
    assert all(60 < seen.count(signs) < 140 for signs in set(seen))
    np.testing.assert_array_equal(RandomFlip(1)(sample)["normal"], [[-1, -1, 1]])
    np.testing.assert_array_equal(RandomFlip(0)(sample)["coord"], [[1, 1, 1]])


def test_jitter():
    sample = {"coord": np.zeros((20000, 3), np.float32)}
    noise = RandomJitter(sigma=0.005, clip=0.02)(sample)["coord"]
    assert abs(noise.std() - 0.005) < 1e-4
    assert abs(noise.mean()) < 1e-4
    clipped = RandomJitter(sigma=0.01, clip=0.02)(sample)["coord"]
    assert np.abs(clipped).max() == np.float32(0.02)
    assert 0.03 < (np.abs(clipped) == np.float32(0.02)).mean() < 0.06


def test_clip_and_center_shift():
    coord = np.array([[-3, 5, 1], [1, 7, 3]], np.float32)
    clipped = PointClip((-2, -2, -2, 2, 6, 2))({"coord": coord})["coord"]
    np.testing.assert_array_equal(clipped, [[-2, 5, 1], [1, 6, 2]])
    np.testing.assert_array_equal(CenterShift()({"coord": coord})["coord"], [[-2, -1, 0], [2, 1, 2]])
    np.testing.assert_array_equal(CenterShift(apply_z=False)({"coord": coord})["coord"], [[-2, -1, 1], [2, 1, 3]])


def test_elastic_noise_and_interpolation_agree_with_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    interp = pytest.importorskip("scipy.interpolate")
    shape = (5, 6, 7)
    noise = smooth_noise(shape, np.random.default_rng(0))
    expected = np.random.default_rng(0).standard_normal((*shape, 3), dtype=np.float32)
    for _ in range(2):
        for axis in range(3):
            expected = ndimage.uniform_filter1d(expected, 3, axis, mode="constant")
    np.testing.assert_allclose(noise, expected, atol=1e-6)
    position = np.random.default_rng(1).uniform(0, np.array(shape) - 1.001, (100, 3))
    axes = [np.arange(n) for n in shape]
    reference = interp.RegularGridInterpolator(axes, noise)(position)
    np.testing.assert_allclose(interpolate(noise, position), reference, atol=1e-6)


def test_elastic_distortion_is_smooth_and_moves_points(make_sample):
    sample = make_sample(2000)
    displacement = ElasticDistortion([[0.8, 1.6]])(sample)["coord"] - sample["coord"]
    assert 0.05 < np.abs(displacement).mean() < 1.6
    near = {"coord": np.repeat(sample["coord"][:1], 2, 0) + np.array([[0, 0, 0], [1e-3, 0, 0]], np.float32)}
    both = ElasticDistortion([[0.8, 1.6]])(near)["coord"] - near["coord"]
    assert np.abs(both[0] - both[1]).max() < 0.02
    applied = sum(ElasticDistortion()(sample) is not sample for _ in range(100))
    assert 85 < applied < 100


def test_elastic_distortion_bends_at_a_fine_and_then_at_a_coarse_scale(make_sample):
    """The default: 0.4 times noise of 0.2 m, then 1.6 times noise of 0.8 m on what came out."""
    sample = make_sample(300)
    np.random.seed(0)  # the first draw is below P
    found = ElasticDistortion()(sample)["coord"]
    np.random.seed(0)
    np.random.random()
    coord = sample["coord"]
    for spacing, factor in ((0.2, 0.4), (0.8, 1.6)):
        low, high = coord.min(axis=0), coord.max(axis=0)
        nodes = np.floor((high - low) / spacing).astype(int) + 3
        noise = smooth_noise(nodes.tolist(), child_generator())
        moved = coord + factor * interpolate(noise, (coord - low) / spacing + 1)
        assert 0.05 < np.abs(moved - coord).mean() / factor < 0.5
        coord = moved.astype(np.float32)
    np.testing.assert_allclose(found, coord, atol=1e-6)


def test_elastic_distortion_refuses_a_huge_grid():
    sample = {"coord": np.array([[0, 0, 0], [400, 400, 40]], np.float32)}
    np.random.seed(0)  # the first draw is below P
    with pytest.raises(DataError, match=r"\[400.0, 400.0, 40.0\] m at the granularity 0.2 m"):
        ElasticDistortion()(sample)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomRotate(axis="w"), "axis: got 'w': Allowed: x, y, z"),
        (lambda: RandomRotate(angle=[1]), r"angle: got \[1\], allowed: a list of 2 finite numbers"),
        (lambda: RandomRotate(angle=[1, -1]), "low not above high"),
        (lambda: RandomRotate(p=1.5), "p: got 1.5, allowed: a finite number at least 0 and at most 1"),
        (lambda: RandomRotate(center=[0, 0]), "center: got .* 3 finite numbers"),
        (lambda: RandomRotateTargetAngle(angle=[]), "angle: got .* a list of finite numbers"),
        (lambda: RandomRotateTargetAngle(angle=0.5), "angle: got .* a list of finite numbers"),
        (lambda: RandomScale([0, 1]), "scale: got .* above 0"),
        (lambda: RandomScale(0.9), "scale: got 0.9, allowed: a list of 2"),
        (lambda: RandomShift([0.2, 0.2, 0.2]), "shift.0: got 0.2"),
        (lambda: RandomShift(0.2), "three pairs"),
        (lambda: RandomFlip("half"), "p: got 'half'"),
        (lambda: RandomJitter(sigma=-1), "sigma: got -1"),
        (lambda: RandomJitter(clip=0), "clip: got 0, allowed: .*above 0"),
        (lambda: PointClip((0, 0, 0, 1, 1)), "point_cloud_range: got .* 6 finite numbers"),
        (lambda: PointClip((0, 0, 9, 1, 1, 1)), "three minima and three larger maxima"),
        (lambda: ElasticDistortion([[0, 1]]), "distortion_params.0.0: got 0.0"),
        (lambda: ElasticDistortion(0.2), "pairs"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_wrong_coord(make_sample):
    import torch

    with pytest.raises(DataError, match="no 'coord'"):
        RandomFlip()({"name": "x"})
    with pytest.raises(DataError, match=r"\(0, 3\)"):
        RandomFlip()({"coord": np.zeros((0, 3), np.float32)})
    with pytest.raises(ConfigError, match="before ToTensor"):
        RandomFlip()({"coord": torch.zeros(3, 3)})


UTM = np.array([691_000.0, 5_412_345.0, 310.0])


def near(n=500):
    return np.random.default_rng(5).uniform(-40, 40, (n, 3))


@pytest.mark.parametrize("transform", [*ALL[:6], ElasticDistortion([(4.0, 1.0)])], ids=lambda t: type(t).__name__)
def test_far_coordinates_keep_their_shape_in_float64(transform):
    np.random.seed(3)
    moved = transform({"coord": near() + UTM})["coord"]
    np.random.seed(3)
    expected = transform({"coord": near().astype(np.float32)})["coord"]
    assert moved.dtype == np.float64
    assert expected.dtype == np.float32
    for cloud in (moved, expected):
        cloud -= cloud.mean(axis=0)
    # The rotation matrix is rounded to float32, and the grid of the distortion starts at the corner of the box.
    np.testing.assert_allclose(moved, expected, atol=1e-4)


@pytest.mark.parametrize("apply_z", [True, False])
def test_center_shift_subtracts_in_float64(apply_z):
    coord = near() + UTM
    moved = CenterShift(apply_z)({"coord": coord})["coord"]
    assert moved.dtype == np.float32
    low, high = coord.min(axis=0), coord.max(axis=0)
    shift = (low + high) / 2
    shift[2] = low[2] if apply_z else 0
    np.testing.assert_allclose(moved, coord - shift, atol=3e-5)


def test_center_shift_of_a_scan_is_that_of_float32():
    coord = near().astype(np.float32)
    middle = (coord.min(axis=0).astype(np.float64) + coord.max(axis=0)) / 2
    shift = np.array([*middle[:2], coord[:, 2].min()]).astype(np.float32)
    for given in (coord, coord.astype(np.float64)):
        moved = CenterShift()({"coord": given})["coord"]
        assert moved.dtype == np.float32
        np.testing.assert_array_equal(moved, coord - shift)


@pytest.mark.parametrize(("distance", "refused"), [(131_000, False), (132_000, True), (5_412_345, True)])
@pytest.mark.parametrize("sign", [1, -1])
def test_coordinates_that_were_rounded_already(distance, refused, sign):
    coord = (near() + np.array([0, sign * (distance + 40), 0])).astype(np.float32)
    for transform in (CenterShift(), PointClip()):
        if not refused:
            transform({"coord": coord})
            continue
        with pytest.raises(DataError, match=r"all points lie .* from the origin along an axis, where float32 resolves"):
            transform({"coord": coord})
    # points on both sides of the origin are no map, however far apart
    CenterShift()({"coord": np.concatenate([coord, -coord])})
