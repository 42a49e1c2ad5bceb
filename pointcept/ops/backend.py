"""The one place that chooses which implementation of an operation runs, and says why.

Every operation has the implementation ``torch`` (the reference, on any device); some have faster ones:
``triton`` (our kernels), ``spconv``, ``spconv_triton`` and ``flash_attn`` (packages of these names, imported
only when their turn comes), ``sdpa`` (torch's own attention, which is its reference too). The first that is
installed and takes the device and the type of the input is chosen. Choose otherwise with the config key ``backend``,
with the environment, which goes before the config, or from Python with :func:`override`, which goes before both:

    POINTCEPT_BACKEND=torch                                     every operation that has this backend
    POINTCEPT_BACKEND=serialization=torch,patch_attention=sdpa  some operations; these go before a bare name
    POINTCEPT_BACKEND=auto                                      back to the first that fits
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pointcept.utils.errors import ConfigError, did_you_mean

logger = logging.getLogger(__name__)

ENVIRONMENT = "POINTCEPT_BACKEND"
AUTO = "auto"


@dataclass(frozen=True)
class _Needs:
    """What a backend needs in order to run.

    Args:
        modules: what it imports.
        install: how to get them.
        dtypes: the floating types that it takes; empty if it takes all but float64.
        capability: the smallest compute capability of the GPU.
    """

    modules: tuple[str, ...]
    install: str
    dtypes: tuple[torch.dtype, ...] = ()
    capability: tuple[int, int] = (0, 0)


# backends that need a CUDA device and something installed; all others run everywhere
_NEEDS: dict[str, _Needs] = {
    "triton": _Needs(("triton", "pointops.serialization"), "CUDA builds of torch bring triton"),
    "spconv": _Needs(("spconv.pytorch.ops",), "pip install '.[spconv]'", (torch.float32, torch.float16)),
    "spconv_triton": _Needs(
        ("spconv_triton.pytorch.ops",),
        "pip install '.[spconv-triton]'",
        (torch.float32, torch.float16, torch.bfloat16),
    ),
    "flash_attn": _Needs(
        ("flash_attn",), "pip install --no-build-isolation '.[flash-attn]'", (torch.float16, torch.bfloat16), (8, 0)
    ),
}

# operation -> backend -> "module:function"; the order is the order of preference
_IMPLEMENTATIONS: dict[str, dict[str, str]] = {
    "serialization": {
        "triton": "pointops.serialization:serialization_codes",
        "torch": "pointcept.ops.reference.serialization:serialization_codes",
    },
    "sparse_convolution": {
        "triton": "pointops.convolution:sparse_convolution",
        "spconv": "pointcept.ops.libraries.spconv:sparse_convolution",
        "spconv_triton": "pointcept.ops.libraries.spconv_triton:sparse_convolution",
        "torch": "pointcept.ops.reference.convolution:sparse_convolution",
    },
    "submanifold_map": {
        "triton": "pointops.neighbours:submanifold_map",
        "torch": "pointcept.ops.reference.neighbours:submanifold_map",
    },
    "patch_attention": {
        "triton": "pointcept.ops.fused_attention:patch_attention",
        "flash_attn": "pointcept.ops.libraries.flash_attn:patch_attention",
        "sdpa": "pointcept.ops.reference.attention:patch_attention",
        "torch": "pointcept.ops.reference.attention:patch_attention",
    },
    "add_layer_norm": {
        "triton": "pointops.normalization:add_layer_norm",
        "torch": "pointcept.ops.reference.normalization:add_layer_norm",
    },
    "norm_add_norm": {
        "triton": "pointops.normalization:norm_add_norm",
        "torch": "pointcept.ops.reference.normalization:norm_add_norm",
    },
    "layer_norm": {
        "triton": "pointops.normalization:layer_norm",
        "torch": "pointcept.ops.reference.normalization:layer_norm",
    },
    "add_scaled": {
        "triton": "pointops.normalization:add_scaled",
        "torch": "pointcept.ops.reference.normalization:add_scaled",
    },
    "linear": {
        "triton": "pointops.linear:linear",
        "torch": "pointcept.ops.reference.linear:linear",
    },
    "batch_norm": {
        "triton": "pointops.batch_norm:batch_norm",
        "torch": "pointcept.ops.reference.batch_norm:batch_norm",
    },
    "mlp": {
        "triton": "pointops.mlp:mlp",
        "torch": "pointcept.ops.reference.mlp:mlp",
    },
    "segment_max": {
        "triton": "pointops.segment:segment_max",
        "torch": "pointcept.ops.reference.segment:segment_max",
    },
    "expand": {
        "triton": "pointops.segment:expand",
        "torch": "pointcept.ops.reference.segment:expand",
    },
    "spanning_tree": {
        "triton": "pointops.spanning_tree:spanning_tree",
        "torch": "pointcept.ops.reference.spanning_tree:spanning_tree",
    },
    "farthest_rows": {
        "triton": "pointops.spanning_tree:farthest_rows",
        "torch": "pointcept.ops.reference.spanning_tree:farthest_rows",
    },
    # for inference on padded arrays
    "octree_keys": {
        "triton": "pointops.octree:octree_keys",
        "torch": "pointcept.ops.reference.octree:octree_keys",
    },
    "octree_level": {
        "triton": "pointops.octree:octree_level",
        "torch": "pointcept.ops.reference.octree:octree_level",
    },
    "octree_neighbours": {
        "triton": "pointops.octree:octree_neighbours",
        "torch": "pointcept.ops.reference.octree:octree_neighbours",
    },
    "gathered_linear": {
        "triton": "pointops.padded:gathered_linear",
        "torch": "pointcept.ops.reference.padded:gathered_linear",
    },
    "row_orders": {
        "triton": "pointops.row_order:row_orders",
        "torch": "pointcept.ops.reference.padded:row_orders",
    },
    "residual_norm": {
        "triton": "pointops.padded_blocks:residual_norm",
        "torch": "pointcept.ops.reference.padded:residual_norm",
    },
    "gather_add": {
        "triton": "pointops.padded_blocks:gather_add",
        "torch": "pointcept.ops.reference.padded:gather_add",
    },
    "padded_linear": {
        "triton": "pointops.padded:linear",
        "torch": "pointcept.ops.reference.padded:linear",
    },
    "block_tail": {
        "triton": "pointops.padded_blocks:block_tail",
        "torch": "pointcept.ops.reference.padded:block_tail",
    },
    "pool_max": {
        "triton": "pointops.padded_blocks:pool_max",
        "torch": "pointcept.ops.reference.padded:pool_max",
    },
    "window_attention": {
        "triton": "pointops.window_attention:window_attention",
        "torch": "pointcept.ops.reference.padded:window_attention",
    },
}
_overrides: dict[str, tuple[str, str]] = {}  # operation -> backend, and who asked for it
_configured: dict[str, str] = {}


def parse(text: str, origin: str) -> dict[str, str]:
    """Read ``torch`` or ``serialization=torch,...`` into operation -> backend.

    Args:
        text: the choices; empty for none.
        origin: where they stand, for the message.

    Raises:
        ConfigError: an unknown operation or backend.
    """
    general: dict[str, str] = {}
    choices: dict[str, str] = {}
    every = {AUTO, *(name for known in _IMPLEMENTATIONS.values() for name in known)}
    for item in filter(None, (part.strip() for part in text.split(","))):
        operation, _, name = (part.strip() for part in item.rpartition("="))
        if operation:
            choices[operation] = name
        elif name in every:
            general.update({op: name for op, known in _IMPLEMENTATIONS.items() if name in (AUTO, *known)})
        else:
            raise ConfigError(f"{origin}: unknown backend {name!r}: {did_you_mean(name, every)}")
    for operation, name in choices.items():
        if operation not in _IMPLEMENTATIONS:
            raise ConfigError(f"{origin}: unknown operation {operation!r}: {did_you_mean(operation, _IMPLEMENTATIONS)}")
        known = (AUTO, *_IMPLEMENTATIONS[operation])
        if name not in known:
            raise ConfigError(f"{origin}: {operation} has no backend {name!r}: {did_you_mean(name, known)}")
    return {**general, **choices}


def configure(text: str | None) -> None:
    """Choose backends for this process, as the config key ``backend`` says; None leaves all open.

    Raises:
        ConfigError: an unknown operation or backend.
    """
    choices = parse(text or "", "backend")
    _configured.clear()
    _configured.update(choices)


@contextlib.contextmanager
def override(text: str, origin: str = "override()") -> Iterator[None]:
    """Choose backends inside a ``with`` block, in the notation of the environment variable.

    Args:
        text: the choices.
        origin: who asks for them, for messages.

    Raises:
        ConfigError: an unknown operation or backend.
    """
    before = dict(_overrides)
    _overrides.update({operation: (name, origin) for operation, name in parse(text, origin).items()})
    try:
        yield
    finally:
        _overrides.clear()
        _overrides.update(before)


@functools.cache
def _import_error(module: str) -> str | None:
    """Why ``module`` cannot be imported, or None."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a package built for another torch or another driver fails in any way it likes
        return f"{type(error).__name__}: {error}"
    return None


def _why_not(name: str, device_type: str, dtype: torch.dtype | None) -> str | None:
    """The reason why a backend cannot run, such as "runs on cuda only", or None."""
    needs = _NEEDS.get(name)
    if needs is None:
        return None
    if device_type != "cuda":
        return f"runs on cuda only, not on {device_type}"
    if needs.dtypes and dtype is not None and dtype not in needs.dtypes:
        names = " and ".join(str(d).removeprefix("torch.") for d in needs.dtypes)
        return f"takes {names}, not {str(dtype).removeprefix('torch.')}"
    for module in needs.modules:
        error = _import_error(module)
        if error is not None:
            return f"cannot be imported ({error}; {needs.install})"
    if needs.capability > (0, 0) and torch.cuda.get_device_capability() < needs.capability:
        return f"needs compute capability {'.'.join(map(str, needs.capability))}"
    return None


@functools.cache
def _choose(
    operation: str, device_type: str, wanted: str | None, origin: str, dtype: torch.dtype | None
) -> Callable[..., Any]:
    name, reason = wanted, f"asked for by {origin}"
    if dtype is torch.float64:
        name, reason = "torch", "the input is float64"
    elif wanted is None:
        passed_over: list[str] = []
        for name in _IMPLEMENTATIONS[operation]:
            why_not = _why_not(name, device_type, dtype)
            if why_not is None:
                break
            passed_over.append(f"{name} {why_not}")
        alone = len(_IMPLEMENTATIONS[operation]) == 1
        reason = "; ".join(passed_over) or ("the only implementation" if alone else "the first choice")
    else:
        why_not = _why_not(wanted, device_type, dtype)
        if why_not is not None:
            raise ConfigError(
                f"{operation}: the backend {wanted!r} was asked for by {origin}, but it {why_not}; "
                f"{operation}={AUTO} takes the first that fits"
            )
    assert name is not None
    # On a CPU nothing faster could have run: nothing that a user has to know.
    _say(
        logging.INFO if device_type == "cuda" or wanted is not None else logging.DEBUG,
        f"ops: {operation} uses {name} on {device_type} ({reason})",
    )
    module, function = _IMPLEMENTATIONS[operation][name].split(":")
    return getattr(importlib.import_module(module), function)


@functools.cache
def _say(level: int, message: str) -> None:
    """Log what has not been logged: several types of input may lead to one choice."""
    logger.log(level, message)


def implementation(operation: str, device: torch.device, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """The function that carries out ``operation`` on ``device``; float64 always runs on ``torch``.

    Raises:
        ConfigError: the config or the environment asks for an unknown backend, or for one that cannot run here.
    """
    wanted, origin = _overrides.get(operation, (None, ""))
    for source, choices in (
        (ENVIRONMENT, _environment_choice(os.environ.get(ENVIRONMENT, ""))),
        ("the config", _configured),
    ):
        if wanted is None and operation in choices:
            wanted, origin = choices[operation], source
    return _choose(operation, device.type, None if wanted == AUTO else wanted, origin, dtype)


@functools.lru_cache(maxsize=8)
def _environment_choice(text: str) -> dict[str, str]:
    return parse(text, ENVIRONMENT)
