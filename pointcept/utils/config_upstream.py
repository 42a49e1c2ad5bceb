"""Configs of Pointcept, of any version: what has another name here, and what has no meaning.

The names of this framework are those of Pointcept, so its configs need no conversion. What differs between the two, or
between Pointcept's own versions, stands here and nowhere else: the tables are applied to every config that is read,
and each thing that is renamed or left out is named in one warning.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pointcept.utils.errors import ConfigError
from pointcept.utils.registry import registries

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gone:
    """A type or an argument that does not exist here.

    Args:
        reason: why, as the end of a sentence.
        harmless: values under which it changes nothing; any other one is an error. None: it never matters.
    """

    reason: str
    harmless: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Renamed:
    """A type or an argument with another name here."""

    name: str


_LOG = "runs are logged to TensorBoard and to a text file only"
_LAUNCH = "the command line says it: --num-gpus, --num-machines, --machine-rank, --dist-url"
_PER_GPU = "it follows from the number for the whole run"
_PROFILE = "tools/benchmark.py --stages measures where the time goes"
_CACHE = "the operating system keeps files in memory that were read before"
_OTHER_MODEL = "it belongs to another network"

KEYS: dict[str, str] = {
    "enable_wandb": _LOG,
    "wandb_project": _LOG,
    "wandb_key": _LOG,
    "empty_cache_per_epoch": "'empty_cache' is the one switch",
    "max_batch_points": "bound the points of a scan with SphereCrop",
    "save_freq": "it is an argument of the hook CheckpointSaver",
    "eval_metric": "it is the argument 'metric' of the hook SemSegEvaluator",
    "metric": "it is the argument 'metric' of the hook SemSegEvaluator",
    "num_worker_per_gpu": _PER_GPU,
    "batch_size_per_gpu": _PER_GPU,
    "batch_size_val_per_gpu": _PER_GPU,
    "batch_size_test_per_gpu": _PER_GPU,
    "distributed": _LAUNCH,
    "dist_url": _LAUNCH,
    "dist_backend": _LAUNCH,
    "world_size": _LAUNCH,
    "rank": _LAUNCH,
}
"""Top-level keys without a meaning."""

TYPES: dict[str, Gone | Renamed] = {
    "ModelHook": Gone("it calls networks that are hooks themselves, and none here is one"),
    "GarbageHandler": Gone("Python collects garbage by itself"),
    "DataCacheOperator": Gone(_CACHE),
    "RuntimeProfiler": Gone(_PROFILE),
    "RuntimeProfilerV2": Gone(_PROFILE),
    "WeightDecaySchedular": Gone("the weight decay stays what the optimizer says"),
    "SegmentationTest": Renamed("SemSegTester"),
    "Voxelize": Renamed("GridSample"),
}
"""Types; those that are gone are hooks, which are left out of the list."""

_DATASET = {"cache": Gone(_CACHE)}
_LOSS = {
    "reduction": Gone("the loss is the mean over the points that count", ("mean",)),
    "size_average": Gone("the loss is the mean over the points that count", (None, True)),
    "reduce": Gone("the loss is the mean over the points that count", (None, True)),
}
_SCHEDULE = {
    "last_epoch": Gone("resume=True goes on with a schedule", (-1,)),
    "verbose": Gone("the log shows the rates"),
}

ARGUMENTS: dict[str, Mapping[str, Gone | Renamed]] = {
    "PT-v3m1": {name: Gone(_OTHER_MODEL, (False,)) for name in ("traceable", "mask_token", "freeze_encoder")},
    "SemanticKITTIDataset": _DATASET,
    "NuScenesDataset": _DATASET,
    "WaymoDataset": {
        **_DATASET,
        "timestamp": Gone("a sample is one scan", ((0,),)),
        "reference_label": Gone("a sample is one scan", (True,)),
        "timing_embedding": Gone("a sample is one scan", (False,)),
    },
    "GridSample": {"return_discrete_coord": Renamed("return_grid_coord"), "voxel_size": Renamed("grid_size")},
    "CrossEntropyLoss": _LOSS,
    "FocalLoss": _LOSS,
    "LovaszLoss": {"per_image": Gone("the loss is that of the whole batch", (False,))},
    "InformationWriter": {"interval": Renamed("log_freq"), "log_interval": Renamed("log_freq")},
    "SemSegEvaluator": {"write_cls_iou": Gone("the log has a table of all classes after each evaluation")},
    **dict.fromkeys(
        ("OneCycleLR", "MultiStepLR", "MultiStepWithWarmupLR", "PolyLR", "ExpLR", "CosineAnnealingLR"), _SCHEDULE
    ),
}
"""Arguments, by the type that takes them there."""

ENTRIES = {"discrete_coord": "grid_coord"}
"""Entries of a sample, in the arguments of ``Collect``."""


def adopt(cfg: dict[str, Any]) -> None:
    """Write ``cfg`` in the words of this framework, in place, with one warning for each thing that changes.

    Names that something has registered stay what they are.

    Raises:
        ConfigError: an argument that does not exist here has a value that would matter.
    """
    changes = _Changes(getattr(cfg, "_source", ""))
    if isinstance(cfg.get("hooks"), (list, tuple)):
        cfg["hooks"] = [hook for hook in cfg["hooks"] if not changes.drops(hook)]
    for key, value in list(cfg.items()):
        cfg[key] = changes.rewrite(value, key)
    changes.rates(cfg)
    for text in changes.told:
        logger.warning("%s%s", changes.prefix, text)


class _Changes:
    """One pass over a config; ``told`` collects what it did, each thing once."""

    def __init__(self, source: str) -> None:
        self.prefix = f"{source}: " if source else ""
        self.told: dict[str, None] = {}

    def tell(self, text: str) -> None:
        self.told[text] = None

    def drops(self, hook: Any) -> bool:
        """Whether a hook is left out."""
        name = hook.get("type") if isinstance(hook, Mapping) else None
        change = None if _registered(name) else TYPES.get(str(name))
        if isinstance(change, Gone):
            self.tell(f"the hook {name!r} is left out: {change.reason}")
        return isinstance(change, Gone)

    def rewrite(self, value: Any, path: str) -> Any:
        """``value`` with the types and arguments of everything below it in our words."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.rewrite(item, f"{path}.{i}") for i, item in enumerate(value))
        if not isinstance(value, Mapping):
            return value
        node = dict(value)
        if isinstance(node.get("type"), str):
            node = self._arguments(self._type(node), path)
        return {key: self.rewrite(item, f"{path}.{key}") for key, item in node.items()}

    def _type(self, node: dict[str, Any]) -> dict[str, Any]:
        name = node["type"]
        change = None if _registered(name) else TYPES.get(name)
        if not isinstance(change, Renamed):
            return node
        self.tell(f"the type {name!r} is called {change.name!r} here")
        return {**node, "type": change.name}

    def _arguments(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        kind = node["type"]
        taken, result = _parameters(kind), {}
        for key, value in node.items():
            change = None if key in taken else ARGUMENTS.get(kind, {}).get(key)
            if isinstance(change, Renamed):
                self.tell(f"the argument {key!r} of {kind} is called {change.name!r} here")
                if change.name in node:
                    raise ConfigError(f"{self.prefix}{path}: {kind} got both {change.name!r} and {key!r}: keep one")
                key = change.name
            elif isinstance(change, Gone):
                plain = tuple(value) if isinstance(value, list) else value
                if change.harmless is not None and plain not in change.harmless:
                    raise ConfigError(f"{self.prefix}{path}: {kind} has no {key}={value!r} here: {change.reason}")
                self.tell(f"the argument {key!r} of {kind} is ignored: {change.reason}")
                continue
            result[key] = self._entries(value) if kind == "Collect" else value
        return result

    def _entries(self, value: Any) -> Any:
        """Names of entries of a sample, one or several."""
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._entries, value))
        if not isinstance(value, str) or value not in ENTRIES:
            return value
        self.tell(f"the entry {value!r} of a sample is called {ENTRIES[value]!r} here")
        return ENTRIES[value]

    def rates(self, cfg: dict[str, Any]) -> None:
        """``lr_scale`` of the groups of parameters becomes the rate that it stands for."""
        rate = (cfg.get("optimizer") or {}).get("lr")
        if not isinstance(cfg.get("param_dicts"), (list, tuple)) or not isinstance(rate, (int, float)):
            return
        groups = []
        for group in cfg["param_dicts"]:
            scale = group.get("lr_scale") if isinstance(group, Mapping) else None
            if isinstance(scale, (int, float)) and "lr" not in group:
                group = {**{key: value for key, value in group.items() if key != "lr_scale"}, "lr": rate * scale}
                self.tell("'lr_scale' of param_dicts becomes 'lr', that share of the optimizer's")
            groups.append(group)
        cfg["param_dicts"] = groups


def _entries_called(name: Any) -> Iterable[Any]:
    return [registry.get(name) for registry in registries().values() if name in registry]


def _registered(name: Any) -> bool:
    return bool(_entries_called(name))


def _parameters(name: str) -> set[str]:
    """The arguments that any entry of this name takes."""
    return {parameter for entry in _entries_called(name) for parameter in inspect.signature(entry).parameters}
