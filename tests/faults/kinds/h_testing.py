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
from tests.faults.process import Running
from tests.faults.promises import AGAIN, INTERRUPTED, OK, USER, ended, refused, said, succeeded
from tests.faults.stage import KILL, Act, Stage, edit, files, make_unreadable, send, send_workers
from tests.faults.trigger import Moment
from tests.faults.world import VAL_SCANS

KEEP = ("test.save_predictions=True", "test.submit=True")
RESULT = "result/miou_precise.json"


def whole_test(stage: Stage, recipe: str = "student") -> dict[str, bytes]:
    """The files of an undisturbed test with the same weights, and ``notes['result']`` its numbers."""
    own, stage.run = stage.run, stage.folder / "undisturbed"
    stage.test(*KEEP, f"weight={stage.weight(recipe)}")
    succeeded(stage)
    stage.notes["result"] = records.result(stage.run / RESULT)
    found = files(stage.run / "result")
    stage.run = own
    return {name: content for name, content in found.items() if not name.endswith((".json", ".py"))}


def equals_whole_test(stage: Stage) -> None:
    """The same predictions, submission and numbers as a test that nothing has disturbed."""
    succeeded(stage)
    now, then = files(stage.run / "result"), stage.notes["files"]
    wrong = [name for name, content in then.items() if now.get(name) != content]
    more = [name for name in now if name not in then and not name.endswith((".json", ".py"))]
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


# --- damaged data in the middle ---


def damaged_scan(damage: Callable[[Path], Any], *words: str) -> Step:
    """The last scan is damaged; it is mended, and the test goes on."""

    def inject(stage: Stage) -> None:
        path = stage.scan(2, "08")
        good = path.read_bytes()
        stage.notes["files"] = whole_test(stage)
        damage(path)
        stage.test(*KEEP)
        refused("08_000002|08/velodyne/000002", *words)(stage)
        if (stage.run / RESULT).exists():
            raise Broken("silent", "there is a result without the damaged scan")
        path.chmod(0o600)
        path.write_bytes(good)
        stage.test(*KEEP)

    return inject


fault("H", "test: a scan is cut", damaged_scan(lambda path: os.truncate(path, 33), "multiple"), equals_whole_test)
fault("H", "test: a scan is empty", damaged_scan(lambda path: os.truncate(path, 0), "empty"), equals_whole_test)
fault("H", "test: a scan must not be read", damaged_scan(make_unreadable, "permission"), equals_whole_test)


# --- places of results ---


def placed(prepare: Callable[[Stage], Any], *options: str) -> Step:
    return lambda stage: (prepare(stage), stage.test(*KEEP, *options))


def _file_at(name: str) -> Callable[[Stage], Any]:
    def prepare(stage: Stage) -> None:
        path = stage.run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")

    return prepare


def _folder_at(name: str) -> Callable[[Stage], Any]:
    return lambda stage: (stage.run / name).mkdir(parents=True)


def _closed_result(stage: Stage) -> None:
    (stage.run / "result").mkdir(parents=True)
    (stage.run / "result").chmod(0o500)


for _what, _prepare, _options, _words in (
    ("result is a file", _file_at("result"), (), ("result",)),
    ("predictions is a file", _file_at("result/predictions"), (), ("predictions",)),
    ("submission is a file", _file_at("result/submission"), (), ("submission",)),
    ("the result's file is a folder", _folder_at(RESULT), (), ("miou_precise",)),
    ("test.log is a folder", _folder_at("test.log"), (), ("test.log",)),
    ("the folder of results is read-only", _closed_result, (), ("permission",)),
    ("miou_result_path is below a file", _file_at("file"), ("miou_result_path=/dev/null/x.json",), ("/dev/null",)),
    ("miou_result_path must not be written", lambda stage: None, ("miou_result_path=/proc/x.json",), ("/proc/x.json",)),
):
    fault("H", f"test: {_what}", placed(_prepare, *_options), refused(*_words, codes=(USER, 1)))
fault("H", "test: no weights are named", lambda stage: stage.call("test", *stage.command()), refused("weight"))
fault(
    "H",
    "test: --benchmark and --config",
    lambda stage: stage.call("test", "--config", str(stage.config()), "--benchmark", "nuscenes"),
    refused("--config", "--benchmark"),
)


# --- predictions of files ---


def predicted(scan: str, out: str, *flags: str, prepare: Callable[[Stage], Any] = lambda stage: None) -> Step:
    """Predict ``scan`` below the data into ``out`` below the case's folder."""

    def inject(stage: Stage) -> None:
        prepare(stage)
        sequences = stage.data / "dataset" / "sequences"
        stage.predict(sequences / scan, stage.folder / out, flags=flags)

    return inject


SCAN = "08/velodyne/000000.bin"
fault("H", "predict: the scan is not there", predicted("08/velodyne/9.bin", "out.npy"), refused("9.bin"))
fault(
    "H",
    "predict: the folder is empty",
    predicted("08/empty", "out", prepare=lambda stage: (stage.data / "dataset/sequences/08/empty").mkdir()),
    refused("empty"),
)
fault("H", "predict: the output has an unknown suffix", predicted(SCAN, "out.txt"), refused(".npy", ".txt"))
fault(
    "H",
    "predict: the output is a folder",
    predicted(SCAN, "out", prepare=lambda stage: (stage.folder / "out").mkdir()),
    refused("out"),
)
fault(
    "H",
    "predict: the output lies below a file",
    predicted(SCAN, "file/out.npy", prepare=lambda stage: (stage.folder / "file").write_text("x")),
    refused("out.npy|file"),
)
fault(
    "H",
    "predict: the output must not be written",
    predicted(SCAN, "closed/out.npy", prepare=lambda stage: (stage.folder / "closed").mkdir(0o500)),
    refused("permission"),
)
fault("H", "predict: a wrong type of numbers", predicted(SCAN, "out.npy", "--engine", "float99"), refused("float99"))


def one_of_three_damaged(stage: Stage) -> None:
    """Predictions before the damaged scan are kept."""
    os.truncate(stage.scan(1, "08"), 33)
    stage.predict(stage.scan(0, "08").parent, stage.folder / "out")


def first_is_there(stage: Stage) -> None:
    if not (stage.folder / "out" / "000000.npy").exists():
        raise Broken("lost", "the prediction before the damaged scan is gone")


fault("H", "predict: one of three scans is damaged", one_of_three_damaged, refused("000001"), first_is_there)


def predict_stopped(act: Act, name: str) -> Step:
    """Predict a folder, stop before the second file gets its name, and start the same command again."""

    def inject(stage: Stage) -> None:
        scans = stage.scan(0, "08").parent
        stage.predict(scans, stage.folder / "out", moment=Moment("rename", 2, ".npy"), then=act)
        left = sorted(path.name for path in (stage.folder / "out").iterdir() if not path.name.startswith("."))
        if left != ["000000.npy"]:
            raise Broken("silent", f"after {name} the folder holds {left}")
        shutil.rmtree(stage.folder / "out")
        stage.predict(scans, stage.folder / "out")

    return inject


def three_predictions(stage: Stage) -> None:
    succeeded(stage)
    found = sorted(path.name for path in (stage.folder / "out").iterdir())
    if found != [f"{number:06d}.npy" for number in range(VAL_SCANS)]:
        raise Broken("lost", f"the folder holds {found}")


for _name in ("SIGKILL", "SIGINT"):
    fault(
        "H",
        f"predict: {_name} before the second file gets its name",
        predict_stopped(send(getattr(signal, _name)), _name),
        three_predictions,
    )


def quick_test(stage: Stage) -> None:
    os.truncate(stage.scan(1, "08", labels=True), 30)
    stage.test("test.quick=True")


fault("H", "test: labels are cut, in one pass", quick_test, refused("000001"))


def weights_change_meanwhile(stage: Stage) -> None:
    """Somebody trains on into the file that is tested: the test has read it already."""
    stage.notes["files"] = whole_test(stage)

    def act(running: Running, pid: int) -> None:
        stage.weight().write_bytes(b"x")

    stage.test(*KEEP, moment=scan_read(1), then=act)


fault("H", "test: the weight file changes meanwhile", weights_change_meanwhile, equals_whole_test)
fault("H", "test: the log says how the scans were judged", lambda stage: stage.test(), succeeded, said("precise"))
