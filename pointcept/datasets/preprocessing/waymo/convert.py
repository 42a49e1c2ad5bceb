"""One Waymo segment (a tfrecord file) to one folder of frames.

A frame is written to a hidden folder beside its place and renamed into it, so a folder named by a timestamp is always
whole. When every record of a segment has been seen without a fault, ``.complete`` notes its frames and the size of
its file, and the next run passes the segment without reading it.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.datasets.preprocessing.waymo.protos import parse_frame
from pointcept.datasets.preprocessing.waymo.range_image import FramePoints, frame_to_points, has_labels, matrix4
from pointcept.datasets.preprocessing.waymo.tfrecord import iter_records
from pointcept.utils.errors import DataError

SPLITS = ("training", "validation", "testing")
MARKER = ".complete"
PARTIAL = ".partial-"


@dataclass
class SegmentReport:
    """What became of one tfrecord file: frames written, frames found from before, frames passed over, faults."""

    source: str
    written: int = 0
    existing: int = 0
    unused: int = 0
    errors: list[str] = field(default_factory=list)


def segment_context(folder: str) -> str:
    """Return the context name of a segment from the name of its file or folder (without suffix)."""
    return folder.removeprefix("segment-").removesuffix("_with_camera_labels")


def convert_segment(source: Path, output_root: Path, split: str, test_stamps: frozenset[int] | None) -> SegmentReport:
    """Convert one tfrecord file into ``output_root/split/<file name without suffix>/<timestamp>/*.npy``.

    Args:
        source: the tfrecord file.
        output_root: where the splits are written.
        split: one of ``SPLITS``.
        test_stamps: timestamps in microseconds of the wanted frames for ``testing``; None takes the labelled frames.

    Returns:
        A report; damaged records stand in its ``errors`` with file and byte offset and do not stop the rest.

    Raises:
        OSError: if the output cannot be written (a full disk, missing rights).
    """
    report = SegmentReport(str(source))
    folder = output_root / split / source.stem
    done = _completed_frames(folder, source)
    if done is not None and (test_stamps is None or test_stamps <= done):
        report.existing = len(done)
        return report
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(PARTIAL + "*"):
        shutil.rmtree(leftover)
    frames: set[int] = set()
    for offset, payload in iter_records(source, lambda error: report.errors.append(str(error))):
        try:
            stamp = _convert_record(payload, folder, split, test_stamps, report)
        except DataError as error:
            report.errors.append(f"{source}: record at byte {offset}: {error}")
            continue
        if stamp is not None:
            frames.add(stamp)
    absent = sorted((test_stamps or frozenset()) - frames)
    if absent:
        report.errors.append(f"{source}: the test frame list names frames that were not found: {absent}")
    if not report.errors:
        _mark_complete(folder, source, frames)
    return report


def _convert_record(
    payload: bytes, folder: Path, split: str, test_stamps: frozenset[int] | None, report: SegmentReport
) -> int | None:
    """Convert one record unless its frame is there already; returns its timestamp, or None for an unwanted frame."""
    frame = parse_frame(payload)
    stamp = int(frame.timestamp_micros)
    if frame.context.name != segment_context(folder.name):
        # The context is needed again for submissions and is taken from the name of the folder then.
        raise DataError(
            f"belongs to the context {frame.context.name!r}; the official file of that context is named "
            f"'segment-{frame.context.name}_with_camera_labels.tfrecord'"
        )
    wanted = has_labels(frame) if test_stamps is None else stamp in test_stamps
    if not wanted:
        report.unused += 1
        return None
    if (folder / str(stamp)).is_dir():
        report.existing += 1
    else:
        write_frame(folder, stamp, frame_arrays(frame_to_points(frame), frame, split))
        report.written += 1
    return stamp


def frame_arrays(points: FramePoints, frame: Any, split: str) -> dict[str, np.ndarray]:
    """Return the arrays of a frame by file name.

    ``coord`` (N, 3) float32 m in the vehicle frame; ``strength`` (N, 1) float32, tanh of the intensity; ``pose``
    (4, 4) float32, world from vehicle; ``segment`` (N,) int32, official class - 1, -1 where undefined or unlabelled
    (not for testing); ``mask`` one record with a (H, W) bool field per laser and return (not for training), see
    ``FramePoints.masks``.
    """
    arrays = {
        "coord": points.coord,
        "strength": np.tanh(points.polar[:, 1:2]),
        "pose": matrix4(frame.pose.transform, "the pose of the frame").astype(np.float32),
    }
    if points.semantic is not None and split != "testing":
        arrays["segment"] = points.semantic.astype(np.int32) - 1
    if split != "training":
        dtype = np.dtype([(name, np.bool_, mask.shape) for name, mask in points.masks.items()])
        record = np.zeros((), dtype=dtype)
        for name, mask in points.masks.items():
            record[name] = mask
        arrays["mask"] = record
    return arrays


def write_frame(folder: Path, stamp: int, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays of one frame to ``folder/<stamp>``, all or nothing; raises ``OSError`` if that fails."""
    partial = folder / f"{PARTIAL}{stamp}"
    try:
        partial.mkdir()
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        partial.rename(folder / str(stamp))
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _completed_frames(folder: Path, source: Path) -> frozenset[int] | None:
    """Return the timestamps that the marker notes, if it fits the source file and all of them are still there."""
    try:
        note = json.loads((folder / MARKER).read_text())
        frames, size = frozenset(int(stamp) for stamp in note["frames"]), int(note["source_bytes"])
        fits = source.stat().st_size == size
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        logging.getLogger(__name__).warning("%s is damaged; the segment is read again", folder / MARKER)
        return None
    return frames if fits and all((folder / str(stamp)).is_dir() for stamp in frames) else None


def _mark_complete(folder: Path, source: Path, frames: set[int]) -> None:
    """Note that all frames of ``source`` are written."""
    partial = folder / f"{MARKER}.partial"
    partial.write_text(json.dumps({"source_bytes": source.stat().st_size, "frames": sorted(frames)}))
    partial.replace(folder / MARKER)
