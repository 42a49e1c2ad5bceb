"""Cars, trucks, buses, trailers, construction vehicles, and two-wheelers with and without riders."""

from __future__ import annotations

import numpy as np

from .people import person
from .shapes import Mesh, box, fan, quads, strips, tube
from .surfaces import Kind, Material

# Body stations of four car shapes: (x in lengths from the rear, belt height, roof height) in units of the
# car's height; where roof equals belt there is no cabin. Heights of hoods and boots follow from these.
_CAR_PROFILES = {
    "sedan": [(0, 0.56, 0.56), (0.04, 0.62, 0.62), (0.14, 0.64, 0.66), (0.30, 0.64, 0.98), (0.50, 0.63, 1.0),
              (0.58, 0.62, 0.95), (0.72, 0.60, 0.62), (0.96, 0.50, 0.50), (1.0, 0.40, 0.40)],
    "hatchback": [(0, 0.52, 0.52), (0.02, 0.62, 0.66), (0.12, 0.63, 0.96), (0.30, 0.63, 1.0), (0.52, 0.62, 0.98),
                  (0.60, 0.61, 0.92), (0.75, 0.58, 0.60), (0.96, 0.48, 0.48), (1.0, 0.38, 0.38)],
    "estate": [(0, 0.52, 0.52), (0.02, 0.60, 0.64), (0.08, 0.62, 0.96), (0.28, 0.62, 1.0), (0.54, 0.61, 0.98),
               (0.60, 0.60, 0.93), (0.73, 0.58, 0.60), (0.96, 0.48, 0.48), (1.0, 0.38, 0.38)],
    "van": [(0, 0.50, 0.50), (0.01, 0.55, 0.96), (0.10, 0.56, 1.0), (0.40, 0.56, 1.0), (0.70, 0.55, 0.98),
            (0.78, 0.54, 0.90), (0.90, 0.52, 0.54), (0.97, 0.42, 0.42), (1.0, 0.34, 0.34)],
}  # fmt: skip
_CAR_SIZES = {  # length, width, height [m], each the middle of its range
    "sedan": (4.6, 1.80, 1.45),
    "hatchback": (4.0, 1.72, 1.50),
    "estate": (4.6, 1.80, 1.52),
    "van": (4.9, 1.92, 1.95),
}


def wheel(radius: float, width: float, x: float, y: float, kind: Kind) -> Mesh:
    """A wheel with its axle along y, touching the ground at (x, y) [m]."""
    center = np.array([x, y, radius])
    half = np.array([0, 0.5 * width, 0])
    path = np.stack([center - half, center + half])
    rubber = tube(path, (radius, radius), 9)
    outside = np.array([0, np.copysign(0.5 * width + 0.01, y), 0])
    cap = tube(np.stack([center, center + outside]), (0.6 * radius, 0.6 * radius), 7)
    return Mesh.join([Mesh.of(rubber, kind, Material.RUBBER), Mesh.of(cap, kind, Material.STEEL)])


def _wheels(length: float, width: float, radius: float, kind: Kind, places: tuple[float, ...]) -> list[Mesh]:
    y = 0.5 * width - 0.1
    return [wheel(radius, 0.2, length * p, side * y, kind) for p in places for side in (-1, 1)]


def car(rng: np.random.Generator, kind: Kind = Kind.CAR) -> Mesh:
    """A passenger car or van of random shape and size: body, windows and wheels."""
    shape = str(rng.choice(list(_CAR_PROFILES), p=(0.3, 0.33, 0.25, 0.12)))
    length, width, height = np.array(_CAR_SIZES[shape]) * rng.uniform(0.94, 1.06, 3)
    x, belt, roof = (np.array(v) for v in zip(*_CAR_PROFILES[shape], strict=True))
    x, belt, roof = (x - 0.5) * length, belt * height, roof * height
    half = 0.5 * width * np.array([0.86, 0.95] + [1.0] * (len(x) - 4) + [0.94, 0.78])
    cabin = half - np.clip((roof - belt) * 0.35, 0, 0.2)
    low = np.full_like(x, 0.17 * height)
    low[[0, -1]] = 0.26 * height
    lower = np.stack(
        [
            np.stack([x, -half, low], 1),
            np.stack([x, -half, belt], 1),
            np.stack([x, half, belt], 1),
            np.stack([x, half, low], 1),
        ],
        1,
    )
    body = [
        strips(lower[:, :2], False),
        strips(lower[:, 2:], False),
        fan(lower[0]),
        fan(lower[-1]),
        strips(lower[:, [3, 0]], False),
    ]
    top = np.stack([np.stack([x, -cabin, roof], 1), np.stack([x, cabin, roof], 1)], 1)
    has_cabin = (roof[:-1] - belt[:-1] > 0.15 * height) & (roof[1:] - belt[1:] > 0.15 * height)
    glass: list[np.ndarray] = []
    for i in range(len(x) - 1):
        slope = abs(roof[i + 1] - roof[i]) > 0.2 * (x[i + 1] - x[i])
        lid = quads(np.array([top[i, 0], top[i, 1], top[i + 1, 1], top[i + 1, 0]]))
        (glass if slope and max(roof[i : i + 2] - belt[i : i + 2]) > 0.1 * height else body).append(lid)
        for side, edge in ((0, 1), (1, 2)):
            pane = quads(np.array([lower[i, edge], lower[i + 1, edge], top[i + 1, side], top[i, side]]))
            (glass if has_cabin[i] and not (shape == "van" and i < 3) else body).append(pane)
    paint = Mesh.of(np.concatenate(body), kind, Material.CAR_PAINT)
    parts = [paint, *_wheels(length, width, 0.21 * height, kind, (-0.31, 0.30))]
    plates = [box((0.03, 0.5, 0.12), (end * (0.5 * length + 0.01), 0, 0.33 * height)) for end in (-1, 1)]
    lamps = [
        box((0.04, 0.28, 0.14), (end * 0.47 * length, side * 0.36 * width, 0.45 * height))
        for end in (-1, 1)
        for side in (-1, 1)
    ]
    parts.append(Mesh.of(np.concatenate(plates + lamps), kind, Material.REFLECTOR))
    if glass:
        parts.append(Mesh.of(np.concatenate(glass), kind, Material.GLASS))
    return Mesh.join(parts)


def truck(rng: np.random.Generator, kind: Kind = Kind.TRUCK) -> Mesh:
    """A delivery truck: a cab, and a box or a flat bed."""
    length, width, height = rng.uniform(6.0, 9.5), rng.uniform(2.2, 2.5), rng.uniform(2.7, 3.6)
    cab = rng.uniform(1.6, 2.1)
    front = 0.5 * length
    cab_height = min(height, rng.uniform(2.4, 2.9))
    body = [box((cab, width * 0.94, cab_height - 0.5), (front - 0.5 * cab, 0, 0.5 * cab_height + 0.25))]
    bed = length - cab - 0.2
    if rng.uniform() < 0.7:
        body.append(box((bed, width, height - 0.9), (-0.5 * length + 0.5 * bed, 0, 0.45 + 0.5 * height)))
    else:
        body.append(box((bed, width, 0.5), (-0.5 * length + 0.5 * bed, 0, 1.15)))
    chassis = box((length - 0.4, 0.9, 0.3), (0, 0, 0.75))
    x = front + 0.015
    z0, z1 = 0.55 * cab_height, 0.92 * cab_height
    y = 0.42 * width
    pane = quads(np.array([[x, -y, z0], [x, y, z0], [x, y, z1], [x, -y, z1]]))
    plates = box((0.03, 1.6, 0.15), (-0.5 * length - 0.02, 0, 0.95))
    return Mesh.join(
        [
            Mesh.of(np.concatenate(body), kind, Material.PLASTIC),
            Mesh.of(chassis, kind, Material.STEEL),
            Mesh.of(pane, kind, Material.GLASS),
            Mesh.of(plates, kind, Material.REFLECTOR),
            *_wheels(length, width, 0.48, kind, (-0.36, -0.22, 0.33)),
        ]
    )


def bus(rng: np.random.Generator, kind: Kind = Kind.BUS) -> Mesh:
    """A city bus: a long box with window bands."""
    length, width, height = rng.uniform(10.5, 12.5), 2.5, rng.uniform(2.9, 3.2)
    body = box((length, width, height - 0.35), (0, 0, 0.5 * height + 0.17))
    panes = []
    for side in (-1, 1):
        y = side * (0.5 * width + 0.012)
        for x in np.arange(-0.5 * length + 0.5, 0.5 * length - 1.4, 1.55):
            panes.append(quads(np.array([[x, y, 1.35], [x + 1.3, y, 1.35], [x + 1.3, y, 2.35], [x, y, 2.35]])))
        x = side * (0.5 * length + 0.012)
        panes.append(quads(np.array([[x, -1.1, 1.2], [x, 1.1, 1.2], [x, 1.1, 2.5], [x, -1.1, 2.5]])))
    return Mesh.join(
        [
            Mesh.of(body, kind, Material.PLASTIC),
            Mesh.of(np.concatenate(panes), kind, Material.GLASS),
            *_wheels(length, width, 0.48, kind, (-0.27, 0.31)),
        ]
    )


def trailer(rng: np.random.Generator) -> Mesh:
    """A one-axle trailer with a draw bar in front."""
    length, width, height = rng.uniform(2.2, 4.5), rng.uniform(1.5, 2.1), rng.uniform(0.5, 1.9)
    body = box((length, width, height), (0, 0, 0.55 + 0.5 * height))
    bar = tube(np.array([[0.5 * length, 0, 0.5], [0.5 * length + 1.2, 0, 0.45]]), (0.05, 0.05), 4)
    return Mesh.join(
        [
            Mesh.of(body, Kind.TRAILER, Material.PLASTIC),
            Mesh.of(bar, Kind.TRAILER, Material.STEEL),
            *_wheels(length, width, 0.3, Kind.TRAILER, (-0.05,)),
        ]
    )


def excavator(rng: np.random.Generator) -> Mesh:
    """A construction vehicle: tracks, a turned upper body and an arm with a bucket."""
    tracks = [box((3.2, 0.5, 0.8), (0, side * 1.0, 0.4)) for side in (-1, 1)]
    upper = [box((2.4, 2.2, 0.9), (-0.4, 0, 1.4)), box((1.1, 0.9, 1.3), (0.4, 0.6, 2.4))]
    elbow, hand = np.array([2.6, -0.4, rng.uniform(2.8, 3.6)]), np.array([4.2, -0.4, rng.uniform(0.4, 1.5)])
    arm = [tube(np.stack([[0.6, -0.4, 1.6], elbow]), (0.25, 0.18), 4), tube(np.stack([elbow, hand]), (0.18, 0.14), 4)]
    bucket = box((0.7, 0.9, 0.6), hand)
    steel = Mesh.of(np.concatenate([*upper, *arm, bucket]), Kind.CONSTRUCTION_VEHICLE, Material.PLASTIC)
    rubber = Mesh.of(np.concatenate(tracks), Kind.CONSTRUCTION_VEHICLE, Material.STEEL)
    return Mesh.join([steel.placed((0, 0, 0), float(rng.uniform(-0.5, 0.5))), rubber])


def _ring(radius: float, width: float, x: float, corners: int = 12) -> np.ndarray:
    """A thin upright wheel ring about (x, 0, radius): triangles (T,3,3)."""
    angle = np.linspace(0, 2 * np.pi, corners + 1)
    circle = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], 1)
    center = np.array([x, 0, radius])
    flat = strips(np.stack([center + (radius - width) * circle, center + radius * circle]), False)
    rim = strips(np.stack([center + radius * circle - [0, 0.02, 0], center + radius * circle + [0, 0.02, 0]]), False)
    return np.concatenate([flat, rim])


def bicycle(rng: np.random.Generator, rider: bool = False) -> Mesh:
    """A bicycle; with ``rider`` bicycle and person are both of the kind BICYCLIST."""
    size = rng.uniform(0.93, 1.05)
    bar = [
        ([-0.5, 0, 0.34], [-0.12, 0, 0.9]), ([-0.5, 0, 0.34], [-0.05, 0, 0.3]), ([-0.05, 0, 0.3], [0.4, 0, 0.8]),
        ([-0.15, 0, 0.75], [0.4, 0, 0.8]), ([0.4, 0, 0.8], [0.55, 0, 0.34]), ([0.4, 0, 0.8], [0.38, 0, 1.02]),
        ([0.38, -0.28, 1.03], [0.38, 0.28, 1.03]), ([-0.05, 0, 0.3], [-0.18, 0, 0.92]),
    ]  # fmt: skip
    frame = [tube(np.array(b), (0.022, 0.022), 4) for b in bar]
    saddle = box((0.26, 0.15, 0.06), (-0.18, 0, 0.95))
    steel = Mesh.of(np.concatenate([*frame, saddle]), Kind.BICYCLE, Material.STEEL)
    rubber = Mesh.of(np.concatenate([_ring(0.34, 0.05, -0.5), _ring(0.34, 0.05, 0.55)]), Kind.BICYCLE, Material.RUBBER)
    mesh = Mesh.join([steel, rubber])
    if rider:
        mesh = Mesh.join([mesh, person(rng, "riding").placed((-0.16, 0, 0.08))]).with_kind(Kind.BICYCLIST)
    return mesh.placed((0, 0, 0), 0.0, float(size))


def motorcycle(rng: np.random.Generator, rider: bool = False) -> Mesh:
    """A motorcycle or scooter; with ``rider`` both are of the kind MOTORCYCLIST."""
    solid = [
        box((0.75, 0.32, 0.4), (0.0, 0, 0.5)),
        box((0.5, 0.3, 0.25), (0.18, 0, 0.85)),
        box((0.75, 0.28, 0.12), (-0.4, 0, 0.8)),
        box((0.2, 0.35, 0.35), (0.62, 0, 0.92)),
    ]
    bars = [
        ([0.5, -0.36, 1.05], [0.5, 0.36, 1.05]),
        ([0.5, 0, 1.0], [0.75, 0, 0.3]),
        ([-0.2, 0, 0.45], [-0.65, 0, 0.3]),
    ]
    steel = np.concatenate([*solid, *[tube(np.array(b), (0.04, 0.04), 4) for b in bars]])
    parts = [
        Mesh.of(steel, Kind.MOTORCYCLE, Material.CAR_PAINT),
        wheel(0.31, 0.14, -0.65, 0.0, Kind.MOTORCYCLE),
        wheel(0.31, 0.12, 0.75, 0.0, Kind.MOTORCYCLE),
    ]
    mesh = Mesh.join(parts)
    if rider:
        mesh = Mesh.join([mesh, person(rng, "riding").placed((-0.3, 0, -0.06))]).with_kind(Kind.MOTORCYCLIST)
    return mesh
