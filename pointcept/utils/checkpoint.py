"""Weight files: written so that a crash never damages one, read so that nothing is missed silently.

Below ``models`` on purpose: a distiller loads its teacher with :func:`load_weights`.
"""

from __future__ import annotations

import _codecs
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pointcept.utils.errors import CheckpointError

logger = logging.getLogger(__name__)

SHOWN = 10  # keys listed per kind of mismatch

_scalar = np.float64(0).__reduce__()[0]
# Checkpoints published for Pointcept hold their best metric as a numpy scalar. Rebuilding one runs
# no foreign code, so these names are let through the otherwise tensors-only reader; the strings
# are where numpy 1 and numpy 2 keep the function.
SAFE_GLOBALS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
    _codecs.encode,
]


def save_atomically(content: Any, path: str | Path) -> None:
    """Write ``content`` with ``torch.save`` so that ``path`` holds either the old or the new file.

    The bytes go to a temporary file in the same folder, are forced to the disk, and the file is
    renamed; a crash at any moment leaves the old file as it was.

    Raises:
        CheckpointError: the file cannot be written: a full disk, missing rights.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # On a full disk torch complains about positions in the file; what happened stands behind that.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(f"cannot write {path}: {cause}; an earlier file there is as it was") from error
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: str | Path) -> Any:
    """Read a file written by ``torch.save`` to the CPU, running no code that it might contain.

    Raises:
        CheckpointError: the file is missing, empty, damaged or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        there = f"; the folder holds {', '.join(near)}" if near else ""
        raise CheckpointError(f"weight file {path} does not exist{there}")
    if not path.is_file():
        raise CheckpointError(f"weight file {path} is a folder")
    if path.stat().st_size == 0:
        raise CheckpointError(f"weight file {path} is empty")
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()
        detail = reason[0] if reason else type(error).__name__
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            detail = "it holds Python objects besides tensors and plain values, which are not loaded for safety"
        raise CheckpointError(
            f"weight file {path} ({path.stat().st_size} bytes) is damaged or not a torch file: {detail}"
        ) from error


def extract_state_dict(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """Find the weights in what :func:`read_checkpoint` returned, without the prefix ``module.``.

    Args:
        content: ``{"state_dict": {...}, ...}`` or a bare state dict.
        path: only for the message.

    Raises:
        CheckpointError: neither of the two.
    """
    found = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        what = f"a dict with the keys {list(content)[:SHOWN]}" if isinstance(content, Mapping) else str(type(content))
        raise CheckpointError(f"{path}: expected 'state_dict' or a bare dict of tensors, got {what}")
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def rename_keys(state: Mapping[str, torch.Tensor], keywords: str, replacement: str) -> dict[str, torch.Tensor]:
    """Replace ``keywords`` by ``replacement`` once in every key.

    As in Pointcept's configs, the key is seen with the prefix ``module.`` while it is replaced.
    """
    if not keywords:
        return dict(state)
    renamed = {}
    for key, value in state.items():
        renamed[f"module.{key}".replace(keywords, replacement, 1).removeprefix("module.")] = value
    return renamed


def _listing(title: str, keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"\n  {len(keys)} {title}: {', '.join(keys[:SHOWN])}{more}" if keys else ""


def damaged_entries(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Name the tensors that no network can compute with, and how many of their values are wrong.

    Args:
        state: names and tensors, of which floating-point ones are looked at.

    Returns:
        ``["seg_head.bias (1 of 19 values)"]``: those with NaN or infinity, or ``running_var`` below 0.
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}  # extra state may be any
    good = {key: _good(key, value) for key, value in tensors.items() if value.is_floating_point()}
    if not good:
        return []
    flags = [mask.all() for mask in good.values()]
    whole = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()  # one transfer for all of them
    damaged = [key for key, fine in zip(good, whole, strict=True) if not fine]
    return [f"{key} ({int((~good[key]).sum())} of {good[key].numel()} values)" for key in damaged]


def _good(key: str, value: torch.Tensor) -> torch.Tensor:
    good = value.isfinite()
    return good & (value >= 0) if key.endswith("running_var") else good


def damage(state: Mapping[str, torch.Tensor]) -> str | None:
    """Say in one line which entries :func:`damaged_entries` names; None if there is none."""
    found = damaged_entries(state)
    if not found:
        return None
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    listed = ", ".join(found[:SHOWN])
    return f"{len(found)} of {len(state)} entries hold NaN, infinity or a negative variance: {listed}{more}"


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, strict: bool = True) -> None:
    """Copy ``state`` into ``model``.

    Args:
        model: receives the weights; its own device and dtype stay.
        state: names without ``module.``.
        path: only for messages.
        strict: every key must be there and fit. Otherwise what fits is loaded and the rest is
            logged as a warning.

    Raises:
        CheckpointError: keys missing, unexpected or of another shape (when ``strict``), nothing fits, or what fits
            has values that are not finite, see :func:`damaged_entries`.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    wrong = [f"{key} (file {tuple(state[key].shape)}, model {tuple(own[key].shape)})" for key in shapes]
    report = (
        _listing("missing from the file", missing)
        + _listing("unknown to the model", unexpected)
        + _listing("of another shape", wrong)
    )
    fitting = {key: value for key, value in state.items() if key in own and key not in shapes}
    if not fitting or (strict and report):
        raise CheckpointError(f"{path} does not fit the model ({len(own)} entries, {len(fitting)} fit):{report}")
    # as the model will hold them: float64 goes beyond float32
    held = {k: v.to(own[k].dtype) if own[k].is_floating_point() else v for k, v in fitting.items()}
    wrong_values = damage(held)
    if wrong_values is not None:
        raise CheckpointError(f"{path}: {wrong_values}")
    if report:
        logger.warning("%s fits the model in %d of %d entries:%s", path, len(fitting), len(own), report)
    model.load_state_dict(fitting, strict=False)


def load_weights(
    model: nn.Module, path: str | Path, strict: bool = True, keywords: str = "", replacement: str = ""
) -> None:
    """Load a weight file into ``model``.

    Args:
        model: receives the weights.
        path: ``{"state_dict": ..., ...}`` (Pointcept's published form, keys with or without
            ``module.``) or a bare state dict.
        strict: see :func:`load_state`.
        keywords: part of the keys to rename, see :func:`rename_keys`.
        replacement: what to write in its place.

    Raises:
        CheckpointError: the file is missing or damaged, or does not fit.
    """
    state = extract_state_dict(read_checkpoint(path), path)
    load_state(model, rename_keys(state, keywords, replacement), path, strict)
    logger.info("loaded weights from %s", path)


def export_weights(path_in: str | Path, path_out: str | Path) -> None:
    """Write the weights of a checkpoint alone, without optimizer and random states.

    Raises:
        CheckpointError: ``path_in`` is missing, damaged or holds no weights.
    """
    save_atomically({"state_dict": extract_state_dict(read_checkpoint(path_in), path_in)}, path_out)
