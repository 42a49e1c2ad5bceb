"""Scenes: what a seed gives, the plan of the street, what moves."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("embreex", reason="the simulator needs the extra 'simulator'")

from pointcept.datasets.simulator import Scene, Simulator, draw_scene, hdl32e, hdl64e, waymo_lasers
from pointcept.datasets.simulator.ground import ground_mesh
from pointcept.datasets.simulator.plan import STYLES, draw_plan
from pointcept.datasets.simulator.shapes import Mesh, box, cylinder, ellipsoid
from pointcept.datasets.simulator.surfaces import Kind, Material


def scene(number: int = 0, style: str = "residential", duration: float = 1.0) -> Scene:
    return draw_scene(np.random.SeedSequence(7, spawn_key=(number,)), duration, style)


@pytest.fixture(scope="module")
def street() -> Scene:
    return scene(0, "town")


def test_a_seed_gives_the_same_scene_and_another_seed_another_one() -> None:
    first, again, other = scene(1), scene(1), scene(2)
    assert np.array_equal(first.static.triangles, again.static.triangles)
    assert np.array_equal(first.raster.kind, again.raster.kind)
    assert [a.start for a in first.actors] == [a.start for a in again.actors]
    assert first.static.triangles.shape != other.static.triangles.shape


@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_a_street(style: str) -> None:
    drawn = scene(3, style)
    assert np.isfinite(drawn.static.triangles).all()
    assert np.isfinite(drawn.ground).all()
    painted = set(np.unique(drawn.raster.kind).tolist())
    assert Kind.ROAD in painted
    assert Kind.TERRAIN in painted
    assert set(np.unique(drawn.static.kind).tolist()) <= {int(k) for k in Kind}
    assert drawn.static.instance.max() < 65536


def test_unknown_style_and_endless_drive_are_refused() -> None:
    with pytest.raises(ValueError, match="residential"):
        scene(style="moon")
    with pytest.raises(ValueError, match="needs a street"):
        scene(duration=1e4)


def test_the_ego_vehicle_and_the_actors_move_as_fast_as_they_say(street: Scene) -> None:
    way = street.ego_pose(1.0)[:3, 3] - street.ego_pose(0.0)[:3, 3]
    assert np.linalg.norm(way) == pytest.approx(street.ego.speed, rel=0.05)
    forward = street.ego_pose(0.5)[:3, 0]
    assert way @ forward / np.linalg.norm(way) > 0.99
    assert street.actors
    for actor in street.actors:
        (s0, t0), (s1, t1) = actor.position(0.0), actor.position(1.0)
        assert np.hypot(s1 - s0, t1 - t0) == pytest.approx(np.hypot(*actor.velocity))
        assert np.hypot(*actor.velocity) > 0.5
    before, after = street.moving(0.0), street.moving(0.1)
    assert before.triangles.shape == after.triangles.shape
    assert np.abs(before.triangles - after.triangles).max() > 0.05


def test_the_kerb_lies_between_road_and_sidewalk() -> None:
    plan = draw_plan(np.random.default_rng(3), 200.0, "town")
    s = np.array([j for j in np.arange(5, 195, 1.0) if not plan.in_junction(j, 5.0)])
    edge = plan.half + plan.bay_at(s, np.ones_like(s))
    rise = plan.height(s, edge + 0.3) - plan.height(s, edge - 0.3)
    assert np.allclose(rise, plan.curb, atol=0.03)
    assert plan.curb >= 0.05


def test_corners_of_junctions_are_round_and_belong_to_the_road() -> None:
    plan = next(p for p in (draw_plan(np.random.default_rng(k), 250.0, "town") for k in range(20)) if p.junctions)
    j = plan.junctions[0]
    side = 1.0 if j.left else -1.0
    inside = plan.road_distance(
        np.array([j.s + j.half + 0.1 * j.radius]), np.array([side * (plan.half + 0.1 * j.radius)])
    )
    outside = plan.road_distance(
        np.array([j.s + j.half + 0.8 * j.radius]), np.array([side * (plan.half + 0.8 * j.radius)])
    )
    assert inside < 0 < outside


def test_ground_mesh_meets_the_height_of_the_plan() -> None:
    plan = draw_plan(np.random.default_rng(5), 180.0, "suburb")
    triangles, st = ground_mesh(plan)
    assert np.allclose(triangles[..., 2], plan.height(st[..., 0], st[..., 1]), atol=1e-3)
    assert np.allclose(triangles[..., :2], plan.alignment.to_plane(st[..., 0], st[..., 1]), atol=1e-3)


def test_primitives_have_the_size_they_were_asked_for() -> None:
    assert np.ptp(box((2, 3, 4), (1, 1, 1)), axis=(0, 1)) == pytest.approx([2, 3, 4])
    assert np.ptp(cylinder(0.5, -1, 2, 12), axis=(0, 1)) == pytest.approx([1, 1, 3], abs=0.05)
    assert np.ptp(ellipsoid((1, 2, 3), (0, 0, 0), 8)[..., 1]) == pytest.approx(4, abs=0.2)
    mesh = Mesh.of(box((2, 1, 1), (0, 0, 0)), Kind.CAR, Material.CAR_PAINT).placed((5, 0, 0), np.pi / 2)
    assert np.ptp(mesh.triangles, axis=(0, 1)) == pytest.approx([1, 2, 1], abs=1e-5)
    assert mesh.triangles.mean(axis=(0, 1))[0] == pytest.approx(5)


def test_scans_follow_the_model_of_the_sensor(street: Scene) -> None:
    simulator = Simulator(street)
    for sensor in (hdl64e(), hdl32e(), *waymo_lasers(0.2)):
        scan = simulator.scan(sensor, 0.2, np.random.default_rng(0))
        n, rays = len(scan.xyz), len(sensor.directions)
        assert 0.1 * rays < n <= sensor.returns * rays
        assert set(np.unique(scan.order)) <= set(range(sensor.returns))
        assert (scan.distance < sensor.max_range).all()
        assert (scan.distance > sensor.min_range).all()
        assert scan.ring.max() < len(sensor.elevations)
        assert (scan.intensity >= 0).all()
        assert np.isfinite(scan.xyz).all()
        assert np.isfinite(scan.intensity).all()
        first = scan.ray[scan.order == 0]
        assert len(np.unique(first)) == len(first)
        # Without the vehicle's own motion every point lies on the ray of its beam.
        moved = sensor.firing_time[scan.ray] * (street.ego.speed if sensor.sweeping else 0.0)
        off = np.linalg.norm(scan.xyz - scan.distance[:, None] * sensor.directions[scan.ray], axis=1)
        assert (off <= np.abs(moved) + 1e-3).all()


def test_a_64_beam_scan_is_full_and_sees_the_street(street: Scene) -> None:
    scan = Simulator(street).scan(hdl64e(), 0.0, np.random.default_rng(0))
    assert 95_000 < len(scan.xyz) < 134_000
    share = np.bincount(scan.kind, minlength=len(Kind)) / len(scan.kind)
    assert share[Kind.ROAD] > 0.1
    assert share[Kind.BUILDING] + share[Kind.VEGETATION] > 0.05
    road = scan.xyz[(scan.kind == Kind.ROAD) & (np.abs(scan.xyz[:, :2]).max(1) < 10)]
    assert np.median(road[:, 2]) == pytest.approx(-1.73, abs=0.15)


def test_scans_of_one_moment_differ_only_by_their_noise(street: Scene) -> None:
    simulator = Simulator(street)
    a, b, c = (simulator.scan(hdl32e(), 0.0, np.random.default_rng(k)) for k in (1, 1, 2))
    assert np.array_equal(a.xyz, b.xyz)
    assert np.array_equal(a.intensity, b.intensity)
    both, i, j = np.intersect1d(a.ray, c.ray, return_indices=True)
    assert len(both) > 0.8 * len(a.ray)
    assert not np.array_equal(a.xyz[i], c.xyz[j])
    assert np.median(np.abs(a.distance[i] - c.distance[j])) < 0.1
