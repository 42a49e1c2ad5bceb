"""H: tests and predictions that are stopped, refused, or meet older results."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults import records
from tests.faults.case import Broken, Step, fault
from tests.faults.promises import AGAIN, INTERRUPTED, OK, USER, ended, refused, said, succeeded
from tests.faults.stage import KILL, Act, Stage, edit, files, flip, make_unreadable, send, send_workers
from tests.faults.trigger import Moment
from tests.faults.world import VAL_SCANS

KEEP = ("test.save_predictions=True", "test.submit=True")
RESULT = "result/miou_precise.json"
PROGRESS = "result/progress_0.txt"
ASIDE = (".json", ".py", ".txt")
"""Endings of files that are no predictions."""


def whole_test(stage: Stage, recipe: str = "student", more: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The files of an undisturbed test with the same weights, and ``notes['result']`` its numbers."""
    own, stage.run = stage.run, stage.folder / "undisturbed"
    stage.test(*KEEP, *more, f"weight={stage.weight(recipe)}")
    succeeded(stage)
    stage.notes["result"] = records.result(stage.run / RESULT)
    found = files(stage.run / "result")
    stage.run = own
    return {name: content for name, content in found.items() if not name.endswith(ASIDE)}


def equals_whole_test(stage: Stage) -> None:
    """The same predictions, submission and numbers as a test that nothing has disturbed."""
    succeeded(stage)
    now, then = files(stage.run / "result"), stage.notes["files"]
    wrong = [name for name, content in then.items() if now.get(name) != content]
    more = [name for name in now if name not in then and not name.endswith(ASIDE)]
    hidden = [name for name in more if Path(name).name.startswith(".")]
    if hidden:
        raise Broken("leaked", f"temporary files: {hidden}")
    if wrong or more:
        raise Broken("silent", f"other files than those of an undisturbed test: {wrong}, more than its: {more}")
    found = list(records.differences(records.result(stage.run / RESULT), stage.notes["result"]))
    if found:
        raise Broken("silent", f"{RESULT} is not that of an undisturbed test: {'; '.join(found[:5])}")


def stopped_test(moment: Moment, act: Act = KILL, *options: str) -> Step:
    """Test, stop, and start the same command again."""

    def inject(stage: Stage) -> None:
        stage.notes["files"] = whole_test(stage)
        stage.test(*KEEP, *options, moment=moment, then=act)
        stage.test(*KEEP, *options)

    return inject


def scan_read(number: int) -> Moment:
    return Moment("read", 1, f"/08/velodyne/00000{number}")


for _scan in range(VAL_SCANS):
    fault(
        "H",
        f"test: kill -9 while scan {_scan} is read",
        stopped_test(scan_read(_scan)),
        equals_whole_test,
        quick=_scan == 1,
    )
for _place, _moment in {
    "before the first prediction gets its name": Moment("rename", 1, "predictions"),
    "before the last prediction gets its name": Moment("rename", VAL_SCANS, "predictions"),
    "before the second part of the submission gets its name": Moment("rename", 2, "submission"),
    "before the result gets its name": Moment("rename", 1, "miou_precise"),
    "while the weights are opened": Moment("read", 1, "student.pth"),
}.items():
    fault("H", f"test: kill -9 {_place}", stopped_test(_moment), equals_whole_test)
for _name, _code in {
    "SIGINT": INTERRUPTED,
    "SIGTERM": AGAIN,
    "SIGHUP": AGAIN,
    "SIGUSR1": AGAIN,
    "SIGQUIT": AGAIN,
}.items():

    def _stopped(stage: Stage, name: str = _name, code: int = _code) -> None:
        stage.notes["files"] = whole_test(stage)
        stage.test(*KEEP, moment=scan_read(1), then=send(getattr(signal, name)))
        ended(code)(stage)
        stage.test(*KEEP)

    fault("H", f"test: {_name} while scan 1 is read", _stopped, equals_whole_test)


def goes_on(stage: Stage) -> None:
    """A test that goes on does not predict again what it has."""
    stage.notes["files"] = whole_test(stage)
    stage.test(*KEEP, moment=scan_read(2), then=KILL)
    stage.test(*KEEP, moment=scan_read(0), then=lambda running, pid: None)
    if stage.ending.reached:
        raise Broken("lost", "the first scan was predicted again")


fault("H", "test: goes on where it was killed", goes_on, equals_whole_test)
for _name in ("SIGKILL", "SIGSEGV", "SIGTERM"):

    def _without_worker(stage: Stage, name: str = _name) -> None:
        stage.notes["files"] = whole_test(stage)
        act = send_workers(getattr(signal, name), first=False)
        stage.test(*KEEP, "num_worker=1", moment=Moment("rename", 1, "predictions"), then=act)
        if stage.ending.code != OK:
            refused("loading|worker", codes=(USER, 1, AGAIN))(stage)
            stage.test(*KEEP, "num_worker=1")

    fault("H", f"test: its loading process gets {_name}", _without_worker, equals_whole_test)
fault(
    "H",
    "test: kill -9 with a loading process",
    stopped_test(Moment("rename", 2, "predictions"), KILL, "num_worker=1"),
    equals_whole_test,
)


# --- older results in the folder ---


def over_another(change: Callable[[Stage], Any], *options: str, stop: bool = False) -> Step:
    """A test in the folder of an earlier one that had other weights, or another config."""

    def inject(stage: Stage) -> None:
        stage.notes["files"] = whole_test(stage)
        good = stage.weight().read_bytes()
        change(stage)
        if stop:
            stage.test(*KEEP, *options, moment=scan_read(2), then=KILL)
        else:
            stage.test(*KEEP, *options)
        stage.weight().write_bytes(good)
        stage.test(*KEEP)

    return inject


def _other_weights(stage: Stage) -> None:
    edit(stage.weight(), lambda content: content["state_dict"]["seg_head.bias"].add_(5.0 * torch.arange(19)))


for _stop in (False, True):
    _when = "that was killed" if _stop else "that has ended"
    fault(
        "H",
        f"test: after a test of other weights {_when}",
        over_another(_other_weights, stop=_stop),
        equals_whole_test,
        quick=_stop,
    )
    fault(
        "H",
        f"test: after a test with other views {_when}",
        over_another(
            lambda stage: None, "data.test.test_cfg.aug_transform=[[],[{'type':'RandomFlip','p':1}]]", stop=_stop
        ),
        equals_whole_test,
    )
    fault(
        "H",
        f"test: after a test with other voxels {_when}",
        over_another(lambda stage: None, "data.test.test_cfg.voxelize.grid_size=1.0", stop=_stop),
        equals_whole_test,
    )


def foreign_file(name: str, content: bytes) -> Step:
    def inject(stage: Stage) -> None:
        stage.notes["files"] = whole_test(stage)
        stage.test(*KEEP, moment=scan_read(2), then=KILL)
        for path in [*stage.run.rglob(name)]:
            path.write_bytes(content)
        stage.test(*KEEP)

    return inject


fault("H", "test: kept predictions are cut before it goes on", foreign_file("*.npy", b"\x93NUMPY"), equals_whole_test)
fault("H", "test: parts of the submission are empty before it goes on", foreign_file("*.label", b""), equals_whole_test)


def has_fingerprint(stage: Stage) -> None:
    content = json.loads((stage.run / RESULT).read_text())
    if not any("fingerprint" in key for key in content):
        raise Broken("unclear", f"the result says not which weights it is of: {sorted(content)}")


fault("H", "test: a result says which weights it is of", lambda stage: stage.test(), succeeded, has_fingerprint)
fault(
    "H",
    "test: twice the same",
    lambda stage: (stage.notes.update(files=whole_test(stage)), stage.test(*KEEP), stage.test(*KEEP)),
    equals_whole_test,
)


def spoilt_progress(spoil: Callable[[Path], Any]) -> Step:
    """What a killed test has noted of its scans is damaged before it goes on."""

    def inject(stage: Stage) -> None:
        stage.notes["files"] = whole_test(stage)
        stage.test(*KEEP, moment=scan_read(2), then=KILL)
        spoil(stage.run / PROGRESS)
        stage.test(*KEEP)

    return inject


for _what, _spoil in {
    "is cut": lambda path: os.truncate(path, path.stat().st_size - 40),
    "is empty": lambda path: os.truncate(path, 0),
    "is gone": os.remove,
    "is something else": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "has lost its head": lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[2]),
    "is there twice": lambda path: shutil.copy(path, path.with_name("progress_7.txt")),
    "has other counts": lambda path: path.write_bytes(path.read_bytes().replace(b'"counts":[0', b'"counts":[9')),
    "has a flipped bit in the first scan": lambda path: flip(path, 8 * 150 + 1),
    "has a flipped bit in its head": lambda path: flip(path, 8 * 20 + 1),
}.items():
    fault("H", f"test: the record of its progress {_what}", spoilt_progress(_spoil), equals_whole_test)
fault(
    "H",
    "test: the record of its progress must not be read",
    spoilt_progress(make_unreadable),
    refused("progress_0.txt", "permission"),
)


def scan_changes(stage: Stage) -> None:
    """A scan that was predicted is another one when the test goes on; then it is the first one again."""
    path = stage.scan(0, "08")
    good, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    stage.notes["files"] = whole_test(stage)
    path.write_bytes(good[: len(good) // 32 * 16])
    stage.scan(0, "08", labels=True).write_bytes(bytes(len(good) // 32 * 4))
    stage.test(*KEEP, moment=scan_read(2), then=KILL)
    path.write_bytes(good)
    os.utime(path, ns=times)
    labels = stage.world.data / stage.scan(0, "08", labels=True).relative_to(stage.data)
    shutil.copy2(labels, stage.scan(0, "08", labels=True))
    stage.test(*KEEP)


fault("H", "test: a predicted scan changes before it goes on", scan_changes, equals_whole_test)


def earlier_is_aside(stage: Stage) -> None:
    """The results of other weights are all there, in one folder with a date."""
    stage.notes["files"] = whole_test(stage)
    good = stage.weight().read_bytes()
    _other_weights(stage)
    stage.test(*KEEP)
    earlier = {name: content for name, content in files(stage.run / "result").items() if not name.endswith(".txt")}
    stage.weight().write_bytes(good)
    stage.test(*KEEP)
    aside = [path for path in stage.run.iterdir() if path.name.startswith("result_")]
    if len(aside) != 1 or any(files(aside[0]).get(name) != content for name, content in earlier.items()):
        raise Broken("lost", f"the earlier results are not there: {[path.name for path in aside]}")


fault("H", "test: results of other weights are set aside", earlier_is_aside, equals_whole_test, said("set aside as"))


def again(*options: str, reads: bool) -> Step:
    """The same test once more; ``reads`` says whether it predicts."""

    def inject(stage: Stage) -> None:
        stage.notes["files"] = whole_test(stage)
        stage.test(*KEEP)
        stage.test(*KEEP, *options, moment=scan_read(0), then=lambda running, pid: None)
        if stage.ending.reached != reads:
            raise Broken("lost", f"scans were {'not ' if reads else ''}read again")

    return inject


fault("H", "test: once more after its end", again(reads=False), equals_whole_test, said("tested already"))
fault("H", "test: once more, and asked to predict", again("test.again=True", reads=True), equals_whole_test)
fault("H", "test: once more, with other messages", again("test.verbose=False", reads=False), equals_whole_test)


def two_processes(act: Act, then: int, rank: int = 0) -> Step:
    """A test of two processes, with two and one scans, is stopped, and goes on with ``then`` of them."""

    def inject(stage: Stage) -> None:
        stage.notes["files"] = whole_test(stage, more=BOTH)
        flags: tuple[str, ...] = ("--num-gpus", "2")
        weight = f"weight={stage.weight()}"
        moment = Moment("rename", 1, "predictions", rank=rank)
        stage.call("test", *stage.command(*KEEP, *BOTH, weight, flags=flags), moment=moment, then=act)
        flags = flags if then == 2 else ()
        stage.call("test", *stage.command(*KEEP, *BOTH, weight, flags=flags))

    return inject


BOTH = ("batch_size_test=2", "batch_size_val=2")
fault(
    "H",
    "test: two processes, undisturbed",
    lambda stage: (
        stage.notes.update(files=whole_test(stage, more=BOTH)),
        stage.call("test", *stage.command(*KEEP, *BOTH, f"weight={stage.weight()}", flags=("--num-gpus", "2"))),
    ),
    equals_whole_test,
)
for _then in (1, 2):
    fault(
        "H",
        f"test: the launcher of two processes gets SIGKILL, then {_then} go on",
        two_processes(KILL, _then),
        equals_whole_test,
    )
    fault(
        "H",
        f"test: two processes get SIGTERM, then {_then} go on",
        two_processes(send(signal.SIGTERM, group=True), _then, rank=1),
        equals_whole_test,
    )
