"""What a test has done so far, so that it goes on where it was stopped, and results of different tests never mix.

save_path/result/lock                     the process that tests here, while it does
save_path/result/progress_<rank>.txt      one line for each scan: its CRC-32, and as JSON the confusion counts and the
                                          files of its prediction with theirs
save_path/result/miou_precise.json, submission, predictions, config.py, environment.json
save_path/result_<date>                   those of an earlier test of something else

A test is known by its fingerprint: weights, network, data and their transforms, precision, code. It stands in the first
line of each progress file and in the JSON files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

import pointcept
from pointcept.engines.run_folder import remove_unfinished
from pointcept.evaluation.worst import POINTS, ScanPoints, ScanScore, read_points
from pointcept.models import inference_config
from pointcept.models.teacher_cache import digest
from pointcept.utils import comm, device, lock
from pointcept.utils.env import package_versions
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import read_json

logger = logging.getLogger(__name__)

FORMAT = 2
PROGRESS, WORST = "progress_{}.txt", "worst_{}.npz"
FOLDERS, RECORD = ("submission", "predictions"), ("config.py", "environment.json")
"""What belongs to a precise result."""
BESIDE = ("type", "verbose", "save_predictions", "submit", "again")
"""Arguments of a tester that change none of its predictions."""


@dataclass(frozen=True)
class Entry:
    """What is kept of one scan.

    Args:
        index: in the data set.
        name: of the scan.
        points: of the scan.
        passes: forward passes that were averaged for a point.
        seconds: that it took.
        counts: confusion counts, K x K in one row; None without labels.
        mark: of the scan's files, see :func:`scan_mark`.
        files: of its prediction, by kind: path below the folder, bytes, CRC-32.
        by_range: confusion counts by distance that are not 0, each as its place and the count.
        labelled: points with a label.
        wrong: of these; both None without labels.
    """

    index: int
    name: str
    points: int
    passes: float
    seconds: float
    counts: list[int] | None
    mark: str
    files: dict[str, list[Any]] = field(default_factory=dict)
    by_range: list[list[int]] = field(default_factory=list)
    labelled: int | None = None
    wrong: int | None = None

    def score(self) -> ScanScore:
        """How much of the scan is wrong."""
        assert self.labelled is not None
        assert self.wrong is not None
        return ScanScore(self.name, self.labelled, self.wrong)


def fingerprint(cfg: Any, section: str, model: nn.Module, dataset: Any) -> str:
    """Digest of all that decides the predictions of a test, but for the contents of the scans.

    Args:
        cfg: the resolved config.
        section: of ``cfg.data`` that is tested.
        model: with its weights.
        dataset: what is tested.
    """
    facts = {
        "format": FORMAT,
        "weights": digest(list(model.state_dict().values())),
        "model": inference_config(cfg.model.to_dict()),
        "data": _without_places(cfg.data[section].to_dict()),
        "test": {key: value for key, value in cfg.test.to_dict().items() if key not in BESIDE},
        "classes": [list(dataset.names), dataset.ignore_index],
        "scans": [dataset.get_data_name(index) for index in range(len(dataset.data_list))],
        "numbers": [cfg.enable_amp, cfg.amp_dtype, cfg.batch_size_test, cfg.backend, device.get_device().type],
        "code": _code(),
        "versions": package_versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()[:16]


def _without_places(value: Any) -> Any:
    """A config without its ``data_root``: the same scans may lie elsewhere."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items() if key != "data_root"}
    if isinstance(value, (list, tuple)):
        return [_without_places(item) for item in value]
    return value


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of this package's modules."""
    total = hashlib.sha256()
    root = Path(pointcept.__file__).parent
    for path in sorted(root.rglob("*.py")):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def scan_mark(dataset: Any, index: int) -> str:
    """Sizes and times of the files of a scan, as far as its entry in ``data_list`` names them."""
    entry = dataset.data_list[index]
    if hasattr(dataset, "datasets"):
        number, inner = entry
        return scan_mark(dataset.datasets[number], inner)
    marks = []
    for path in _paths(entry):
        try:
            facts = path.stat()
            marks.append(f"{facts.st_size} {facts.st_mtime_ns}")
        except OSError:
            marks.append("none")
    return hashlib.sha256(" ".join(marks).encode()).hexdigest()[:16] if marks else ""


def _paths(entry: Any) -> Iterator[Path]:
    if isinstance(entry, Path):
        yield from sorted(entry.iterdir()) if entry.is_dir() else [entry]
    elif isinstance(entry, Mapping):
        yield from _paths(list(entry.values()))
    elif isinstance(entry, (list, tuple)):
        for item in entry:
            yield from _paths(item)


class KeptResults:
    """The results of one test in its folder, held by this process (and the others of the run) until released.

    Args:
        folder: ``save_path/result``.
        mark: the fingerprint of the test.
        report: the JSON file that it writes.

    Attributes:
        finished: nothing is left to do for the submission.
        worst: where this process keeps the points of its scans with the most errors until the test is over.
    """

    def __init__(self, folder: Path, mark: str, report: Path) -> None:
        self.folder = folder
        self.mark = mark
        self.report = report
        self.finished = False
        self._path = folder / PROGRESS.format(comm.rank())
        self.worst = folder / WORST.format(comm.rank())

    def take(self, again: bool, valid: Callable[[Entry], bool] | None) -> list[Entry]:
        """Take the folder, put the results of other tests aside, and find those of this one.

        Every process calls it.

        Args:
            again: put those of this one aside, too.
            valid: whether an entry is what is asked for now; None where scans are not kept one by one.

        Returns:
            What is kept, in the order of the scans.

        Raises:
            ConfigError: another process tests there.
            DataError: files cannot be moved or read.
        """
        problem: tuple[type[Exception], str] | None = None
        entries: list[Entry] = []
        if comm.is_main_process():
            try:
                lock.hold(self.folder)
                entries = self._prepare(again, valid)
            except ConfigError as error:
                problem = ConfigError, str(error).replace("save_path=", "")
            except OSError as error:
                problem = DataError, f"cannot keep results in {self.folder}: {error}"
        problem, entries, self.finished = comm.broadcast_object((problem, entries, self.finished))
        if problem is not None:
            raise problem[0](problem[1])
        return entries

    def release(self) -> None:
        """Give the folder back."""
        if comm.is_main_process():
            lock.let_go(self.folder)
            with suppress(OSError):  # a folder without results
                if os.listdir(self.folder) == [self._path.name] and len(list(_read(self._path))) == 1:
                    self._path.unlink()
                self.folder.rmdir()

    def add(self, entry: Entry) -> None:
        """Keep the result of a scan, whose files are written.

        Raises:
            OSError: it cannot be written.
        """
        self._append([asdict(entry)])

    def _append(self, lines: list[dict[str, Any]]) -> None:
        if not self._path.exists():
            lines = [{"format": FORMAT, "fingerprint": self.mark}, *lines]
        with open(self._path, "a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that was cut off
                    file.write(b"\n")
            file.write(b"".join(map(_encode, lines)))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> None:
        """Say that the submission is complete; the main process calls it after :meth:`add`."""
        self._append([{"finished": True}])

    def worst_points(self) -> dict[str, ScanPoints]:
        """The points of the scans with the most errors that this test has predicted so far, by name."""
        found: dict[str, ScanPoints] = {}
        for path in (self.folder / POINTS.name, *self.folder.glob(WORST.format("[0-9]*"))):
            with suppress(OSError, DataError):  # a picture less
                found |= read_points(path)[0]
        return found

    def drop_worst_points(self) -> None:
        """Remove what :meth:`worst_points` reads, once the test is over."""
        for path in self.folder.glob(WORST.format("[0-9]*")):
            with suppress(OSError):
                path.unlink()

    def file_facts(self, path: Path) -> list[Any]:
        """What is kept of a file of a prediction."""
        content = path.read_bytes()
        return [str(path.relative_to(self.folder)), len(content), zlib.crc32(content)]

    def has(self, facts: Any) -> bool:
        """Whether a file is still as it was written."""
        try:
            name, size, crc = facts
            path = self.folder / name
            return path.stat().st_size == size and zlib.crc32(path.read_bytes()) == crc
        except (OSError, TypeError, ValueError):
            return False

    def _prepare(self, again: bool, valid: Callable[[Entry], bool] | None) -> list[Entry]:
        remove_unfinished({*self.folder.rglob(".*.tmp"), *self.report.parent.glob(f".{self.report.name}.*.tmp")})
        found: dict[int, Entry] = {}
        others = [] if self.is_reported() and not again else [self.report]
        if valid is not None:
            files = sorted(self.folder.glob(PROGRESS.format("*")))
            lines = [list(_read(path)) for path in files]
            if again or not files or not all(own and self._is_head(own[0]) for own in lines):
                others += [self.folder / name for name in FOLDERS if (self.folder / name).is_dir()]
                others += [*(self.folder / name for name in (POINTS.name, *RECORD)), *files]
                others += sorted(self.folder.glob(WORST.format("[0-9]*")))
                lines = []
            self.finished = any("finished" in line for own in lines for line in own)
            entries = [_entry(line) for own in lines for line in own[1:]]
            found = {entry.index: entry for entry in entries if entry is not None}
        self._set_aside(others)
        if valid is not None and not self._path.exists():
            self._append([])  # what is written from now on is of this test
        kept = [entry for _, entry in sorted(found.items()) if valid is not None and valid(entry)]
        if len(kept) < len(found):
            self.finished = False
            logger.warning(
                "%d of %d scans are predicted again: they or their predictions have changed, or more is asked for",
                *(len(found) - len(kept), len(found)),
            )
        return kept

    def _is_head(self, line: Mapping[str, Any]) -> bool:
        return line.get("fingerprint") == self.mark and line.get("format") == FORMAT

    def is_reported(self) -> bool:
        """Whether there is the JSON file of this test."""
        try:
            return bool(read_json(self.report, ("fingerprint",))["fingerprint"] == self.mark)
        except (OSError, DataError):
            return False

    def _set_aside(self, paths: Iterable[Path]) -> None:
        """Move what there is of ``paths`` to a folder whose name says when it was made."""
        there = [path for path in paths if path.exists()]
        if not there or all(path.name in RECORD for path in there):
            return
        when = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(max(path.stat().st_mtime for path in there)))
        for path in there:
            at_home = path.parent.resolve() == self.folder.resolve()
            target = self.folder.with_name(f"{self.folder.name}_{when}") / path.name
            if not at_home:
                target = path.with_name(f"{path.stem}_{when}{path.suffix}")
            number = 2
            while target.exists():
                target = target.with_name(f"{path.stem}_{number}{path.suffix}")
                number += 1
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
            logger.warning("%s is of another test, or of an earlier one: set aside as %s", path, target)


def _encode(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return f"{zlib.crc32(text):08x} ".encode() + text + b"\n"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a progress file that are whole."""
    with open(path, "rb") as file:
        for line in file:
            crc, _, text = line.rstrip(b"\n").partition(b" ")
            if line.endswith(b"\n") and crc == f"{zlib.crc32(text):08x}".encode():
                yield json.loads(text)


def _entry(line: Mapping[str, Any]) -> Entry | None:
    try:
        return Entry(**line)
    except TypeError:
        return None
