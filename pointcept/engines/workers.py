"""Loading processes: how they start and end, what they need of the machine, and what became of those that are lost."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pointcept.engines.interrupt import HANDLED, undisturbed
from pointcept.utils.logging import warning_level

logger = logging.getLogger(__name__)

PRELOADED = "pointcept.engines.data"
"""What the server of the loading processes has imported when it forks them."""
FILES_PER_WORKER = 5
"""Open files of this process for each loading process."""
FILES_BESIDE = 40
"""Open files that this process may need for other things: data, logs, checkpoints, batches."""
MOST_FILES = 65536
"""A limit of open files that is enough for everything."""
PR_SET_PDEATHSIG = 1
SHARED_MEMORY = Path("/dev/shm")

CAUSES = {
    signal.SIGKILL: "most often the system kills a process for lack of memory: lower num_worker or batch_size",
    signal.SIGBUS: "most often for lack of room in /dev/shm, or of a file that was cut while it was read",
    signal.SIGSEGV: "a library has crashed, for damaged data, lack of memory, or a mistake of its own",
    signal.SIGABRT: "a library has given up, most often for lack of memory: lower num_worker or batch_size",
    signal.SIGTERM: "somebody has ended it",
}
"""Why a loading process ends, by the signal that ended it."""
UNKNOWN = "most often for lack of memory, of room in /dev/shm, or of open files: lower num_worker or batch_size"
STATES = {"T": "stopped, SIGCONT lets it go on", "D": "waits for a disk", "Z": "has ended", "R": "computes"}


def end_with_parent() -> None:
    """On Linux the system kills this process when its parent has ended, even if it stands still."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def start_worker(worker: int) -> None:
    """What a loading process does first: it leaves signals to the main process, and ends with it.

    A signal reaches every process of the terminal or the job; the workers are ended by the main process, which wants
    to finish its step and save.
    """
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = report_from_thread
    end_with_parent()  # which is the fork server
    threading.Thread(target=_end_with_main, daemon=True).start()


def report_from_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an exception of a thread in a loading process, unless the main process hung up while it took a batch.

    The main process fetches shared memory from a thread here (multiprocessing.resource_sharer). When it is interrupted
    in the middle it says so itself; a traceback from here would hide its one line.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_with_main() -> None:
    """End this process when the one that it loads for is gone."""
    main = multiprocessing.parent_process()
    assert main is not None
    main.join()
    os._exit(1)


def worker_context() -> BaseContext:
    """How loading processes start: forked from a server process that holds nothing but imported modules.

    By default the processes of a run on several GPUs, which are spawned themselves, would spawn theirs: one after
    the other, each importing everything anew, which kept two ranks with 28 workers still for a minute before the
    first evaluation. A run on one GPU would fork a process with the threads and locks of CUDA. The server starts
    once per process and imports in the background; a worker of it is there in milliseconds. One that has died is
    started again.

    What workers receive is pickled: data sets and transforms are objects of importable classes, and a script has
    ``if __name__ == "__main__"`` around what it runs.
    """
    context = multiprocessing.get_context("forkserver")
    # The script is imported once in the server; otherwise each worker would import it again.
    context.set_forkserver_preload(["__main__", PRELOADED])
    with undisturbed():
        resource_tracker.ensure_running()
    with undisturbed():  # anew: starting the tracker lets some signals through again
        forkserver.ensure_running()
    return context


def affordable(workers: int) -> int:
    """How many of so many loading processes the limit of open files allows; it is raised where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    needed = _open_files() + FILES_BESIDE + FILES_PER_WORKER * workers
    if workers and soft != resource.RLIM_INFINITY and soft < max(needed, 4096) and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        logger.debug("open files: the limit of this process is now %d, it was %d", enough, soft)
        soft = enough
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return workers
    possible = max(0, (soft - _open_files() - FILES_BESIDE) // FILES_PER_WORKER)
    logger.log(
        warning_level(),
        "%d of %d loading processes, for at most %d files may be open (ulimit -n): raise it to %d, or lower num_worker",
        *(possible, workers, soft, needed),
    )
    return possible


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return FILES_BESIDE


def machine_facts() -> str:
    """What is left of that for the lack of which loading processes end."""
    facts = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        facts.append(f"{available / 2**20:.1f} GiB of memory")
    with contextlib.suppress(OSError):
        room = os.statvfs(SHARED_MEMORY)
        free, size = (blocks * room.f_frsize / 2**20 for blocks in (room.f_bavail, room.f_blocks))
        facts.append(f"{free:.0f} of {size:.0f} MiB in {SHARED_MEMORY}")
    facts.append(f"{_open_files()} of {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} files are open")
    return ", ".join(facts)


def state_of(pid: int | None) -> str:
    """What a process is doing, ``""`` where that is not known."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "has ended"
    return STATES.get(letter, "")


class Workers(_MultiProcessingDataLoaderIter):
    """Torch's iterator over batches of loading processes, which can be ended whatever has become of them.

    Torch's own way to end them waits for locks that a killed process may hold, and for those that stand still.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        # What torch may not come to set, where it cannot make a queue or a process.
        self._workers: list[Any] = []
        self._index_queues: list[Any] = []
        self._worker_result_queue: Any = None
        self._shutdown = self._worker_pids_set = False
        self._gone: list[Any] = []
        try:
            super().__init__(loader)
        except BaseException:
            self.kill()  # those that have started; torch would look for attributes that are not there yet
            raise

    def _shutdown_workers(self) -> None:
        if not self._shutdown and self.lost():
            self.kill()
        else:
            super()._shutdown_workers()

    def lost(self) -> list[Any]:
        """The processes that have ended by themselves."""
        return self._gone or [worker for worker in self._workers if not worker.is_alive()]

    def busy(self) -> list[int]:
        """Numbers of the processes at work, the one whose batch comes next first."""
        tasks = sorted(dict(self._task_info).items())
        return list(dict.fromkeys(info[0] for _, info in tasks if len(info) == 1))

    def kill(self) -> None:
        """End all processes at once, and leave alone all that they share with this one."""
        self._shutdown = True
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join(timeout=5)
        if hasattr(self, "_pin_memory_thread_done_event"):
            self._pin_memory_thread_done_event.set()
        if self._worker_pids_set:
            signal_handling._remove_worker_pids(id(self))
            self._worker_pids_set = False
        for queue in self._index_queues:
            queue.cancel_join_thread()
            queue.close()
        if self._worker_result_queue is not None:
            self._worker_result_queue.cancel_join_thread()

    def wake(self) -> None:
        """End a wait for the rest of a message of which only a part has come: the pipe gets an end."""
        self._gone = self.lost()
        for worker in self._workers:
            worker.kill()
        self._worker_result_queue._writer.close()


if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):
    # In the server, which imports this for its workers: by itself it lives as long as they do, and one that stands
    # still would never end.
    end_with_parent()
