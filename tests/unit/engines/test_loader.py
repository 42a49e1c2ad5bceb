"""Loading processes that die, stand still, or find no room: what follows is what it would have been."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pointcept.datasets.base import Draw
from pointcept.engines import loader as loader_module
from pointcept.engines import parcel, watchdog, workers
from pointcept.engines.data import eval_loader, scan_loader, train_loader
from pointcept.engines.loader import Loader
from pointcept.engines.sampler import TrainSampler
from pointcept.utils.errors import DataError, MachineError


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch looks for lost processes every 0.2 s here, and not every 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return batches(make(tmp_path_factory.mktemp("whole"), num_worker=0))


def make(folder: Path, **options: Any) -> Loader:
    dataset = {key: options.pop(key) for key in ("at", "number", "times") if key in options}
    cfg = fakes.make_config(folder, **{"num_worker": 2, **options})
    sampler = TrainSampler(8, cfg.seed)
    sampler.set_range(3, 21)
    return train_loader(fakes.Deadly(folder, **dataset), sampler, cfg)


def batches(loader: Loader) -> list[Any]:
    try:
        return list(loader)
    finally:
        loader.close()


def same(one: Any, other: Any) -> bool:
    assert [batch.keys() for batch in one] == [batch.keys() for batch in other]
    pairs = [(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in a]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else str(a) == str(b) for a, b in pairs)


def gone(pid: int) -> bool:
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and workers.state_of(pid) != "has ended" and time.monotonic() < end:
        time.sleep(0.02)
    return time.monotonic() < end


def test_a_lost_process_is_replaced_and_nothing_changes(
    tmp_path: Path, whole: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert len(whole) == 9
    before = torch.random.get_rng_state()
    assert same(batches(make(tmp_path, at=5, times=2)), whole)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert all("ended by SIGKILL:" in text and "read sample 5 (scan5): most" in text for text in caplog.messages)
    assert "lack of memory: lower num_worker" in caplog.text
    assert "2 start again" in caplog.messages[0]
    assert "1 start again" in caplog.messages[1], "half as many after the second loss"


def test_one_that_is_lost_again_and_again_ends_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MachineError, match=r"SIGSEGV: \d+ read sample 5 .*crashed.* that is number 4, so no"):
        batches(make(tmp_path, at=5, number=signal.SIGSEGV, times=99, num_worker=1))
    assert len(caplog.records) == loader_module.RESTARTS


def test_losses_that_are_far_apart_do_not_add_up(
    tmp_path: Path, whole: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "CALM", 0)
    monkeypatch.setattr(loader_module, "RESTARTS", 1)
    assert same(batches(make(tmp_path, at=5, times=2, num_worker=1)), whole)


def test_idle_processes_and_their_server_are_lost(
    tmp_path: Path, whole: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """As in an evaluation, while those of the training wait; one that stands still ends with its server."""
    loader = make(tmp_path)
    try:
        assert same(list(loader), whole)
        pids = [worker.pid for worker in loader._iterator._workers]  # type: ignore[union-attr]
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert all(gone(pid) for pid in pids)
        assert same(list(loader), whole)
        assert "lost 2 of 2 loading processes" in caplog.text
    finally:
        loader.close()


class LetsGo(logging.Handler):
    """Lets the processes of a loader go on when a word is said."""

    def __init__(self, loader: Loader, number: int) -> None:
        super().__init__()
        self.loader, self.number = loader, number

    def emit(self, record: logging.LogRecord) -> None:
        if "waiting for" in record.getMessage():
            for worker in self.loader._iterator._workers:  # type: ignore[union-attr]
                os.kill(worker.pid, self.number)


@pytest.fixture
def listener() -> Iterator[list[logging.Handler]]:
    handlers: list[logging.Handler] = []
    yield handlers
    for handler in handlers:
        watchdog.logger.removeHandler(handler)


def test_the_watchdog_says_who_is_waited_for(
    tmp_path: Path,
    whole: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    listener: list[logging.Handler],
) -> None:
    loader = make(tmp_path, at=5, number=signal.SIGSTOP)
    found = iter(loader)
    first = next(found)  # the processes have begun
    monkeypatch.setattr(watchdog, "PATIENCE", 0.6)
    monkeypatch.setattr(loader_module, "WATCHDOG", watchdog.Watchdog())
    listener.append(LetsGo(loader, signal.SIGCONT))
    watchdog.logger.addHandler(listener[0])
    try:
        assert same([first, *found], whole)
    finally:
        loader.close()
    assert len(caplog.records) == 2
    assert "loading process" in caplog.messages[0]
    assert "(stopped, SIGCONT lets it go on) reads sample 5 (scan5)" in caplog.messages[0]
    assert caplog.messages[1].startswith("what was waited for came after")


def test_the_watchdog_speaks_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "PATIENCE", 0.06)
    dog = watchdog.Watchdog()
    with dog.waiting(lambda: "quick"):
        pass
    with dog.waiting(lambda: "slow"):
        time.sleep(0.5)
    times = [record.created for record in caplog.records if record.getMessage().endswith("slow")]
    assert 3 <= len(times) <= 4
    gaps = np.diff(times)
    assert all(later > 1.4 * earlier for earlier, later in pairwise(gaps))
    assert "quick" not in caplog.text


def test_a_message_that_breaks_off_is_no_hang(
    tmp_path: Path, whole: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loader_module, "STUCK", 0.5)
    monkeypatch.setattr(watchdog, "PATIENCE", 2.0)
    monkeypatch.setattr(loader_module, "WATCHDOG", watchdog.Watchdog())
    loader = make(tmp_path, num_worker=1)
    try:
        found = iter(loader)
        time.sleep(1.0)  # the pipe is full, and a message is half in it
        os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)  # type: ignore[union-attr]
        assert same(list(found), whole)
        assert "lost 1 of 1 loading processes, ended by SIGKILL" in caplog.text
    finally:
        loader.close()


def test_without_shared_memory_batches_come_through_pipes(
    tmp_path: Path, whole: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def full(tensor: torch.Tensor) -> Any:
        raise RuntimeError("unable to allocate shared memory(shm)")

    with pytest.MonkeyPatch.context() as patch:  # for the data set as well
        patch.setattr(torch.Tensor, "share_memory_", full)
        loader = make(tmp_path, num_worker=1)
        loader._packing.shared = False
        assert same(batches(loader), whole)
    loader._tell_of_room("40.0 MiB: no shared memory left")
    loader._tell_of_room("41.0 MiB: no shared memory left")
    assert len(caplog.records) == 1
    assert "docker run --shm-size" in caplog.text


def test_a_parcel_holds_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {
        "fragments": [{"coord": torch.rand(3, 2), "none": torch.empty(0, 3)}, {"flag": torch.tensor([True, False])}],
        "draw": Draw(3, 4),
        "half": torch.arange(5).half(),
        "scalar": torch.tensor(7),
        "strided": torch.arange(12).view(3, 4).t(),
        "array": np.arange(3),
    }
    shared = parcel.pack(batch)
    assert isinstance(shared.block, torch.Tensor)
    assert shared.block.is_shared()
    assert not shared.reason

    def full(size: int) -> Any:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")

    monkeypatch.setattr(parcel, "_shared_block", full)
    piped = parcel.pack(batch)
    assert isinstance(piped.block, np.ndarray)
    assert "no shared memory left" in piped.reason
    for packed in (shared, piped):
        again = packed.unpack()
        assert torch.equal(again["fragments"][0]["coord"], batch["fragments"][0]["coord"])
        assert again["fragments"][0]["none"].shape == (0, 3)
        assert again["fragments"][1]["flag"].tolist() == [True, False]
        assert again["draw"] == Draw(3, 4)
        assert isinstance(again["draw"], Draw)
        assert again["half"].dtype == torch.float16
        assert int(again["scalar"]) == 7
        assert torch.equal(again["strided"], batch["strided"])
        assert again["array"] is batch["array"]
        assert all(place.start % parcel.ALIGNMENT == 0 for place in (packed.batch["half"], packed.batch["scalar"]))


def test_processes_that_cannot_start_are_done_without(
    tmp_path: Path, whole: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(context: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    loader = make(tmp_path)
    monkeypatch.setattr(type(loader.multiprocessing_context), "Event", full)
    assert same(batches(loader), whole)
    assert len(caplog.records) == 1
    assert "No space left on device: free some space): this one loads" in caplog.text


def test_open_files_are_counted_before(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    limits = [(64, 128)]
    monkeypatch.setattr(workers, "_open_files", lambda: 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    assert workers.affordable(4) == 4
    assert limits[-1] == (128, 128), "raised to what is allowed"
    assert not caplog.records
    possible = (128 - 20 - workers.FILES_BESIDE) // workers.FILES_PER_WORKER
    assert workers.affordable(40) == possible
    assert f"{possible} of 40 loading processes, for at most 128 files may be open (ulimit -n)" in caplog.text
    assert workers.affordable(0) == 0


def test_every_loader_survives(tmp_path: Path) -> None:
    """Evaluation and test have the same loader; errors of data are not taken for losses."""
    cfg = fakes.make_config(tmp_path, num_worker=1)
    for make_loader in (eval_loader, scan_loader):
        assert isinstance(make_loader(fakes.FakeDataset(), fakes.make_config(tmp_path)), Loader)
    loader = eval_loader(fakes.BrokenDataset(), cfg)
    with pytest.raises(RuntimeError, match=r"sample 0 \(scan0\), seed \d+: IndexError"):
        batches(loader)
    assert threading.active_count() < 20


def test_an_error_of_a_scan_passes(tmp_path: Path) -> None:
    loader = make(tmp_path, num_worker=0)
    loader.dataset.dataset.ignore_index = -2  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="scan"):
        batches(loader)
