"""Rotating laser scanners: where their beams point, how far and how exactly they measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Sensor:
    """A rotating multi-beam scanner.

    Attributes:
        name: name of the sensor.
        elevations: (B,) elevation of each beam [rad], in the order of the rings.
        columns: firings per revolution.
        mount: position in the vehicle frame (x forward, y left, z up, origin on the ground) [m].
        yaw: turn of the sensor's x axis from the vehicle's [rad].
        period: duration of a revolution [s].
        max_range, min_range: [m].
        range_noise: standard deviation of a range [m].
        range_offsets: (B,) systematic error of the ranges of each beam [m].
        lost: share of pulses lost at random.
        weak: range [m] at which the received power begins to fade.
        fade: range [m] over which it fades; see :meth:`power` and :meth:`blind`.
        returns: how many returns per pulse are kept, 1 or 2.
        azimuth_offsets: (B,) horizontal offset of each beam [rad].
        field_of_view: width of the sector that is scanned [rad], about the sensor's x axis.
        body: table of (azimuth [deg], lowest visible elevation [deg]): the vehicle hides what is below.
        gains: (B,) factor on the intensity of each beam.
        sweeping: whether the vehicle moves on during a revolution; if not, all beams fire at once.
        own_roof: size and centre of the vehicle's roof in the sensor frame [m], if the sensor sees it.
    """

    name: str
    elevations: np.ndarray
    columns: int
    mount: tuple[float, float, float]
    yaw: float = 0.0
    period: float = 0.1
    max_range: float = 80.0
    min_range: float = 1.0
    range_noise: float = 0.015
    range_offsets: np.ndarray = field(default_factory=lambda: np.zeros(1))
    lost: float = 0.01
    weak: float = 18.0
    fade: float = 45.0
    returns: int = 1
    azimuth_offsets: np.ndarray = field(default_factory=lambda: np.zeros(1))
    field_of_view: float = 2 * np.pi
    body: tuple[tuple[float, float], ...] = ()
    gains: np.ndarray = field(default_factory=lambda: np.ones(1))
    sweeping: bool = True
    own_roof: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None

    @cached_property
    def azimuths(self) -> np.ndarray:
        """(C,) azimuths of the firings within the field of view [rad], clockwise from behind (+pi)."""
        step = 2 * np.pi / self.columns
        azimuth = np.pi - (np.arange(self.columns) + 0.5) * step
        return azimuth[np.abs(azimuth) <= 0.5 * self.field_of_view + 1e-9]

    @cached_property
    def directions(self) -> np.ndarray:
        """(B*C,3) float32 unit directions in the sensor frame, beam by beam."""
        azimuth = self.azimuths[None] + np.broadcast_to(self.azimuth_offsets, len(self.elevations))[:, None]
        cos = np.cos(self.elevations)[:, None]
        z = np.broadcast_to(np.sin(self.elevations)[:, None], azimuth.shape)
        return np.stack([cos * np.cos(azimuth), cos * np.sin(azimuth), z], -1).reshape(-1, 3).astype(np.float32)

    @cached_property
    def ring(self) -> np.ndarray:
        """(B*C,) uint8 beam of each direction."""
        return np.repeat(np.arange(len(self.elevations), dtype=np.uint8), len(self.azimuths))

    @cached_property
    def firing_time(self) -> np.ndarray:
        """(B*C,) float32 time of each firing from the middle of the revolution [s]."""
        turned = (np.pi - self.azimuths) / (2 * np.pi) - 0.5
        return np.tile((turned * self.period).astype(np.float32), len(self.elevations))

    @cached_property
    def clear(self) -> np.ndarray:
        """(B*C,) bool: the direction is not hidden by the vehicle's own body."""
        if not self.body:
            return np.ones(len(self.directions), bool)
        d = self.directions
        azimuth = np.degrees(np.arctan2(d[:, 1], d[:, 0]))
        at, lowest = np.array(self.body).T
        return np.degrees(np.arcsin(d[:, 2])) > np.interp(azimuth, at, lowest, period=360.0)

    @cached_property
    def image_column(self) -> np.ndarray:
        """(C,) column of each firing in an image that runs from behind (+pi) clockwise in the *vehicle* frame."""
        turned = (np.pi - self.azimuths - self.yaw) / (2 * np.pi) * self.columns - 0.5
        return np.round(turned).astype(np.int64) % self.columns

    def pose(self) -> np.ndarray:
        """(4,4) pose of the sensor in the vehicle frame."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        pose = np.eye(4)
        pose[:2, :2] = [[c, -s], [s, c]]
        pose[:3, 3] = self.mount
        return pose

    def power(self, distance: np.ndarray) -> np.ndarray:
        """Share (N,) of the calibrated intensity that is left at ``distance`` (N,) [m]."""
        return 1 - np.float32(0.5) * np.clip((distance - np.float32(self.weak)) / np.float32(self.fade), 0, 1)

    def blind(self, distance: np.ndarray) -> np.ndarray:
        """Share (N,) of the returns from ``distance`` (N,) [m] that are too weak for an intensity and read 0."""
        over = np.clip((distance - np.float32(self.weak)) / np.float32(self.fade), 0, 1)
        return over * np.sqrt(over)


def hdl64e() -> Sensor:
    """Velodyne HDL-64E on the KITTI car: two blocks of 32 beams, 1.73 m above the road."""
    upper = np.linspace(2.55, -8.1, 32)
    lower = np.linspace(-8.65, -24.3, 32)
    rng = np.random.default_rng(64)
    jitter = rng.normal(0, 0.04, 64)
    body = (  # what roof, bonnet, racks and aerials hide on the real scans
        (-180, -19.5), (-167, -19.5), (-164, -14.0), (-158, -14.0), (-155, -21.0), (-146, -25.0), (-134, -23.9),
        (-131, -20.8), (-124, -20.8), (-120, -24.2), (-86, -24.4), (-82, -22.5), (-78, -17.5), (-75, -16.3),
        (-63, -16.3), (-58, -20.5), (-55, -24.2), (-42, -24.2), (-38, -22.3), (-28, -22.5), (-24, -24.4), (-19, -22.2),
        (-12, -20.6), (0, -20.4), (11, -20.8), (18, -23.3), (23, -25.0), (28, -23.2), (36, -23.9), (40, -25.0),
        (110, -24.6), (126, -23.7), (130, -20.3), (134, -20.0), (138, -21.5), (150, -22.3), (156, -20.0),
        (160, -14.0), (164, -14.0), (166, -17.6), (180, -18.0),
    )  # fmt: skip
    return Sensor(
        "HDL-64E", np.radians(np.concatenate([upper, lower]) + jitter), 2090, (0.0, 0.0, 1.73),
        max_range=80.0, min_range=1.2, range_noise=0.02, range_offsets=rng.normal(0, 0.02, 64), lost=0.005,
        azimuth_offsets=rng.uniform(-0.5, 0.5, 64) * np.radians(0.172), body=body, gains=rng.normal(1.0, 0.05, 64),
    )  # fmt: skip


def hdl32e() -> Sensor:
    """Velodyne HDL-32E on the roof of the nuScenes car: 32 beams, +10.67 to -30.67 degrees, 20 Hz."""
    rng = np.random.default_rng(32)
    return Sensor(
        "LIDAR_TOP", np.radians(np.linspace(-30.67, 10.67, 32)), 1084, (0.94, 0.0, 1.84), yaw=-np.pi / 2, period=0.05,
        max_range=100.0, min_range=0.0, range_noise=0.02, lost=0.01, weak=60.0, fade=80.0,
        gains=rng.normal(1.0, 0.05, 32), own_roof=((1.0, 1.55, 0.06), (0.0, -0.2, -0.38)),
    )  # fmt: skip


def waymo_lasers(scale: float = 1.0) -> tuple[Sensor, ...]:
    """The five Waymo lasers in the order of their names: TOP, FRONT, SIDE_LEFT, SIDE_RIGHT, REAR; two returns.

    Args:
        scale: factor on the number of columns (1: 2650 of TOP and 600 of the short-range lasers).
    """
    upper = np.linspace(2.4, -3.0, 34)
    lower = -3.0 - 14.6 * (np.arange(1, 31) / 30) ** 1.25
    columns = int(2650 * scale)
    # The columns of a range image count from the heading of the vehicle: whole columns keep them aligned.
    yaw = round(0.0258 / (2 * np.pi / columns)) * 2 * np.pi / columns
    top = Sensor(
        "TOP", np.radians(np.concatenate([upper, lower])), columns, (1.43, 0.0, 2.184), yaw=yaw,
        max_range=75.0, min_range=1.0, range_noise=0.012, lost=0.01, weak=40.0, fade=70.0, returns=2,
    )  # fmt: skip
    places = {
        "FRONT": ((4.07, 0.0, 0.69), 0.0), "SIDE_LEFT": ((3.24, 1.03, 0.98), np.pi / 2),
        "SIDE_RIGHT": ((3.24, -1.03, 0.98), -np.pi / 2), "REAR": ((-1.15, 0.0, 0.46), np.pi),
    }  # fmt: skip
    # Most pixels of the short-range images are empty in the real data: hence the share of lost pulses.
    short = [
        Sensor(
            name, np.radians(np.linspace(30 - 0.3, -90 + 0.3, 200)), 4 * int(150 * scale), mount, yaw=yaw,
            max_range=20.0, min_range=0.3, range_noise=0.02, lost=0.6, weak=12.0, fade=30.0, returns=2,
            field_of_view=np.radians(100), sweeping=False,
        )
        for name, (mount, yaw) in places.items()
    ]  # fmt: skip
    return (top, *short)
