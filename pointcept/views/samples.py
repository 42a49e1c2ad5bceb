"""Training samples as networks get them: what augmentations and mixing make of a scan."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pointcept.datasets import Draw, build_dataset, point_collate_fn
from pointcept.datasets.base import BaseDataset, seed_all
from pointcept.datasets.transform import Collect
from pointcept.datasets.transform.formatting import ToTensor
from pointcept.datasets.transform.points import add_point_keys
from pointcept.engines.sampler import draw_seed
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError
from pointcept.views.scene import TRUTH, Classes, Scene

logger = logging.getLogger(__name__)

SOURCE = "source_scan"
"""Per-point entry: the index of the scan that a point was read from."""


class Traced:
    """A training set whose points know which scan they come from.

    Args:
        dataset: its ``read`` is replaced, which transforms that mix scans call too.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset
        self._read = dataset.read
        dataset.read = self.read  # type: ignore[method-assign]
        chain = dataset.transform.transforms
        stop = next((i for i, step in enumerate(chain) if isinstance(step, (ToTensor, Collect))), len(chain))
        self.steps = chain[:stop]

    def read(self, idx: int) -> dict[str, Any]:
        """Scan ``idx`` with :data:`SOURCE`."""
        sample = self._read(idx)
        sample[SOURCE] = np.full(len(sample["coord"]), idx, np.int64)
        add_point_keys(sample, (SOURCE,))
        return sample

    def draw(self, draw: Draw) -> dict[str, Any]:
        """The sample of a draw up to where it becomes tensors: its points, classes, strengths and sources."""
        seed_all(draw.seed)
        sample = self.read(draw.index)
        for step in self.steps:
            sample = step(sample)
        kept = {key: sample[key] for key in ("coord", "segment", "strength", SOURCE) if key in sample}
        return {**{key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in kept.items()}}


def samples(cfg: Config, split: str, number: int) -> Iterator[tuple[Scene, Scene, list[str]]]:
    """Draw training samples as a training of this config does in its first pass.

    Args:
        cfg: the resolved config: ``data``, ``mix_prob`` (Mix3D), ``seed``.
        split: section of ``cfg.data``, usually train.
        number: how many, spread evenly over the scans.

    Yields:
        The scan as it lies on the disk, the sample made of it, with ``source``, and the names of what made it.

    Raises:
        ConfigError: there is no such section, or it joins several data sets.
        DataError: a scan cannot be read.
    """
    if cfg.data.get(split) is None:
        raise ConfigError(f"--split {split}: the config has no data.{split}")
    dataset = build_dataset(cfg.data[split].to_dict(), f"data.{split}")
    if not isinstance(dataset, BaseDataset) or dataset.test_mode:
        raise ConfigError(f"--samples needs one data set of training samples, data.{split} is something else")
    traced, classes = Traced(dataset), Classes.of(dataset)
    scans = len(dataset.data_list)
    for index in np.linspace(0, scans - 1, min(number, scans)).round().astype(int).tolist():
        raw = traced.read(index)
        before = _scene(dataset.get_data_name(index), raw, classes)
        yield before, *_mixed(cfg, traced, index, classes)


def _mixed(cfg: Config, traced: Traced, index: int, classes: Classes) -> tuple[Scene, list[str]]:
    """The sample of scan ``index``, by Mix3D with the next one where the draw says so, and what made it."""
    dataset = traced.dataset
    seed = cfg.seed or 0
    partner = (index + 1) % len(dataset.data_list)
    draws = [Draw(i, draw_seed(seed, 0, i)) for i in ((index, partner) if cfg.mix_prob > 0 else (index,))]
    batch = point_collate_fn([traced.draw(draw) for draw in draws], cfg.mix_prob)
    end = int(batch["offset"][0])
    arrays = {key: value[:end].numpy() for key, value in batch.items() if key != "offset"}
    found: tuple[str, ...] = ()
    source = None
    if SOURCE in arrays:
        ids, first = np.unique(arrays[SOURCE], return_index=True)
        order = np.array(sorted(ids[np.argsort(first)].tolist(), key=lambda i: i != index))  # the scan itself first
        position = np.empty(int(ids.max()) + 1, np.int16)
        position[order] = np.arange(len(order))
        source, found = position[arrays[SOURCE]], tuple(dataset.get_data_name(int(i)) for i in order)
    steps = [type(step).__name__ for step in traced.steps] + ["Mix3D"] * (len(batch["offset"]) < len(draws))
    logger.info("%s: %s", dataset.get_data_name(index), " ".join(steps))
    return _scene(f"{dataset.get_data_name(index)} as a sample", arrays, classes, source, found), steps


def _scene(
    name: str,
    sample: dict[str, Any],
    classes: Classes,
    source: np.ndarray | None = None,
    sources: tuple[str, ...] = (),
) -> Scene:
    layers = {TRUTH: np.maximum(sample["segment"], -1).astype(np.int16)} if "segment" in sample else {}
    strength = sample["strength"].reshape(-1).astype(np.float32) if "strength" in sample else None
    return Scene(name, sample["coord"].astype(np.float32), classes, layers, strength, source, sources)
