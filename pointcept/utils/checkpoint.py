"""Weight files: written so that a crash never damages one, read so that nothing is missed silently.

Below ``models`` on purpose: a distiller loads its teacher with :func:`load_weights`.
"""

from __future__ import annotations

import _codecs
import contextlib
import logging
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pointcept.utils.archive import check_archive
from pointcept.utils.errors import CheckpointError, DamagedFile
from pointcept.utils.faults import machine_fault
from pointcept.utils.inert_pickle import RefusedName, StandIn, load_inert

logger = logging.getLogger(__name__)

SHOWN = 10  # keys listed per kind of mismatch
_START_FROM_THE_REST = (
    "to train from the {} entries that fit, give the hook CheckpointLoader strict=False (docs/configs.md, Fine-tuning)"
)
_RENAME = (
    "where only the names differ, the hook CheckpointLoader renames: keywords='module.', replacement='module.backbone.'"
)

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


def save_atomically(content: Any, path: str | Path, earlier: Sequence[Path] = ()) -> None:
    """Write ``content`` with ``torch.save`` so that ``path`` holds either the old or the new file.

    The bytes go to a temporary file in the same folder, are forced to the disk, and the file is
    renamed; a crash at any moment leaves the old file as it was.

    Args:
        content: tensors and plain values.
        path: the file.
        earlier: where the file that it replaces goes, what is there in its turn, and so on; the last one is lost.

    Raises:
        CheckpointError: the file cannot be written: a full disk, missing rights, a file where its folder should be.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        _keep(path, earlier)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # On a full disk torch complains about positions in the file; what happened stands behind that.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(
            f"cannot write {path}: {cause.strerror or cause}; an earlier file there is as it was"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep(path: Path, earlier: Sequence[Path]) -> None:
    """Move files on to the names in ``earlier``; ``path`` itself stays where it is, too, until it is replaced."""
    for older, newer in list(zip(earlier[1:], earlier[:-1], strict=True))[::-1]:
        if newer.exists():
            os.replace(newer, older)
    if not earlier or not path.exists():
        return
    link = path.with_name(f".{earlier[0].name}.{os.getpid()}.tmp")
    try:
        os.link(path, link)
        os.replace(link, earlier[0])
        link.unlink(missing_ok=True)  # it stays where both names are one file already
    except PermissionError:  # a file system without hard links
        os.replace(path, earlier[0])


def read_checkpoint(path: str | Path, foreign: bool = True) -> Any:
    """Read a file written by ``torch.save`` to the CPU, running no code that it might contain.

    Args:
        path: the file.
        foreign: what it holds besides tensors and plain values, the scheduler of another program for one, becomes an
            inert :class:`StandIn`; otherwise such a file is refused.

    Raises:
        DamagedFile: the file is empty or damaged, see :func:`check_archive`.
        CheckpointError: it is missing or cannot be read, names what only an attack needs, or holds more than tensors
            and plain values where ``foreign`` is False.
    """
    path = Path(path)
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*.pth")) if path.parent.is_dir() else []
        there = f"; the folder holds {', '.join(near)}" if near else ""
        raise CheckpointError(f"weight file {path} does not exist{there}")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe, a device or a socket"
        raise CheckpointError(f"weight file {path} is {what}, expected a file")
    if path.stat().st_size == 0:
        raise DamagedFile(f"weight file {path} is empty")
    try:
        check_archive(path)
        return _read(path, foreign)
    except RefusedName as error:
        raise CheckpointError(
            f"weight file {path} is refused: of the Python objects besides tensors and plain values that it holds, "
            f"{error} could run code, and no weights need it; nothing has been executed"
        ) from error
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError(f"weight file {path} cannot be read: {machine_fault(error)}") from error
    except Exception as error:  # a damaged file can raise anything; nothing of it has been executed
        if isinstance(error, OSError) and machine_fault(error) is not None:
            raise CheckpointError(f"weight file {path} cannot be read: {error.strerror}") from error
        reason = str(error).strip().splitlines()
        raise DamagedFile(
            f"weight file {path} ({path.stat().st_size} bytes) is damaged or not a torch file: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


def _read(path: Path, foreign: bool) -> Any:
    """What a file holds; torch's own reader takes tensors and plain values only."""
    with warnings.catch_warnings():
        # Torch's own reader may not know a file's protocol; of modules, which are left out, the source is not compared.
        warnings.filterwarnings("ignore", "Detected pickle protocol")
        warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
        try:
            with torch.serialization.safe_globals(SAFE_GLOBALS):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            content, left_out = load_inert(path)
    if left_out and not foreign:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors and plain values, which are not loaded for safety: "
            f"{some(left_out)}"
        )
    if left_out:
        logger.info("%s: left out what is neither a tensor nor a plain value: %s", path, some(left_out))
    return content


def extract_state_dict(content: Any, path: str | Path) -> dict[str, torch.Tensor]:
    """Find the weights in what :func:`read_checkpoint` returned, without the prefix ``module.``.

    Args:
        content: ``{"state_dict": {...}, ...}`` or a bare state dict.
        path: only for the message.

    Raises:
        CheckpointError: neither of the two, or an entry that is no tensor.
    """
    wrapped = isinstance(content, Mapping) and "state_dict" in content
    found = content["state_dict"] if wrapped else content
    if isinstance(found, Mapping) and found:
        wrong = [f"{key} is {_what(value)}" for key, value in found.items() if not isinstance(value, torch.Tensor)]
        if not wrong:
            return {str(key).removeprefix("module."): value for key, value in found.items()}
        if wrapped or len(wrong) < len(found):
            raise CheckpointError(
                f"{path}: {len(wrong)} of {len(found)} entries of the state dict are no tensors, and other Python "
                f"objects are not loaded for safety: {some(wrong)}"
            )
    got = f"its 'state_dict' is {_what(found)}" if wrapped else f"got {_what(found)}"
    raise CheckpointError(f"{path}: expected 'state_dict' or a bare dict of tensors, {got}")


def _what(value: Any) -> str:
    """What stands where tensors are expected."""
    if isinstance(value, StandIn):
        return f"an object of {value.path}"
    return f"a dict with the keys {list(value)[:SHOWN]}" if isinstance(value, Mapping) else f"a {type(value).__name__}"


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


def some(names: list[str], most: int | None = SHOWN) -> str:
    """The first few, or all, and how many more there are."""
    shown = names[:most]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(shown) < len(names) else "")


def _listing(title: str, keys: list[str], most: int | None) -> str:
    return f"\n  {len(keys)} {title}: {some(keys, most)}" if keys else ""


def weight_forms(model: nn.Module) -> list[str]:
    """Which of the networks that share their weights' names and shapes a model is.

    A module says so by an attribute ``weight_form``, since no file does.
    """
    forms = (getattr(module, "weight_form", None) for module in model.modules())
    return list(dict.fromkeys(form for form in forms if form))


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
    return f"{len(found)} of {len(state)} entries hold NaN, infinity or a negative variance: {some(found)}"


def dtype_name(value: torch.Tensor) -> str:
    """``float32``."""
    return str(value.dtype).removeprefix("torch.")


def _kind(value: torch.Tensor) -> tuple[bool, bool, bool]:
    """Whether a tensor holds floating-point numbers, complex ones, or truth values."""
    return value.is_floating_point(), value.is_complex(), value.dtype == torch.bool


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path, strict: bool = True) -> None:
    """Copy ``state`` into ``model``; the log says which form the network has, see :func:`weight_forms`.

    Args:
        model: receives the weights; its own device and dtype stay.
        state: names without ``module.``.
        path: only for messages.
        strict: every key must be there and fit. Otherwise what fits is loaded, and the log names all the rest.

    Raises:
        CheckpointError: keys missing, unexpected, of another shape or kind (when ``strict``), nothing fits, or what
            fits has values that are not finite, see :func:`damaged_entries`.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shared = [key for key in own if key in state]
    shapes = [key for key in shared if own[key].shape != state[key].shape]
    kinds = [key for key in shared if key not in shapes and _kind(own[key]) != _kind(state[key])]
    fitting = {key: value for key, value in state.items() if key in own and key not in {*shapes, *kinds}}
    fails = not fitting or (strict and bool(missing or unexpected or shapes or kinds))
    report = "".join(
        _listing(title, keys, SHOWN if fails else None)
        for title, keys in (
            ("missing from the file", missing),
            ("unknown to the model", unexpected),
            ("of another shape", [f"{k} (file {tuple(state[k].shape)}, model {tuple(own[k].shape)})" for k in shapes]),
            ("of another kind", [f"{k} (file {dtype_name(state[k])}, model {dtype_name(own[k])})" for k in kinds]),
        )
    )
    if fails:
        way_out = _START_FROM_THE_REST.format(len(fitting)) if fitting else _RENAME
        raise CheckpointError(
            f"{path} does not fit the model ({len(own)} entries, {len(fitting)} fit):{report}\n  {way_out}"
        )
    # as the model will hold them: float64 goes beyond float32
    held = {k: v.to(own[k].dtype) if own[k].is_floating_point() else v for k, v in fitting.items()}
    wrong_values = damage(held)
    if wrong_values is not None:
        raise CheckpointError(f"{path}: {wrong_values}")
    if report:
        logger.warning(
            "%s fits the model in %d of %d entries, the others stay:%s", path, len(fitting), len(own), report
        )
    others = [k for k, v in fitting.items() if own[k].is_floating_point() and v.dtype != own[k].dtype]
    if others:
        pair = dtype_name(fitting[others[0]]), dtype_name(own[others[0]])
        logger.warning("%s: %d entries are %s in the file and %s in the model", path, len(others), *pair)
    model.load_state_dict(fitting, strict=False)
    logger.info("loaded weights from %s%s", path, "".join(f"; {form}" for form in weight_forms(model)))


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


def export_weights(path_in: str | Path, path_out: str | Path) -> None:
    """Write the weights of a checkpoint alone, without optimizer and random states.

    Raises:
        CheckpointError: ``path_in`` is missing, damaged or holds no weights.
    """
    save_atomically({"state_dict": extract_state_dict(read_checkpoint(path_in), path_in)}, path_out)
