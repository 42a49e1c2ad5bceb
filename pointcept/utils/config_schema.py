"""The top-level keys of a config: types, defaults and meaning, in this one table.

Names are those that users of Pointcept know; keys that it has and that mean nothing here stand in
``config_upstream``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pointcept.utils.device import AMP_DTYPES
from pointcept.utils.errors import ConfigError

NoneType = type(None)
TYPE_NAMES = {NoneType: "None", dict: "a dict", list: "a list", str: "a string", int: "an int", float: "a number"}


class _Required:
    """Marks a key without a default."""


REQUIRED = _Required()


@dataclass(frozen=True)
class Field:
    """What one top-level key may hold.

    Args:
        types: accepted types; ``float`` accepts ints, ``int`` does not accept bools, ``list``
            accepts tuples.
        default: the value when the config gives none, or ``REQUIRED``.
        meaning: one sentence with units.
        minimum: smallest accepted number.
        maximum: largest accepted number.
        choices: accepted strings.
    """

    types: tuple[type, ...]
    default: Any
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def allowed(self) -> str:
        """The accepted values in words."""
        names = [TYPE_NAMES.get(t, "True or False" if t is bool else t.__name__) for t in self.types]
        words = " or ".join(names)
        if self.choices:
            words = " or ".join([repr(c) for c in self.choices])
        if self.minimum is not None:
            words += f", at least {self.minimum}"
        if self.maximum is not None:
            words += f", at most {self.maximum}"
        return words

    def accepts(self, value: Any) -> bool:
        """Whether ``value`` may stand under this key."""
        if not any(_is_a(value, t) for t in self.types):
            return False
        if self.choices and value not in self.choices:
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.minimum is not None and value < self.minimum:
                return False
            if self.maximum is not None and value > self.maximum:
                return False
        return True


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is list:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind)


OPTIONAL_PATH = (str, NoneType)
OPTIONAL_COUNT = (int, NoneType)
MOST = 2**16  # scans or batches held at a time, far more than any machine holds

SCHEMA: dict[str, Field] = {
    "weight": Field(OPTIONAL_PATH, None, "Checkpoint to start from, to resume or to test."),
    "resume": Field((bool,), False, "Continue the run of save_path, or that of 'weight'; begin if there is none."),
    "resume_changes": Field(
        (bool,), False, "With 'resume': go on although keys differ from those of the run that change what is computed."
    ),
    "evaluate": Field((bool,), True, "Evaluate on data.val after each evaluation epoch."),
    "test_only": Field((bool,), False, "Build no training data; the tester works alone."),
    "seed": Field(
        OPTIONAL_COUNT,
        None,
        "Seed of every random generator; None draws one and records it.",
        minimum=0,
        maximum=2**63 - 1,
    ),
    "deterministic": Field((bool,), False, "Ask torch for deterministic kernels; slower."),
    "save_path": Field((str,), "exp/default", "Folder of the run: log, config, checkpoints, results."),
    "miou_result_path": Field(OPTIONAL_PATH, None, "JSON file for the results; None puts it into save_path."),
    "data_root": Field(
        OPTIONAL_PATH, None, "Folder of the data set; changing it changes data.*.data_root that equal the former value."
    ),
    "num_worker": Field((int,), 8, "Data loading processes, summed over all GPUs.", minimum=0, maximum=4096),
    "batch_size": Field((int,), 16, "Training scans per step, summed over all GPUs.", 1, MOST),
    "batch_size_val": Field(
        OPTIONAL_COUNT, None, "Validation scans per step; None is one per GPU.", minimum=1, maximum=MOST
    ),
    "batch_size_test": Field(
        OPTIONAL_COUNT, None, "Test fragments per step; None is one per GPU.", minimum=1, maximum=MOST
    ),
    "gradient_accumulation_steps": Field(
        (int,), 1, "Steps whose gradients are added before an update.", minimum=1, maximum=MOST
    ),
    "epoch": Field((int,), 100, "Passes over the training data.", minimum=1),
    "eval_epoch": Field((int,), 100, "How many times to evaluate and save; divides 'epoch'.", minimum=1),
    "log_freq": Field((int,), 10, "Steps between two log lines.", minimum=1),
    "skip_nonfinite": Field(
        (int,),
        0,
        "Training steps that may be left out for a loss or gradient that is no number; above 0, steps wait.",
        minimum=0,
    ),
    "skip_out_of_memory": Field(
        (int,), 0, "Training steps that may be left out for lack of memory; without CUDA graphs.", minimum=0
    ),
    "clip_grad": Field((float, NoneType), None, "Largest norm of the gradient; None does not clip.", minimum=0),
    "sync_bn": Field((bool,), False, "Share batch statistics over the GPUs."),
    "enable_amp": Field((bool,), False, "Automatic mixed precision."),
    "amp_dtype": Field((str,), "float16", "Half precision that AMP uses.", choices=tuple(AMP_DTYPES)),
    "backend": Field(
        (str, NoneType), None, "Implementations of operations, as in POINTCEPT_BACKEND, which goes before this key."
    ),
    "cuda_graphs": Field(
        (bool,), True, "Train as CUDA graphs where the model allows: much faster, same results; off if memory is short."
    ),
    "empty_cache": Field((bool,), False, "Return cached GPU memory after each step; slower."),
    "find_unused_parameters": Field((bool,), False, "Tell DDP that some parameters may get no gradient."),
    "mix_prob": Field((float,), 0, "Probability of Mix3D on a training batch.", minimum=0, maximum=1),
    "param_dicts": Field((list, NoneType), None, "Groups of parameters with their own lr: [dict(keyword=, lr=)]."),
    "model": Field((dict,), REQUIRED, "Segmentor or distiller, from the registry of models."),
    "optimizer": Field((dict, NoneType), None, "Optimizer, from its registry; needed for training."),
    "scheduler": Field((dict, NoneType), None, "Learning rate schedule, from its registry; needed for training."),
    "data": Field((dict,), REQUIRED, "num_classes, ignore_index, names and the data sets train, val, test."),
    "hooks": Field(
        (list,),
        [
            {"type": "CheckpointLoader"},
            {"type": "IterationTimer"},
            {"type": "InformationWriter"},
            {"type": "SemSegEvaluator"},
            {"type": "CheckpointSaver"},
            {"type": "PreciseEvaluator"},
        ],
        "What runs beside the training loop.",
    ),
    "train": Field((dict,), {"type": "DefaultTrainer"}, "The trainer, from its registry."),
    "test": Field((dict,), {"type": "SemSegTester"}, "The tester, from its registry."),
}


def defaults() -> dict[str, Any]:
    """A fresh copy of every default."""
    return {key: copy.deepcopy(f.default) for key, f in SCHEMA.items() if f.default is not REQUIRED}


def check_schema(tree: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Check the type and the range of every top-level value.

    Args:
        tree: config with schema keys only.
        origin: who set a key, for the message: a file name or ``--options``.

    Raises:
        ConfigError: a value that its key does not accept.
    """
    for key, value in tree.items():
        field = SCHEMA[key]
        if not field.accepts(value):
            where = f"{origin[key]}: " if key in origin else ""
            raise ConfigError(f"{where}{key}: got {value!r} ({type(value).__name__}), allowed: {field.allowed()}")


def check_plain(value: Any, where: str) -> None:
    """Check that ``value`` consists of what a config file can say and a dump can repeat.

    Raises:
        ConfigError: something other than None, bools, numbers, strings, lists, tuples and dicts; an int of more than
            64 bits, or a string with a NUL character, which neither paths nor libraries take.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, (str, int)):
                raise ConfigError(f"{where}: got the dict key {key!r}, allowed: strings and ints")
            check_plain(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            check_plain(item, f"{where}.{i}")
    elif not isinstance(value, (str, bool, int, float, NoneType)) or type(value).__module__ != "builtins":
        raise ConfigError(
            f"{where}: got {value!r} ({type(value).__name__}), "
            "allowed: None, bools, numbers, strings, lists, tuples and dicts"
        )
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{where}: got an int of {value.bit_length()} bits, allowed: below 2**63")
    elif isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where}: got {value!r}, allowed: a string without the character NUL")
