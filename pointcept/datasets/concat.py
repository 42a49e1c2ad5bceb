"""Several data sets as one, with their own classes or in a label space that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from pointcept.utils.checks import check_integer, refused
from pointcept.utils.errors import ConfigError, inside

from .base import BaseDataset, Draw
from .builder import DATASETS, build_dataset
from .label_space import label_space as find_label_space

LABELS = ("segment", "origin_segment")
"""The entries of a sample that hold classes."""


@DATASETS.register_module()
class ConcatDataset(Dataset):
    """The samples of several data sets, one set after the other; a shuffling sampler mixes them.

    Args:
        datasets: their configs. ``loop`` of each is its weight: an epoch goes through its scans that often.
        data_root: their ``data_root`` is relative to this folder, unless it is absolute.
        label_space: name in ``pointcept.datasets.label_space.LABEL_SPACES`` of the classes to use; None where all
            data sets have the same classes.
        loop: how often an epoch goes through all of it.

    Raises:
        ConfigError: an argument is wrong, or the classes of the data sets do not go together.
        DataError: files are missing.
    """

    built_from: ClassVar = {"datasets": "datasets"}

    def __init__(
        self,
        datasets: Sequence[Mapping[str, Any]],
        data_root: str | Path = "",
        label_space: str | None = None,
        loop: int = 1,
    ) -> None:
        check_integer("loop", loop, 1)
        if not datasets:
            raise refused("datasets", datasets, "configs of one or more data sets")
        self.datasets: list[BaseDataset] = [_build(cfg, Path(data_root), i) for i, cfg in enumerate(datasets)]
        self.loop = loop
        self.ignore_index = _common("ignore_index", self.datasets)
        self.names: tuple[str, ...]
        if label_space is None:
            self._tables: list[np.ndarray] | None = None
            self.names = _common("names", self.datasets)
        else:
            with inside("label_space"):
                space = find_label_space(label_space)
            self.names = space.names
            self._tables = [space.table(type(d).__name__, d.names, self.ignore_index) for d in self.datasets]
        self.data_list = [(number, index) for number, d in enumerate(self.datasets) for index in range(len(d))]

    asks_for_scans = True  # of the data sets that it joins

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def mixes(self) -> list[str]:
        """The transforms that mix scans, each within its data set."""
        return [name for dataset in self.datasets for name in dataset.mixes]

    def get_data_name(self, idx: int) -> str:
        """Name of sample ``idx`` in [0, len(data_list)): number of its data set / its name there."""
        number, index = self.data_list[idx]
        dataset = self.datasets[number]
        return f"{number}/{dataset.get_data_name(index % len(dataset.data_list))}"

    @classmethod
    def find_scans(cls, path: Path) -> list[Path]:
        """There are none: single files have the format of one data set.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a ConcatDataset reads no single scan files: name one data set, with all of its data.test")

    def write_submission(self, folder: str | Path, name: str, pred: Any) -> Path:
        """There is none: benchmarks judge one data set.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a ConcatDataset has no submission format: test each data set with a config of its own")

    def __getitem__(self, item: int | Draw) -> dict[str, Any]:
        """Sample ``item`` of its data set, see :meth:`BaseDataset.__getitem__`, with classes of :attr:`names`.

        Raises:
            IndexError: the index is outside [0, len(self)).
        """
        position = item.index if isinstance(item, Draw) else int(item)
        if not 0 <= position < len(self):
            raise IndexError(f"index {position} is outside 0..{len(self) - 1}")
        number, index = self.data_list[position % len(self.data_list)]
        sample = dict(self.datasets[number][Draw(index, item.seed) if isinstance(item, Draw) else index])
        if "name" in sample:
            sample["name"] = f"{number}/{sample['name']}"
        if self._tables is not None:
            for key in LABELS:
                if key in sample:
                    sample[key] = self._relabel(sample[key], self._tables[number])
        return sample

    def _relabel(self, labels: Any, table: np.ndarray) -> Any:
        """Classes int (N,) of a data set -> classes of the label space; an array stays one, and so does a tensor."""
        own = np.asarray(labels)
        mapped = np.where(own < 0, self.ignore_index, table[np.maximum(own, 0)]).astype(own.dtype)
        return torch.from_numpy(mapped) if isinstance(labels, torch.Tensor) else mapped

    def __len__(self) -> int:
        return len(self.data_list) * self.loop


def _build(cfg: Mapping[str, Any], root: Path, number: int) -> BaseDataset:
    """Build data set ``number``; its ``data_root`` is relative to ``root``."""
    where = f"datasets.{number}"
    if "data_root" not in cfg:
        message = f"each data set of a ConcatDataset needs its data_root, {cfg.get('type')!r} has none"
        raise ConfigError(message, where)
    return build_dataset({**cfg, "data_root": str(root / cfg["data_root"])}, where)


def _common(attribute: str, datasets: Sequence[BaseDataset]) -> Any:
    """The value that all data sets have in common.

    Raises:
        ConfigError: they differ.
    """
    first = getattr(datasets[0], attribute)
    for other in datasets[1:]:
        if getattr(other, attribute) != first:
            raise ConfigError(
                f"a ConcatDataset of different {attribute}: {first} of {type(datasets[0]).__name__} and"
                f" {getattr(other, attribute)} of {type(other).__name__}; label_space maps classes to common ones"
            )
    return first
