"""C: disks that are full, read-only, or fail; afterwards the disk is mended and the run goes on."""

from __future__ import annotations

import errno
import resource
import signal
from typing import Any

from tests.faults import linux
from tests.faults.case import Step, fault
from tests.faults.process import Running
from tests.faults.promises import (
    LOST_LOSS,
    OK,
    USER,
    equals_whole_numbers,
    keep,
    kept,
    refused,
    succeeded,
)
from tests.faults.stage import Stage
from tests.faults.trigger import Moment
from tests.faults.world import EPOCH_STEPS

FULL = "space left|cannot write|disk"
MENDED = "size=64m,nr_inodes=10000"


def told(*words: str) -> Step:
    """The run ended well in spite of the fault, or with one line that says ``words``."""
    check = refused(*words, codes=(USER, LOST_LOSS))
    return lambda stage: None if stage.ending.code == OK else check(stage)


def mended(*words: str, recipe: str = "student", **mount: str) -> Step:
    """Train on a disk of such a size; if that ended with an error, which says ``words``, mend the disk and go on."""

    def inject(stage: Stage) -> None:
        stage.use(recipe)
        linux.mount_memory(stage.run, ",".join(f"{key}={value}" for key, value in mount.items()))
        stage.train()
        told(*words)(stage)
        linux.remount(stage.run, MENDED)
        if stage.ending.code != OK:
            stage.resume()

    return inject


for _size in (4, 8, 16, 24, 32, 64, 128, 256, 288, 320, 512, 544, 576, 768, 800, 832, 1024, 1280):
    fault(
        "C",
        f"a disk of {_size} KiB",
        mended(FULL, size=f"{_size}k"),
        equals_whole_numbers,
        mounts=True,
        quick=_size in (16, 512),
    )
for _files in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14):
    fault("C", f"a disk for {_files} files", mended(FULL, nr_inodes=str(_files)), equals_whole_numbers, mounts=True)
fault(
    "C",
    "a disk of 300 KiB, distillation",
    mended(FULL, recipe="distill", size="300k"),
    equals_whole_numbers,
    mounts=True,
)
fault(
    "C",
    "a disk of 600 KiB, a checkpoint every second step",
    mended(FULL, recipe="often", size="600k"),
    equals_whole_numbers,
    mounts=True,
)


def on_a_disk(change: Any, moment: Moment | None, *words: str) -> Step:
    """Train on a disk of its own to which something happens at a moment; then it is mended."""

    def act(running: Running, pid: int) -> None:
        change(running.folder.parent / "run")

    def inject(stage: Stage) -> None:
        linux.mount_memory(stage.run, MENDED)
        if moment is None:
            change(stage.run)
            stage.train()
        else:
            stage.interrupted(moment, act)
        told(*words)(stage)
        linux.remount(stage.run, MENDED)
        for path in (stage.run, *(path for path in stage.run.rglob("*") if path.is_dir())):
            path.chmod(0o700)
        if stage.ending.code != OK:
            stage.resume()

    return inject


def _read_only(folder: Any) -> None:
    linux.remount(folder, MENDED, read_only=True)


def _full(folder: Any) -> None:
    used = sum(path.stat().st_size // 4096 * 4096 + 4096 for path in folder.rglob("*") if path.is_file())
    linux.remount(folder, f"size={used + 4096}")


def _closed(folder: Any) -> None:
    """A file system with open files does not turn read-only, so rights are taken instead."""
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o500)


MOMENTS = {
    "in step 2": Moment("step", 2),
    f"in step {EPOCH_STEPS + 2}": Moment("step", EPOCH_STEPS + 2),
    "before the first checkpoint": Moment("write", 1, ".pth"),
    "before the second checkpoint": Moment("write", 2, ".pth"),
    "in the first evaluation": Moment("read", 1, "/08/velodyne/000001"),
    "in the precise test": Moment("read", 4, "/08/velodyne/000001"),
}
fault(
    "C",
    "the disk is read-only from the beginning",
    on_a_disk(_read_only, None, "read-only|cannot write"),
    equals_whole_numbers,
    mounts=True,
    quick=True,
)
for _when, _moment in MOMENTS.items():
    fault("C", f"the disk is full {_when}", on_a_disk(_full, _moment, FULL), equals_whole_numbers, mounts=True)
    fault(
        "C",
        f"rights to the folders are gone {_when}",
        on_a_disk(_closed, _moment, "permission|cannot write"),
        equals_whole_numbers,
        mounts=True,
    )


# --- calls of the system that fail from the n-th on; then they work again ---


def failing(event: str, nth: int, number: int, match: str) -> Step:
    def inject(stage: Stage) -> None:
        stage.train(moment=Moment(event, nth, match, error=number))
        told(f"{match.strip('/.')}|cannot write|checkpoint")(stage)
        if stage.ending.code != OK:
            stage.resume()

    return inject


for _name in ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES"):
    for _event, _match, _nths in (
        ("write", ".pth", (1, 3)),
        ("rename", ".pth", (1, 2)),
        ("write", "/run/train.log", (1,)),
        ("write", "/run/config.py", (1,)),
        ("write", "tfevents", (1,)),
        ("write", "miou_precise", (1,)),
    ):
        if _name in ("EIO", "ENOSPC") or _match == ".pth":
            for _nth in _nths:
                fault(
                    "C",
                    f"{_name} at {_event} number {_nth} of {_match}",
                    failing(_event, _nth, getattr(errno, _name), _match),
                    equals_whole_numbers,
                )


# --- limits for the size of a file ---


def limited(size: int, killed: bool) -> Step:
    def inject(stage: Stage) -> None:
        signals = (signal.SIGXFSZ,) if killed else ()
        running = stage.start("train", *stage.command(), limits={resource.RLIMIT_FSIZE: size}, default_signals=signals)
        if killed:
            running.sent.append(signal.SIGXFSZ)
        stage.end(running)
        if not killed:
            told("file too large|cannot write")(stage)
        if stage.ending.code != OK:
            stage.resume()

    return inject


for _size in (100, 5000, 50_000, 200_000, 250_000):
    fault("C", f"no file may exceed {_size} bytes", limited(_size, killed=False), equals_whole_numbers)
    fault("C", f"killed by the byte {_size} of a file", limited(_size, killed=True), equals_whole_numbers)


# --- other places ---


def teacher_cache_full(stage: Stage) -> None:
    stage.use("cached")
    linux.mount_memory(stage.folder / "cache", "size=12k")
    stage.train()
    told(FULL)(stage)
    linux.remount(stage.folder / "cache", MENDED)
    if stage.ending.code != OK:
        stage.resume()


def cuts_of_a_finished_run(stage: Stage) -> None:
    """A new run on a full disk leaves the one that lies there as it is."""
    linux.mount_memory(stage.run, MENDED)
    for name, content in _whole(stage).items():
        path = stage.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    keep(stage)
    _full(stage.run)
    stage.train()


def _whole(stage: Stage) -> dict[str, bytes]:
    from tests.faults.stage import files

    return files(stage.world.whole("student"))


def test_on_a_full_disk(stage: Stage) -> None:
    stage.weight()
    linux.mount_memory(stage.run, "size=24k")
    stage.test("test.save_predictions=True", "test.submit=True")
    told(FULL)(stage)
    linux.remount(stage.run, MENDED)
    if stage.ending.code != OK:
        stage.test("test.save_predictions=True", "test.submit=True")


def predict_on_a_full_disk(stage: Stage) -> None:
    linux.mount_memory(stage.folder / "out", "size=4k")
    stage.predict(stage.scan().parent, stage.folder / "out")


fault("C", "the disk of the teacher's cache is full", teacher_cache_full, equals_whole_numbers, mounts=True)
fault("C", "a new run over a finished one, on a full disk", cuts_of_a_finished_run, refused(), kept, mounts=True)
fault("C", "test on a full disk", test_on_a_full_disk, succeeded, mounts=True)
fault("C", "predict on a full disk", predict_on_a_full_disk, refused(FULL), mounts=True)
