"""Waymo records of the simulator, read back by the preprocessing of real records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("embreex", reason="the simulator needs the extra 'simulator'")
pytest.importorskip("waymo_open_dataset.dataset_pb2", reason="needs the official message classes of Waymo")
pytest.importorskip("google_crc32c", reason="needs the extra 'waymo'")

from pointcept.datasets.preprocessing.waymo.protos import dataset_pb2, decode_matrix, parse_frame
from pointcept.datasets.preprocessing.waymo.range_image import frame_to_points
from pointcept.datasets.preprocessing.waymo.tfrecord import iter_records
from pointcept.datasets.simulator import Simulator, waymo_lasers
from pointcept.datasets.simulator.labels import waymo_ids
from pointcept.datasets.simulator.layouts.base import Job
from pointcept.datasets.simulator.layouts.waymo import STEP, TEST_LIST, WaymoLayout, encode_floats


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = Job(tmp_path_factory.mktemp("waymo"), "train", 0, frames=2, seed=3)
    WaymoLayout(scale=0.2).write_scene(job)
    return job


def test_points_and_labels_survive_the_range_image(job: Job) -> None:
    (file,) = job.out.glob("training/*.tfrecord")
    frames = [parse_frame(payload) for _, payload in iter_records(file)]
    assert len(frames) == 2
    assert frames[1].timestamp_micros - frames[0].timestamp_micros == 500_000
    assert file.name == f"segment-{frames[0].context.name}_with_camera_labels.tfrecord"
    lasers, simulator = waymo_lasers(0.2), Simulator(job.scene(2 * STEP))
    read = frame_to_points(frames[1])
    coord: list[list[np.ndarray]] = [[], []]
    classes: list[list[np.ndarray]] = [[], []]
    for number, laser in enumerate(lasers, start=1):
        scan = simulator.scan(laser, STEP, job.noise(1, number))
        vehicle = scan.xyz @ laser.pose()[:3, :3].T + laser.pose()[:3, 3]
        for order in (0, 1):
            rows = np.flatnonzero(scan.order == order)
            beam, firing = np.divmod(scan.ray[rows], len(laser.azimuths))
            rows = rows[np.argsort(beam * laser.columns + laser.image_column[firing])]
            coord[order].append(vehicle[rows])
            classes[order].append(waymo_ids()[scan.kind[rows]] * (number == 1))
    assert np.abs(read.coord - np.concatenate(coord[0] + coord[1])).max() < 1e-3
    assert read.semantic is not None
    assert np.array_equal(read.semantic, np.concatenate(classes[0] + classes[1]))
    assert all(read.masks[f"{laser.name}_1"].any() for laser in lasers)
    assert read.masks["TOP_2"].any()


def test_frames_of_the_test_split_are_listed_and_have_no_labels(tmp_path: Path) -> None:
    layout, job = WaymoLayout(scale=0.1), Job(tmp_path, "test", 0, frames=1, seed=3)
    part = layout.write_scene(job)
    layout.finish(tmp_path, [job], [part])
    (file,) = tmp_path.glob("testing/*.tfrecord")
    frame = parse_frame(next(iter_records(file))[1])
    assert frame_to_points(frame).semantic is None
    assert (tmp_path / TEST_LIST).read_text() == f"{frame.context.name},{frame.timestamp_micros}\n"


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 4), (64, 300, 6)])
def test_fast_encoding_is_the_official_message(shape: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.array_equal(decode_matrix(encode_floats(array), dataset_pb2().MatrixFloat(), "x"), array)
