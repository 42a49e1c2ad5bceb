"""What stands along a street: lamps, signs, signals, cones, barriers, bins, benches, shelters."""

from __future__ import annotations

import numpy as np

from .shapes import Mesh, box, cylinder, quads, tube
from .surfaces import Kind, Material


def lamp_post(rng: np.random.Generator) -> Mesh:
    """A street lamp; its arm reaches towards +x."""
    height = rng.uniform(4.0, 9.0)
    pole = cylinder(rng.uniform(0.06, 0.11), -0.2, height, 7, 0.7)
    reach = rng.uniform(0.3, 1.8)
    arm = tube(np.array([[0, 0, height - 0.05], [reach, 0, height + 0.2]]), (0.045, 0.04), 5)
    head = box((0.6, 0.25, 0.14), (reach + 0.2, 0, height + 0.2))
    return Mesh.of(np.concatenate([pole, arm, head]), Kind.POLE, Material.STEEL)


def sign(rng: np.random.Generator) -> Mesh:
    """A traffic sign that faces -x on its pole."""
    height = rng.uniform(2.1, 2.8)
    pole = cylinder(0.035, -0.2, height, 5)
    shape = rng.choice(["disc", "triangle", "board"], p=(0.4, 0.25, 0.35))
    corners = {"disc": 12, "triangle": 3, "board": 4}[str(shape)]
    radius = rng.uniform(0.32, 0.46) if shape != "board" else rng.uniform(0.4, 0.7)
    z = height - 0.8 * radius
    plate = tube(np.array([[-0.06, 0, z], [-0.04, 0, z]]), (radius, radius), corners)
    if rng.uniform() < 0.4:
        plate = np.concatenate([plate, box((0.02, 1.6 * radius, 0.35), (-0.05, 0, z - radius - 0.25))])
    back = plate + np.array([0.03, 0, 0], np.float32)
    return Mesh.join(
        [
            Mesh.of(pole, Kind.POLE, Material.STEEL),
            Mesh.of(plate, Kind.TRAFFIC_SIGN, Material.REFLECTOR),
            Mesh.of(back, Kind.TRAFFIC_SIGN, Material.STEEL),
        ]
    )


def sign_gantry(rng: np.random.Generator) -> Mesh:
    """A large direction sign on two posts that faces -x."""
    width, z = rng.uniform(2.0, 4.5), rng.uniform(1.6, 2.6)
    posts = [cylinder(0.08, -0.2, z + 1.2, 6) + np.array([0, side * 0.35 * width, 0], np.float32) for side in (-1, 1)]
    plate = box((0.05, width, rng.uniform(1.0, 2.0)), (-0.12, 0, z + 0.6))
    back = plate + np.array([0.06, 0, 0], np.float32)
    return Mesh.join(
        [
            Mesh.of(np.concatenate(posts), Kind.POLE, Material.STEEL),
            Mesh.of(plate, Kind.TRAFFIC_SIGN, Material.REFLECTOR),
            Mesh.of(back, Kind.TRAFFIC_SIGN, Material.STEEL),
        ]
    )


def traffic_light(rng: np.random.Generator) -> Mesh:
    """A signal on its pole that faces -x, sometimes with an arm over the road towards +y."""
    height = rng.uniform(3.0, 3.6)
    parts = [cylinder(0.06, -0.2, height, 6)]
    lights = [box((0.2, 0.3, 0.85), (-0.15, 0, height - 0.5))]
    if rng.uniform() < 0.4:
        parts.append(tube(np.array([[0, 0, 5.2], [0, 4.0, 5.5]]), (0.07, 0.05), 5))
        parts.append(cylinder(0.08, height, 5.3, 6))
        lights.append(box((0.2, 0.3, 0.9), (-0.1, 3.8, 5.0)))
    return Mesh.join(
        [
            Mesh.of(np.concatenate(parts), Kind.POLE, Material.STEEL),
            Mesh.of(np.concatenate(lights), Kind.TRAFFIC_LIGHT, Material.PLASTIC),
        ]
    )


def bollard(rng: np.random.Generator) -> Mesh:
    """A short post or a delineator at the roadside."""
    height = rng.uniform(0.75, 1.1)
    body = cylinder(rng.uniform(0.04, 0.08), -0.1, height, 5)
    band = cylinder(0.085, height - 0.25, height - 0.1, 5)
    return Mesh.join([Mesh.of(body, Kind.POLE, Material.PLASTIC), Mesh.of(band, Kind.POLE, Material.REFLECTOR)])


def utility_pole(rng: np.random.Generator) -> Mesh:
    """A wooden pole with a cross arm."""
    height = rng.uniform(7, 10)
    parts = [cylinder(0.14, -0.3, height, 7, 0.7), box((0.1, 1.8, 0.12), (0, 0, height - 0.6))]
    return Mesh.of(np.concatenate(parts), Kind.POLE, Material.BARK)


def cone(rng: np.random.Generator) -> Mesh:
    """A traffic cone with a foot plate."""
    height = rng.uniform(0.5, 0.9)
    parts = [cylinder(0.16, 0.02, height, 7, 0.2), box((0.42, 0.42, 0.04), (0, 0, 0.02))]
    band = cylinder(0.125, 0.45 * height, 0.65 * height, 7, 0.75)
    return Mesh.join(
        [Mesh.of(np.concatenate(parts), Kind.CONE, Material.PLASTIC), Mesh.of(band, Kind.CONE, Material.REFLECTOR)]
    )


def barrier(rng: np.random.Generator) -> Mesh:
    """A temporary road barrier along x, 2 m long: concrete, or boards on feet."""
    if rng.uniform() < 0.5:
        profile = np.array(
            [[0, -0.3, 0], [0, -0.3, 0.15], [0, -0.1, 0.4], [0, -0.08, 0.85], [0, 0.08, 0.85], [0, 0.1, 0.4]]
        )
        profile = np.concatenate([profile, [[0, 0.3, 0.15], [0, 0.3, 0]]])
        ends = np.stack([profile, np.add(profile, [2.0, 0, 0])])
        a, b = ends[:, :-1], ends[:, 1:]
        return Mesh.of(quads(np.stack([a[0], b[0], b[1], a[1]], 1)), Kind.BARRIER, Material.CONCRETE)
    parts = [box((2.0, 0.06, 0.3), (1.0, 0, 0.95)), box((2.0, 0.06, 0.2), (1.0, 0, 0.4))]
    parts += [box((0.08, 0.6, 0.08), (x, 0, 0.04)) for x in (0.15, 1.85)]
    parts += [box((0.06, 0.06, 1.1), (x, 0, 0.55)) for x in (0.15, 1.85)]
    return Mesh.of(np.concatenate(parts), Kind.BARRIER, Material.PLASTIC)


def bin_or_box(rng: np.random.Generator) -> Mesh:
    """A litter bin, a switch box, a letter box: an object without a class of its own."""
    if rng.uniform() < 0.5:
        shape = cylinder(rng.uniform(0.2, 0.35), 0.02, rng.uniform(0.8, 1.2), 8)
    else:
        size = rng.uniform((0.3, 0.5, 0.8), (0.6, 1.3, 1.5))
        shape = box(size, (0, 0, 0.5 * size[2]))
    return Mesh.of(shape, Kind.OTHER_OBJECT, Material.PLASTIC)


def bench(rng: np.random.Generator) -> Mesh:
    """A bench along y."""
    width = rng.uniform(1.4, 2.0)
    parts = [box((0.45, width, 0.06), (0, 0, 0.45)), box((0.06, width, 0.4), (-0.22, 0, 0.7))]
    parts += [box((0.4, 0.08, 0.44), (0, side * 0.4 * width, 0.22)) for side in (-1, 1)]
    return Mesh.of(np.concatenate(parts), Kind.OTHER_OBJECT, Material.BARK)


def shelter(rng: np.random.Generator) -> Mesh:
    """A bus shelter along y that opens towards +x."""
    width = rng.uniform(3.0, 4.5)
    frame = [box((0.08, 0.08, 2.4), (x, y, 1.2)) for x in (-0.7, 0.7) for y in (-0.5 * width, 0.5 * width)]
    frame.append(box((1.7, width + 0.2, 0.12), (0, 0, 2.45)))
    frame.append(box((0.45, width - 0.5, 0.06), (-0.4, 0, 0.5)))
    pane = quads(
        np.array(
            [[-0.7, -0.5 * width, 0.3], [-0.7, 0.5 * width, 0.3], [-0.7, 0.5 * width, 2.2], [-0.7, -0.5 * width, 2.2]]
        )
    )
    return Mesh.join(
        [
            Mesh.of(np.concatenate(frame), Kind.OTHER_STRUCTURE, Material.STEEL),
            Mesh.of(pane, Kind.OTHER_STRUCTURE, Material.GLASS),
        ]
    )
