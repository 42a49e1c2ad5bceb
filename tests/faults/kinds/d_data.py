"""D: scans and labels that are missing, damaged, or odd, before the run and in the middle of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.case import Step, fault
from tests.faults.layouts import WRITERS, nuscenes_info, train_on, write_infos
from tests.faults.promises import equals_whole_numbers, refused, said, saved_at, succeeded
from tests.faults.stage import Stage, make_unreadable
from tests.faults.trigger import Moment
from tests.faults.world import EPOCH_STEPS, TRAIN_SCANS

Damage = Callable[[Path], Any]


def _points(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    points = np.fromfile(path, np.float32).reshape(-1, 4)
    changed = change(points)
    (points if changed is None else changed).astype(np.float32).tofile(path)


def _labels(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    labels = np.fromfile(path, np.uint32)
    changed = change(labels)
    (labels if changed is None else changed).astype(np.uint32).tofile(path)


def _set(column: int, value: float, row: int = 3) -> Damage:
    def damage(path: Path) -> None:
        _points(path, lambda points: points.__setitem__((row, column), value))

    return damage


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


SCAN: dict[str, tuple[Damage, str]] = {
    "is cut in the middle of a point": (lambda path: os.truncate(path, path.stat().st_size - 7), "multiple of 16"),
    "has a point less than labels": (lambda path: os.truncate(path, path.stat().st_size - 16), "labels"),
    "is empty": (lambda path: os.truncate(path, 0), "empty"),
    "is a text": (lambda path: path.write_text("no points, no points at all"), "000002.bin"),
    "is a folder": (_folder, "000002.bin"),
    "is a named pipe": (_pipe, "000002.bin"),
    "is a link to itself": (_loop, "000002.bin"),
    "must not be read": (make_unreadable, "permission"),
    "has NaN in x": (_set(0, np.nan), "nan"),
    "has an infinite z": (_set(2, np.inf), "infinite"),
    "has NaN as strength": (_set(3, np.nan), "nan"),
    "has an infinite strength": (_set(3, np.inf), "infinite"),
    "has strength 1e30": (_set(3, 1e30), "strength"),
    "has strength -1e30": (_set(3, -1e30), "strength"),
    "has strength 255": (_set(3, 255.0), "strength"),
    "has a point 1e30 m away": (_set(0, 1e30), "000002"),
    "has a point 1e6 m away": (_set(0, 1e6), "000002"),
    "has bytes in another order": (lambda path: _points(path, lambda points: points.byteswap()), "000002"),
}
LABELS: dict[str, tuple[Damage, str]] = {
    "are cut": (lambda path: os.truncate(path, path.stat().st_size - 3), "multiple of 4"),
    "are one too few": (lambda path: _labels(path, lambda labels: labels[:-1]), "labels"),
    "are one too many": (lambda path: _labels(path, lambda labels: np.append(labels, 40)), "labels"),
    "are empty": (lambda path: os.truncate(path, 0), "empty"),
    "are not there": (Path.unlink, "000002.label"),
    "are a folder": (_folder, "000002.label"),
    "must not be read": (make_unreadable, "permission"),
    "have an unknown class": (
        lambda path: _labels(path, lambda labels: labels.__setitem__(3, 77)),
        "unknown raw label 77",
    ),
    "are random bytes": (
        lambda path: path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size)),
        "unknown raw label",
    ),
}


def with_damaged(damage: Damage, sequence: str = "00", labels: bool = False, **conditions: Any) -> Step:
    """Train with one scan, or its labels, damaged."""

    def inject(stage: Stage) -> None:
        damage(stage.scan(2, sequence, labels))
        stage.train(*(f"{key}={value}" for key, value in conditions.items()))

    return inject


for _what, (_damage, _word) in SCAN.items():
    fault(
        "D",
        f"a training scan {_what}",
        with_damaged(_damage),
        refused("000002", _word),
        quick=_what == "has strength 1e30",
    )
for _what, (_damage, _word) in LABELS.items():
    fault("D", f"labels of a training scan {_what}", with_damaged(_damage, labels=True), refused("000002", _word))
for _what in ("is cut in the middle of a point", "has NaN in x", "has strength 1e30"):
    _damage, _word = SCAN[_what]
    fault(
        "D",
        f"with a loading process: a training scan {_what}",
        with_damaged(_damage, num_worker=1),
        refused("000002", _word),
    )


fault("D", "a training scan is not there", with_damaged(Path.unlink), succeeded, said("5 scans"))

# --- validation: the training that came before is kept ---


def mended_validation(damage: Damage, labels: bool = False) -> Step:
    """Train with a validation scan damaged, mend it, and go on."""

    def inject(stage: Stage) -> None:
        path = stage.scan(2, "08", labels)
        good = path.read_bytes()
        damage(path)
        stage.train()
        refused("000002")(stage)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(good)
        stage.resume()

    return inject


for _what in ("is cut in the middle of a point", "is empty", "has NaN in x", "has strength 1e30", "must not be read"):
    fault("D", f"a validation scan {_what}", mended_validation(SCAN[_what][0]), equals_whole_numbers)
for _what in ("are one too few", "have an unknown class", "are empty"):
    fault("D", f"labels of a validation scan {_what}", mended_validation(LABELS[_what][0], True), equals_whole_numbers)


def saved_before_evaluation(stage: Stage) -> None:
    SCAN["has NaN in x"][0](stage.scan(2, "08"))
    stage.train()


fault(
    "D",
    "a damaged validation scan costs no step",
    saved_before_evaluation,
    refused("08_000002", "nan"),
    saved_at(EPOCH_STEPS),
)


# --- in the middle of a run ---


def in_the_middle(damage: Damage, *words: str) -> Step:
    """A training scan is damaged in the second epoch; it is mended afterwards and the run goes on."""

    def inject(stage: Stage) -> None:
        path = stage.scan(2)
        good = path.read_bytes()
        stage.interrupted(Moment("step", EPOCH_STEPS), lambda running, pid: damage(path))
        refused("000002", *words)(stage)
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        stage.resume()

    return inject


SCAN["is not there"] = (Path.unlink, "000002")
for _what in ("is not there", "is cut in the middle of a point", "is empty", "has NaN in x", "must not be read"):
    fault("D", f"from the second epoch on a training scan {_what}", in_the_middle(SCAN[_what][0]), equals_whole_numbers)


# --- folders ---


def without(*parts: str) -> Step:
    def inject(stage: Stage) -> None:
        shutil.rmtree(stage.data.joinpath(*parts))
        stage.train()

    return inject


fault("D", "no data root", without(), refused("no folder", "data"))
fault("D", "no training sequence", without("dataset", "sequences", "00"), refused("00", "no folder|missing"))
fault("D", "no validation sequence", without("dataset", "sequences", "08"), refused("08", "no folder|missing"))
fault("D", "no scans in a sequence", without("dataset", "sequences", "00", "velodyne"), refused("00", "velodyne"))
fault("D", "no labels in a sequence", without("dataset", "sequences", "00", "labels"), refused("00", "label"))


def closed(*parts: str) -> Step:
    def inject(stage: Stage) -> None:
        make_unreadable(stage.data.joinpath(*parts))
        stage.train()

    return inject


for _parts in (
    (),
    ("dataset", "sequences"),
    ("dataset", "sequences", "00", "velodyne"),
    ("dataset", "sequences", "08"),
):
    fault(
        "D",
        f"the folder {'/'.join(('data', *_parts))} must not be read",
        closed(*_parts),
        refused("permission", "data"),
    )


def only_one(stage: Stage) -> None:
    """A training set of one scan."""
    for frame in range(1, TRAIN_SCANS):
        for labels in (False, True):
            stage.scan(frame, labels=labels).unlink()
    stage.train("batch_size=1")


def odd(change: Callable[[Stage], Any], *options: str) -> Step:
    return lambda stage: (change(stage), stage.train(*options))


def _all_ignored(stage: Stage) -> None:
    for frame in range(TRAIN_SCANS):
        _labels(stage.scan(frame, labels=True), lambda labels: labels * 0)


def _one_point(stage: Stage) -> None:
    _points(stage.scan(2), lambda points: points[:1])
    _labels(stage.scan(2, labels=True), lambda labels: labels[:1])


def _one_place(stage: Stage) -> None:
    _points(stage.scan(2), lambda points: points * 0 + 0.1)


def _strangers(stage: Stage) -> None:
    """Files that editors and file managers leave."""
    folder = stage.scan(2).parent
    for name in (".DS_Store", "Thumbs.db", "000001.bin.swp", "notes.txt"):
        (folder / name).write_bytes(b"x")


fault("D", "a training set of one scan", only_one, succeeded)
fault("D", "no training point is labelled", odd(_all_ignored), succeeded)
fault("D", "a scan of one point", odd(_one_point), succeeded)
fault("D", "a scan with all points at one place", odd(_one_place), succeeded)
fault("D", "other programs' files beside the scans", odd(_strangers), equals_whole_numbers)


# --- the other layouts ---


def on_layout(layout: str, damage: Callable[[Path], Any]) -> Step:
    def inject(stage: Stage) -> None:
        root = stage.folder / "data"
        WRITERS[layout](root)
        damage(root)
        train_on(stage, layout)

    return inject


def _info(**changes: Any) -> Callable[[Path], Any]:
    def damage(root: Path) -> None:
        infos = [nuscenes_info(f"train{number}") for number in range(3)]
        for key, value in changes.items():
            if value is None:
                del infos[1][key]
            else:
                infos[1][key] = value
        write_infos(root, infos)

    return damage


class Attack:
    """Unpickling it would make a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


_INFO = "info/nuscenes_infos_10sweeps_train.pkl"
NUSCENES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "an info file is cut": (lambda root: os.truncate(root / _INFO, 100), "train.pkl"),
    "an info file is empty": (lambda root: os.truncate(root / _INFO, 0), "train.pkl"),
    "an info file is a text": (lambda root: (root / _INFO).write_text("x"), "train.pkl"),
    "an info file is not there": (lambda root: (root / _INFO).unlink(), "no info file"),
    "an info file is a folder": (lambda root: _folder(root / _INFO), "train.pkl"),
    "an info file must not be read": (lambda root: make_unreadable(root / _INFO), "permission"),
    "an info file would run code": (lambda root: write_infos(root, [Attack()]), "train.pkl"),
    "an info file is a dict": (lambda root: write_infos(root, {"infos": []}), "no list"),
    "an info file has no entry": (lambda root: write_infos(root, []), "empty|no scan|0 scans"),
    "an entry has no token": (_info(lidar_token=None), "entry 1"),
    "an entry's token is a path": (_info(lidar_token="../x"), "token"),
    "an entry's token is a number": (_info(lidar_token=5), "token"),
    "an entry has no path": (_info(lidar_path=None), "entry 1"),
    "an entry's path is a number": (_info(lidar_path=5), "entry 1"),
    "an entry has no labels": (_info(gt_segment_path=None), "entry 1"),
    "an entry names a scan that is not there": (_info(lidar_path="samples/x.pcd.bin"), "x.pcd.bin"),
    "a scan is cut": (lambda root: os.truncate(root / "raw/samples/train1.pcd.bin", 33), "train1"),
    "labels are out of range": (
        lambda root: (root / "raw/lidarseg/train1_lidarseg.bin").write_bytes(bytes([200]) * 60),
        "unknown raw label 200",
    ),
}
for _what, (_damage, _word) in NUSCENES.items():
    fault("D", f"nuScenes: {_what}", on_layout("nuscenes", _damage), refused(_word))
fault("D", "nuScenes: nothing", on_layout("nuscenes", lambda root: None), succeeded)

_FRAME = "training/segment-1_with_camera_labels/1001"


def _save(name: str, array: np.ndarray, **options: Any) -> Callable[[Path], Any]:
    return lambda root: np.save(root / _FRAME / name, array, **options)


WAYMO: dict[str, tuple[Callable[[Path], Any], str]] = {
    "coordinates are cut": (lambda root: os.truncate(root / _FRAME / "coord.npy", 300), "1001"),
    "coordinates are empty": (lambda root: os.truncate(root / _FRAME / "coord.npy", 0), "1001"),
    "coordinates are not there": (lambda root: (root / _FRAME / "coord.npy").unlink(), "1001"),
    "coordinates are pickled objects": (_save("coord.npy", np.array([Attack()], object), allow_pickle=True), "1001"),
    "coordinates are in two columns": (_save("coord.npy", np.zeros((60, 2), np.float32)), "1001"),
    "coordinates are integers": (_save("coord.npy", np.zeros((60, 3), int)), "1001"),
    "coordinates are NaN": (_save("coord.npy", np.full((60, 3), np.nan, np.float32)), "1001"),
    "coordinates are complex": (_save("coord.npy", np.zeros((60, 3), complex)), "1001"),
    "no point is there": (_save("coord.npy", np.zeros((0, 3), np.float32)), "1001"),
    "strengths are one too few": (_save("strength.npy", np.zeros((59, 1), np.float32)), "1001"),
    "strengths are 1e30": (_save("strength.npy", np.full((60, 1), 1e30, np.float32)), "strength"),
    "labels are one too few": (_save("segment.npy", np.zeros(59, int)), "1001"),
    "labels are numbers with a point": (_save("segment.npy", np.zeros(60)), "1001"),
    "labels are out of range": (_save("segment.npy", np.full(60, 22)), "1001"),
    "labels are not there": (lambda root: (root / _FRAME / "segment.npy").unlink(), "1001"),
    "a split is not there": (lambda root: shutil.rmtree(root / "validation"), "validation"),
}
for _what, (_damage, _word) in WAYMO.items():
    fault("D", f"Waymo: {_what}", on_layout("waymo", _damage), refused(_word))
fault("D", "Waymo: nothing", on_layout("waymo", lambda root: None), succeeded)


def half_converted(root: Path) -> None:
    """A second segment whose conversion was killed."""
    frame = root / "training" / "segment-2_with_camera_labels" / ".partial-1000"
    frame.mkdir(parents=True)
    (frame / "coord.npy").write_bytes(b"x")


fault("D", "Waymo: a segment is converted in part", on_layout("waymo", half_converted), succeeded, said("in part"))
