"""H: damaged data in a test, places of results, and predictions of files."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import records
from tests.faults.case import Broken, Step, fault
from tests.faults.kinds.h_testing import KEEP, RESULT, equals_whole_test, scan_read, whole_test
from tests.faults.process import Running
from tests.faults.promises import USER, refused, said, succeeded
from tests.faults.stage import Act, Stage, make_unreadable, send, send_workers
from tests.faults.trigger import Moment
from tests.faults.world import VAL_SCANS

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
    ("miou_result_path must not be written", lambda stage: None, ("miou_result_path=/proc/x.json",), ("path", "/proc")),
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
fault("H", "predict: the output has an unknown suffix", predicted(SCAN, "out.xls"), refused(".npy", ".xls"))
fault("H", "predict: one file for several scans", predicted("08/velodyne", "out.npy"), refused("out.npy"))
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
    """The others are predicted."""
    os.truncate(stage.scan(1, "08"), 33)
    stage.predict(stage.scan(0, "08").parent, stage.folder / "out")


def others_are_there(stage: Stage) -> None:
    found = sorted(path.name for path in (stage.folder / "out").iterdir())
    if found != ["000000.npy", "000002.npy"]:
        raise Broken("lost", f"the folder holds {found}")


fault("H", "predict: one of three scans is damaged", one_of_three_damaged, refused("000001"), others_are_there)


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


def predict_without_worker(stage: Stage) -> None:
    scans = stage.scan(0, "08").parent
    moment, act = Moment("rename", 1, ".npy"), send_workers(signal.SIGKILL, first=False)
    stage.predict(scans, stage.folder / "out", "num_worker=1", moment=moment, then=act)


def quick_without_worker(stage: Stage) -> None:
    """The loading process of a test in one pass ends as it reads; the result is that of an undisturbed one."""
    stage.test("test.quick=True")
    stage.notes["result"] = records.result(stage.run / "result/miou_quick.json")
    options = ("test.quick=True", "num_worker=2", "batch_size_val=1")
    stage.test(*options, moment=Moment("rename", 1, "environment.json"), then=send_workers(signal.SIGKILL, first=False))
    found = list(records.differences(records.result(stage.run / "result/miou_quick.json"), stage.notes["result"]))
    if found:
        raise Broken("silent", f"another result: {found}")


fault("H", "predict: its loading process gets SIGKILL", predict_without_worker, three_predictions)
fault("H", "test: loading processes get SIGKILL, in one pass", quick_without_worker, succeeded)
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
