"""What a run needs is tried before it begins: values that a config gives, and its parts against each other.

Nothing is written and no scan is read here. Every part is built by its own constructor, which is where values are
checked, and thrown away again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from pointcept.datasets import DATASETS
from pointcept.datasets.arguments import check_dataset
from pointcept.datasets.transform import Collect
from pointcept.engines.data import check_fit
from pointcept.engines.hooks.builder import build_hooks, check_hooks
from pointcept.engines.test import TESTERS, tested_section
from pointcept.engines.train import TRAINERS
from pointcept.models import build_inference_model, build_model, deployable
from pointcept.models.losses import LOSSES
from pointcept.models.segmentor import Segmentor
from pointcept.utils.checks import check_integer, refused
from pointcept.utils.errors import ConfigError, did_you_mean, inside
from pointcept.utils.optimizer import try_optimizer
from pointcept.utils.registry import Registry, default_of
from pointcept.utils.scheduler import build_scheduler

DATA_KEYS = ("num_classes", "ignore_index", "names", "train", "val", "test")
STEPS = 1000
"""Length of the schedule that is tried; the real one follows from the data."""


def check_training(cfg: Any) -> None:
    """Check what a training builds.

    Args:
        cfg: the resolved config.

    Raises:
        ConfigError: a value is wrong or parts contradict each other; the message begins with the place.
        CheckpointError: the weights of a teacher are missing, damaged or do not fit.
    """
    with _silence(), _source(cfg):
        _check_data(cfg)
        trainer = TRAINERS.get(cfg.train["type"])
        if hasattr(trainer, "check_config"):
            trainer.check_config(cfg)
        hooks = build_hooks(cfg.hooks)
        check_hooks(cfg, hooks)
        sections = ["train", *(["val"] if cfg.evaluate else []), *(s for hook in hooks for s in hook.sections(cfg))]
        model = build_model(cfg.model)
        network = deployable(model)
        if isinstance(network, Segmentor) and network.criteria is None:
            raise ConfigError("training needs labels and criteria: give the model criteria=[...]", "model")
        _check_sets(cfg, network, list(dict.fromkeys(sections)))
        optimizer = try_optimizer(cfg.optimizer, model, cfg.param_dicts)
        build_scheduler(cfg.scheduler, optimizer, cfg.train.get("max_iter") or STEPS)


def check_test(cfg: Any) -> None:
    """Check what a test builds.

    Raises:
        ConfigError: see :func:`check_training`.
    """
    with _silence(), _source(cfg):
        _check_data(cfg)
        TESTERS.check(cfg.test, "test", ("cfg",))
        model = build_inference_model(cfg.model)
        _check_sets(cfg, model, [tested_section(cfg)])


def check_prediction(cfg: Any, sections: Sequence[str]) -> None:
    """Check what a prediction of single scans builds.

    Args:
        cfg: the resolved config.
        sections: those of ``cfg.data`` whose transforms it takes.

    Raises:
        ConfigError: see :func:`check_training`.
    """
    with _silence(), _source(cfg):
        _check_data(cfg)
        model = build_inference_model(cfg.model)
        _check_sets(cfg, model, sections, labels=False)


def _check_data(cfg: Any) -> None:
    """Check the section ``data`` itself."""
    data = cfg.data
    for key in data:
        if key not in DATA_KEYS:
            raise ConfigError(f"takes no {key!r}: {did_you_mean(str(key), DATA_KEYS)}", "data")
    with inside("data"):
        if data.get("num_classes") is not None:
            check_integer("num_classes", data["num_classes"], 1)
        if data.get("ignore_index") is not None:
            check_integer("ignore_index", data["ignore_index"])
        names = data.get("names")
        if names is not None and not (isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names)):
            raise refused("names", names, "a list of names")


def _check_sets(cfg: Any, model: nn.Module, sections: Sequence[str], labels: bool = True) -> None:
    """Check the data sets of a run, without their scans, and whether they, the network and its losses fit."""
    for section in sections:
        place = f"data.{section}"
        if section not in cfg.data:
            raise ConfigError(f"there is no {place}, which this run needs", "data")
        dataset = check_dataset(cfg.data[section], place)
        if dataset is not None:
            _check_mode(dataset, section)
            if section == "val" and labels:
                _check_labelled(dataset)
            check_fit(cfg, model, dataset, place)
        ignored = dataset.ignore_index if dataset is not None else _ignored(cfg.data[section], DATASETS)
        if ignored is not None:
            _check_ignored(cfg.model, ignored, "model", place)
            if cfg.data.get("ignore_index") not in (None, ignored):
                raise refused("data.ignore_index", cfg.data["ignore_index"], f"{ignored}, as {place} has it")


def _check_mode(dataset: Any, section: str) -> None:
    """Check that a data set gives fragments where the tester reads it, and samples where batches are made."""
    wanted = section == "test"
    for part in getattr(dataset, "datasets", [dataset]):
        if part.test_mode != wanted:
            words = "True and test_cfg, for the tester (or test.quick=True)" if wanted else "False"
            raise refused(f"data.{section}: test_mode", part.test_mode, words)


def _check_labelled(dataset: Any) -> None:
    """Check that validation batches have labels."""
    for part in getattr(dataset, "datasets", [dataset]):
        if part.unlabelled:
            raise refused("data.val: unlabelled", True, "False, since an evaluation needs labels")
        last = part.transform.transforms[-1] if part.transform.transforms else None
        if isinstance(last, Collect) and "segment" not in last.keys:
            raise refused("data.val: keys of Collect", last.keys, "with 'segment', which an evaluation needs")


def _ignored(cfg: Mapping[str, Any], registry: Registry) -> int | None:
    """What ``cfg`` gives as ``ignore_index``, or its class by default; None where it has no such argument."""
    found: int | None = cfg.get("ignore_index", default_of(registry.get(cfg["type"]), "ignore_index"))
    return found


def _check_ignored(cfg: Any, ignored: int, at: str, place: str) -> None:
    """Check that every criterion below ``cfg`` ignores the label that the data set ignores.

    Raises:
        ConfigError: one of them ignores another label; points of a class would not be learned.
    """
    if isinstance(cfg, Mapping):
        kind = cfg.get("type")
        if isinstance(kind, str) and kind in LOSSES:
            own = _ignored(cfg, LOSSES)
            if own is not None and own != ignored:
                raise refused(f"{at}.ignore_index", own, f"{ignored}, the ignore_index of {place}")
        for key, value in cfg.items():
            _check_ignored(value, ignored, f"{at}.{key}", place)
    elif isinstance(cfg, (list, tuple)):
        for i, value in enumerate(cfg):
            _check_ignored(value, ignored, f"{at}.{i}", place)


@contextmanager
def _source(cfg: Any) -> Iterator[None]:
    """Put the config's file before the message of a ``ConfigError``."""
    try:
        yield
    except ConfigError as error:
        source = getattr(cfg, "_source", "")
        if not source:
            raise
        raise ConfigError(f"{source}: {error}").with_traceback(error.__traceback__) from error.__cause__


@contextmanager
def _silence() -> Iterator[None]:
    """No log lines: what is built here is built once more, and then says what it has to say."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
