"""Data loaders of a run: who draws which samples, and how they become batches."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pointcept.datasets import collate_fn, point_collate_fn
from pointcept.datasets.base import Draw
from pointcept.datasets.concat import LABELS
from pointcept.datasets.reading import check_labels
from pointcept.engines.interrupt import HANDLED, undisturbed
from pointcept.engines.sampler import EvalSampler, TrainSampler
from pointcept.utils import comm
from pointcept.utils.device import device_count, random_state, set_random_state
from pointcept.utils.errors import ConfigError, DataError, MachineError
from pointcept.utils.faults import machine_fault

logger = logging.getLogger(__name__)


class ReportingDataset(Dataset):
    """Names the sample in which an error happened; otherwise the data set itself.

    Loading processes receive it pickled once for all of them, in memory that they share: a list of 28 130 scans with
    nine sweeps each is 70 MB.

    Args:
        dataset: any data set of this package.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._pickled: torch.Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._pickled is None:
            self._pickled = torch.frombuffer(bytearray(_pickle(self.dataset)), dtype=torch.uint8)
        return {"_pickled": self._pickled}

    def __getattr__(self, name: str) -> Any:
        # In a loading process, at the first sample: an error then reaches the user as one of that sample.
        if name != "dataset":
            raise AttributeError(name)
        assert self._pickled is not None
        self.dataset = pickle.loads(self._pickled.numpy().data)
        return self.dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        """Sample of ``draw``.

        Raises:
            DataError: the sample's own, with its name put before the message; so are faults of disk and memory.
            RuntimeError: any other error of its transforms, likewise.
        """
        try:
            sample = self.dataset[draw]
            if not hasattr(self.dataset, "asks_for_scans"):  # the others check where they read
                for key in LABELS:
                    if isinstance(sample, Mapping) and sample.get(key) is not None:
                        check_labels(sample[key], self.dataset.num_classes, self.dataset.ignore_index)
            return sample
        except (ConfigError, DataError) as error:
            raise type(error)(f"{self._name(draw)}: {error}") from error
        except Exception as error:
            fault = machine_fault(error)
            if fault is not None:
                raise DataError(f"{self._name(draw)}: {fault}") from error
            raise RuntimeError(f"{self._name(draw)}: {type(error).__name__}: {error}") from error

    def _name(self, draw: Draw) -> str:
        return f"{sample_name(self.dataset, draw.index)}, seed {draw.seed}"


def sample_name(dataset: Any, index: int) -> str:
    """A sample in messages: its number and, where the data set knows it, the name of its scan."""
    scans = getattr(dataset, "data_list", None)
    if not scans or not hasattr(dataset, "get_data_name"):
        return f"sample {index}"
    return f"sample {index} ({dataset.get_data_name(index % len(scans))})"


def _pickle(dataset: Any) -> bytes:
    try:
        return pickle.dumps(dataset)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{type(dataset).__name__} cannot be sent to loading processes ({error}): define its class and its "
            "transforms at the top level of a module, or set num_worker=0"
        ) from error


def per_process(total: int | None, name: str, default: int = 1) -> int:
    """This process's part of a number that the config gives for the whole run.

    Args:
        total: the number, or ``None`` for ``default`` per process.
        name: the config key, for the message.
        default: per process.

    Raises:
        ConfigError: the number is not divisible by the number of processes.
    """
    if total is None:
        return default
    world = comm.world_size()
    if total % world:
        raise ConfigError(f"{name}={total} is not divisible by the number of processes {world}")
    return total // world


def check_fit(cfg: Any, model: Any, dataset: Any, place: str) -> None:
    """Check that the network, the data set and what the config says of the data have the same classes.

    Args:
        cfg: ``data.num_classes`` and ``data.names``, where it gives them.
        model: the network that is deployed; one without ``num_classes`` is not checked.
        dataset: gives ``num_classes``.
        place: of the data set in the config.

    Raises:
        ConfigError: another number of classes; on a GPU the loss would end the process without a reason.
    """
    name, classes = type(dataset).__name__, dataset.num_classes
    own = getattr(model, "num_classes", None)
    if own is not None and own != classes:
        raise ConfigError(f"model.num_classes={own}, but {name} has {classes} classes: they must agree", place)
    said = cfg.data.get("num_classes")
    if said is not None and said != classes:
        raise ConfigError(f"got {said}, but {name} of {place} has {classes} classes", "data.num_classes")
    names = cfg.data.get("names")
    if names is not None and len(names) != classes:
        raise ConfigError(f"got {len(names)} names, but {name} of {place} has {classes} classes", "data.names")


def collate_val(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate validation samples so that ``inverse`` counts through the whole batch.

    Args:
        samples: ``inverse`` (P,) of each one points into its own voxels.

    Returns:
        The collated batch; ``logits[inverse]`` belongs to ``origin_segment``, for any number of scans.
    """
    start, shifted = 0, []
    for sample in samples:
        entry = dict(sample)
        if "inverse" in entry:
            entry["inverse"] = torch.as_tensor(entry["inverse"]) + start
            start += len(entry["coord"])
        for key in ("segment", "origin_segment"):
            if key in entry:
                entry[key] = torch.as_tensor(entry[key])
        shifted.append(entry)
    return collate_fn(shifted)


def first(samples: Sequence[Any]) -> Any:
    """The only sample of a batch of one."""
    return samples[0]


def _start_worker(worker: int) -> None:
    # A signal reaches every process of the terminal or the job; the workers are ended by the main process,
    # which wants to finish its step and save.
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = report_from_thread
    threading.Thread(target=_end_with_main, daemon=True).start()


def report_from_thread(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an exception of a thread in a loading process, unless the main process hung up while it took a batch.

    The main process fetches shared memory from a thread here (multiprocessing.resource_sharer). When it is interrupted
    in the middle it says so itself; a traceback from here would hide its one line.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_with_main() -> None:
    """End this process when the one that it loads for is gone; its own parent is the fork server."""
    main = multiprocessing.parent_process()
    assert main is not None
    main.join()
    os._exit(1)


def worker_context() -> BaseContext:
    """How loading processes start: forked from a server process that holds nothing but imported modules.

    By default the processes of a run on several GPUs, which are spawned themselves, would spawn theirs: one after
    the other, each importing everything anew, which kept two ranks with 28 workers still for a minute before the
    first evaluation. A run on one GPU would fork a process with the threads and locks of CUDA. The server starts
    once per process and imports in the background; a worker of it is there in milliseconds.

    What workers receive is pickled: data sets and transforms are objects of importable classes, and a script has
    ``if __name__ == "__main__"`` around what it runs.
    """
    context = multiprocessing.get_context("forkserver")
    # The script is imported once in the server; otherwise each worker would import it again.
    context.set_forkserver_preload(["__main__", __name__])
    with undisturbed():
        resource_tracker.ensure_running()
    with undisturbed():  # anew: starting the tracker lets some signals through again
        forkserver.ensure_running()
    return context


class Loader(DataLoader):
    """A data loader that can be closed, and that leaves the random generators of this process as they are.

    Without loading processes the samples seed and use them here; what the model draws would otherwise
    depend on the number of loading processes.
    """

    def close(self) -> None:
        """End the loading processes.

        After an error its traceback keeps them alive: the garbage collector then waits five seconds for
        them, or Python ends them at its exit, which torch reports as a crash.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is not None and self.num_workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]
            for worker in iterator._workers:  # type: ignore[attr-defined]
                worker.kill()  # one that hangs; it ignores gentler signals

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        return self._told(batches) if self.num_workers else self._undisturbed(batches)

    @staticmethod
    def _told(batches: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from batches
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise MachineError(
                f"{str(error).splitlines()[0].rstrip('.')}: a loading process was ended from outside, most often for "
                "lack of memory or of room in /dev/shm: lower num_worker or batch_size"
            ) from error

    @staticmethod
    def _undisturbed(batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            state = random_state()
            try:
                batch = next(batches, None)
            finally:
                set_random_state(state)
            if batch is None:
                return
            yield batch


def _loader(
    dataset: Any, sampler: Sampler, batch_size: int, collate: Callable[..., Any], workers: int, seed: int
) -> Loader:
    # Its own generator: otherwise each new pass takes a number from torch's global one, and a run
    # resumed within an epoch would no longer be the same.
    generator = torch.Generator()
    generator.manual_seed(seed)
    workers = -(-workers // comm.world_size())
    return Loader(
        ReportingDataset(dataset),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device_count() > 0,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context=worker_context() if workers else None,
        generator=generator,
    )


def train_loader(dataset: Any, sampler: TrainSampler, cfg: Any) -> Loader:
    """The loader of training batches.

    Args:
        dataset: yields samples for :class:`Draw`.
        sampler: decides what an iteration yields.
        cfg: ``batch_size``, ``mix_prob``, ``num_worker``, ``seed``.

    Raises:
        ConfigError: ``batch_size`` is not divisible by the number of processes.
    """
    collate = partial(point_collate_fn, mix_prob=cfg.mix_prob)
    batch_size = per_process(cfg.batch_size, "batch_size")
    return _loader(dataset, sampler, batch_size, collate, cfg.num_worker, cfg.seed or 0)


def eval_loader(dataset: Any, cfg: Any) -> Loader:
    """The loader of validation batches: each sample once, in order.

    Raises:
        ConfigError: ``batch_size_val`` is not divisible by the number of processes, or the data set mixes scans.
        DataError: the data set is empty.
    """
    mixes = getattr(dataset, "mixes", ())
    if mixes:
        raise ConfigError(f"data.val.transform has {', '.join(mixes)}, which mixes scans: for data.train only")
    batch_size = per_process(cfg.batch_size_val, "batch_size_val")
    return _loader(dataset, _eval_sampler(dataset), batch_size, collate_val, cfg.num_worker, 0)


def scan_loader(dataset: Any, cfg: Any) -> Loader:
    """The loader of the tester: one scan at a time, with all its fragments.

    Raises:
        DataError: the data set is empty.
    """
    return _loader(dataset, _eval_sampler(dataset), 1, first, min(cfg.num_worker, 4 * comm.world_size()), 0)


def _eval_sampler(dataset: Any) -> EvalSampler:
    if len(dataset) == 0:
        raise DataError("the evaluation set is empty: check data_root and the split in the config")
    return EvalSampler(len(dataset), rank=comm.rank(), world_size=comm.world_size())
