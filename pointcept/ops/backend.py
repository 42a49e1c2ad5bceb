"""The one place that chooses which implementation of an operation runs, and says why.

Every operation has the implementation ``torch`` (the reference, on any device); some have faster ones.
The first of ``auto`` that suits the device and is installed is taken. Override it with the environment,

    POINTCEPT_BACKEND=torch                        everything
    POINTCEPT_BACKEND=serialization=torch          one operation (several: comma-separated)

or from Python with :func:`override`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pointcept.utils.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

ENVIRONMENT = "POINTCEPT_BACKEND"

# operation -> backend -> "module:function"; the order is the order of preference
_IMPLEMENTATIONS: dict[str, dict[str, str]] = {
    "serialization": {
        "triton": "pointops.serialization:serialization_codes",
        "torch": "pointcept.ops.reference.serialization:serialization_codes",
    },
    "sparse_convolution": {
        "triton": "pointops.convolution:sparse_convolution",
        "torch": "pointcept.ops.reference.convolution:sparse_convolution",
    },
    "submanifold_map": {"torch": "pointcept.ops.reference.neighbours:submanifold_map"},
    "patch_attention": {"torch": "pointcept.ops.reference.attention:patch_attention"},
    "segment_max": {"torch": "pointcept.ops.reference.segment:segment_max"},
    "expand": {"torch": "pointcept.ops.reference.segment:expand"},
    "spanning_tree": {
        "triton": "pointops.spanning_tree:spanning_tree",
        "torch": "pointcept.ops.reference.spanning_tree:spanning_tree",
    },
    "farthest_rows": {
        "triton": "pointops.spanning_tree:farthest_rows",
        "torch": "pointcept.ops.reference.spanning_tree:farthest_rows",
    },
}
_overrides: dict[str, str] = {}


def _parse(text: str) -> dict[str, str]:
    """Read ``torch`` or ``serialization=torch,...`` into operation -> backend."""
    choices: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        operation, _, name = item.rpartition("=")
        if operation:
            choices[operation] = name
        else:
            choices.update({op: name for op, known in _IMPLEMENTATIONS.items() if name in known})
            if not any(name in known for known in _IMPLEMENTATIONS.values()):
                every = {b for known in _IMPLEMENTATIONS.values() for b in known}
                raise ConfigError(f"unknown backend {name!r}: {did_you_mean(name, every)}")
    for operation, name in choices.items():
        if operation not in _IMPLEMENTATIONS:
            raise ConfigError(f"unknown operation {operation!r}: {did_you_mean(operation, _IMPLEMENTATIONS)}")
        if name not in _IMPLEMENTATIONS[operation]:
            raise ConfigError(f"{operation} has no backend {name!r}: {did_you_mean(name, _IMPLEMENTATIONS[operation])}")
    return choices


@contextlib.contextmanager
def override(text: str) -> Iterator[None]:
    """Choose backends inside a ``with`` block, in the notation of the environment variable.

    Raises:
        ConfigError: an unknown operation or backend.
    """
    before = dict(_overrides)
    _overrides.update(_parse(text))
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


@functools.cache
def _why_not_triton() -> str | None:
    """The reason why Triton kernels cannot run, or None."""
    try:
        importlib.import_module("triton")
        importlib.import_module("pointops.serialization")
    except ImportError as error:
        return f"not installed ({error})"
    return None


@functools.cache
def _choose(operation: str, device_type: str, wanted: str | None, double: bool) -> Callable[..., Any]:
    name, reason = wanted, "asked for"
    passed_over: list[str] = []
    if double:
        name, reason = "torch", "the input is float64"
    elif wanted is None:
        for name in _IMPLEMENTATIONS[operation]:
            if name == "torch":
                reason = "; ".join(passed_over) or "the only implementation"
                break
            why_not = "runs on cuda only" if device_type != "cuda" else _why_not_triton()
            if why_not is None:
                reason = "fastest available"
                break
            passed_over.append(f"{name} {why_not}")
    elif wanted == "triton" and (device_type != "cuda" or _why_not_triton()):
        why_not = _why_not_triton() if device_type == "cuda" else f"it runs on cuda only, not on {device_type}"
        raise ConfigError(f"{operation}: the backend 'triton' was asked for, but {why_not}")
    assert name is not None
    # On a CPU there is one implementation of each operation: nothing that a user has to know.
    level = logging.INFO if device_type == "cuda" or wanted is not None else logging.DEBUG
    logger.log(level, "ops: %s uses %s on %s (%s)", operation, name, device_type, reason)
    module, function = _IMPLEMENTATIONS[operation][name].split(":")
    return getattr(importlib.import_module(module), function)


def implementation(operation: str, device: torch.device, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """The function that carries out ``operation`` on ``device``; float64 always runs on ``torch``.

    Raises:
        ConfigError: the environment asks for an unknown backend, or for one that cannot run here.
    """
    wanted = _overrides.get(operation) or _environment_choice(os.environ.get(ENVIRONMENT, "")).get(operation)
    return _choose(operation, device.type, wanted, dtype is torch.float64)


@functools.lru_cache(maxsize=8)
def _environment_choice(text: str) -> dict[str, str]:
    return _parse(text)
