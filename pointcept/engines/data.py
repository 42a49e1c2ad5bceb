"""Data loaders of a run: who draws which samples, and how they become batches."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from pointcept.datasets import collate_fn, point_collate_fn
from pointcept.datasets.base import Draw
from pointcept.datasets.concat import LABELS
from pointcept.datasets.reading import check_labels
from pointcept.engines.loader import Loader
from pointcept.engines.sampler import EvalSampler, TrainSampler
from pointcept.utils import comm
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.faults import machine_fault


class ReportingDataset(Dataset):
    """Names the sample in which an error happened; otherwise the data set itself.

    Loading processes receive it pickled once for all of them, in memory that they share, if there is room: a list of
    28 130 scans with nine sweeps each is 70 MB.

    Args:
        dataset: any data set of this package.

    Attributes:
        begun: numbers of the samples that were begun last, int64: of this process, and then of each loading process;
            in memory that they share, once there are some.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.begun: torch.Tensor | np.ndarray = torch.full((1,), -1)
        self._pickled: torch.Tensor | np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        if self._pickled is None:
            self._pickled = _shared(torch.frombuffer(bytearray(_pickle(self.dataset)), dtype=torch.uint8))
        return {"_pickled": self._pickled, "begun": self.begun}

    def __getattr__(self, name: str) -> Any:
        # In a loading process, at the first sample: an error then reaches the user as one of that sample.
        if name != "dataset":
            raise AttributeError(name)
        assert self._pickled is not None
        self.dataset = pickle.loads(np.asarray(self._pickled).data)
        return self.dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        """Sample of ``draw``.

        Raises:
            DataError: the sample's own, with its name put before the message; so are faults of disk and memory.
            RuntimeError: any other error of its transforms, likewise.
        """
        worker = get_worker_info()
        self.begun[0 if worker is None else 1 + worker.id] = draw.index
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

    def share(self, workers: int) -> None:
        """Make room for what so many loading processes begin; where there is none, it stays unknown."""
        self.begun = _shared(torch.full((1 + workers,), -1)) if workers else torch.full((1,), -1)

    def begun_by(self, worker: int | None = None) -> str:
        """The sample that this process, or a loading process, has begun last."""
        index = int(self.begun[0 if worker is None else 1 + worker])
        return sample_name(self.dataset, index) if index >= 0 else "its first sample"


def sample_name(dataset: Any, index: int) -> str:
    """A sample in messages: its number and, where the data set knows it, the name of its scan."""
    scans = getattr(dataset, "data_list", None)
    if not scans or not hasattr(dataset, "get_data_name"):
        return f"sample {index}"
    return f"sample {index} ({dataset.get_data_name(index % len(scans))})"


def _shared(tensor: torch.Tensor) -> torch.Tensor | np.ndarray:
    """In shared memory; as an array, which is sent by itself, where there is no room."""
    try:
        return tensor.share_memory_()
    except RuntimeError:
        return tensor.numpy()


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


def _loader(
    dataset: Any, sampler: Sampler, batch_size: int, collate: Callable[..., Any], workers: int, seed: int
) -> Loader:
    workers = -(-workers // comm.world_size())
    return Loader(ReportingDataset(dataset), sampler, batch_size, collate, workers, seed)


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
    return _loader(dataset, eval_sampler(dataset), batch_size, collate_val, cfg.num_worker, 0)


def scan_loader(dataset: Any, cfg: Any, without: Collection[int] = ()) -> Loader:
    """The loader of the tester: one scan at a time, with all its fragments.

    Args:
        dataset: in test mode.
        cfg: ``num_worker``.
        without: numbers of scans that are left out.

    Raises:
        DataError: the data set is empty.
    """
    workers = min(cfg.num_worker, 4 * comm.world_size(), len(dataset) - len(without))
    return _loader(dataset, eval_sampler(dataset, without), 1, first, workers, 0)


def eval_sampler(dataset: Any, without: Collection[int] = ()) -> EvalSampler:
    """This process's share of a data set, each sample once and in order.

    Raises:
        DataError: the data set is empty.
    """
    if len(dataset) == 0:
        raise DataError("the evaluation set is empty: check data_root and the split in the config")
    return EvalSampler(len(dataset), rank=comm.rank(), world_size=comm.world_size(), without=set(without))
