"""Transforms that change the form of a sample: copies, updates, tensors, and the final collection."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pointcept.datasets.builder import TRANSFORMS
from pointcept.utils.checks import refused
from pointcept.utils.errors import ConfigError, DataError

from .points import LABEL_KEYS, Sample, bounds, check_resolution, point_keys


def _copied(value: Any) -> Any:
    """A copy that shares no memory with ``value``."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)


def _check_names(name: str, value: Any) -> None:
    """Check that ``value`` is None or maps names to names.

    Raises:
        ConfigError: it does not.
    """
    if value is not None and not (
        isinstance(value, Mapping) and all(isinstance(key, str) for key in (*value, *value.values()))
    ):
        raise refused(name, value, "a dict from names to names")


def _check_keys(name: str, value: Any) -> tuple[str, ...]:
    """One name or a list of names as a tuple.

    Raises:
        ConfigError: something else, or no name.
    """
    keys = (value,) if isinstance(value, str) else value
    if not isinstance(keys, Sequence) or not keys or not all(isinstance(key, str) for key in keys):
        raise refused(name, value, "a name or a list of names")
    return tuple(keys)


@TRANSFORMS.register_module()
class Copy:
    """Copy entries to new names; a copy is not a per-point entry, so sampling leaves it whole.

    Args:
        keys_dict: old name -> new name. Labels that an unlabelled scan lacks are passed over.

    Raises:
        ConfigError: any other entry is missing in the sample, or ``keys_dict`` has something else than names.
    """

    def __init__(self, keys_dict: Mapping[str, str] | None = None) -> None:
        _check_names("keys_dict", keys_dict)
        self.keys_dict = dict(keys_dict or {"coord": "origin_coord", "segment": "origin_segment"})

    def __call__(self, sample: Sample) -> Sample:
        result = dict(sample)
        for old, new in self.keys_dict.items():
            if old in sample:
                result[new] = _copied(sample[old])
            elif old not in LABEL_KEYS:
                raise ConfigError(f"Copy: the sample has no {old!r}, only {', '.join(sample)}")
        return result


@TRANSFORMS.register_module()
class Update:
    """Set entries to fixed values, for instance ``keys_dict=dict(index_valid_keys=[...])``.

    Args:
        keys_dict: name -> value; every sample gets a copy of its own.
    """

    def __init__(self, keys_dict: Mapping[str, Any] | None = None) -> None:
        self.keys_dict = dict(keys_dict or {})

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, **{key: _copied(value) for key, value in self.keys_dict.items()}}


def to_tensor(value: Any, name: str = "value") -> Any:
    """Arrays and numbers as tensors: integers int64, floats float32, bools bool; containers entry by entry.

    Args:
        value: array, tensor, number (becomes (1,)), string or None (both stay), mapping or sequence.
        name: what ``value`` is, for messages.

    Raises:
        DataError: something else, or coordinates in float64 that float32 does not resolve.
    """
    if value is None or isinstance(value, (torch.Tensor, str)):
        return value
    if isinstance(value, Mapping):
        return {key: to_tensor(entry, f"{name}.{key}") for key, entry in value.items()}
    if isinstance(value, (bool, int, float, np.generic)):
        value = np.array([value])
    if isinstance(value, np.ndarray):
        if value.dtype == np.float64 and "coord" in name and value.ndim == 2 and value.shape[1] == 3 and len(value):
            check_resolution(*bounds(value), remedy="put CenterShift before ToTensor, which makes float32 of it")
        dtype = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float32}.get(value.dtype.kind)
        if dtype is not None:
            array = np.ascontiguousarray(value, dtype=dtype).reshape(value.shape)
            return torch.from_numpy(array if array.flags.writeable else array.copy())
    elif isinstance(value, Sequence):
        return [to_tensor(entry, f"{name}[{i}]") for i, entry in enumerate(value)]
    kind = f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(f"ToTensor: {name} is a {kind}, which no tensor can hold")


@TRANSFORMS.register_module()
class ToTensor:
    """Turn all entries into tensors, see :func:`to_tensor`."""

    def __call__(self, sample: Sample) -> Sample:
        return {key: to_tensor(value, key) for key, value in sample.items()}


@TRANSFORMS.register_module()
class Collect:
    """Keep what the model needs: the last transform of a chain, after ToTensor.

    Args:
        keys: entries to keep. ``name`` is kept wherever the sample has one.
        offset_keys_dict: new name -> entry whose rows are counted, int64 (1,); by default ``offset`` of ``coord``.
        **concatenated: ``feat_keys=("coord", "strength")`` makes ``feat``, float32 (N, C), from these
            entries side by side; likewise any other ``<name>_keys``.

    Raises:
        ConfigError: an entry is missing or no tensor, or an argument does not end in ``_keys``.
        DataError: a per-point entry does not have as many rows as ``coord``.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        offset_keys_dict: Mapping[str, str] | None = None,
        **concatenated: str | Sequence[str],
    ) -> None:
        self.keys = _check_keys("keys", keys)
        _check_names("offset_keys_dict", offset_keys_dict)
        self.offset_keys = dict(offset_keys_dict if offset_keys_dict is not None else {"offset": "coord"})
        for name in concatenated:
            if not name.endswith("_keys"):
                raise ConfigError(
                    f"Collect takes no {name!r}. Allowed: keys, offset_keys_dict and names that end in _keys,"
                    " such as feat_keys"
                )
        self.concatenated = {name.removesuffix("_keys"): _check_keys(name, keys) for name, keys in concatenated.items()}

    def __call__(self, sample: Sample) -> Sample:
        self._check_rows(sample)
        data = {key: self._get(sample, key) for key in self.keys}
        if "name" in sample:
            data["name"] = sample["name"]
        for name, key in self.offset_keys.items():
            data[name] = torch.tensor([len(self._tensor(sample, key))])
        for name, keys in self.concatenated.items():
            parts = [self._tensor(sample, key).float() for key in keys]
            data[name] = torch.cat([part[:, None] if part.dim() == 1 else part for part in parts], dim=1)
        return data

    @staticmethod
    def _get(sample: Sample, key: str) -> Any:
        if key not in sample:
            hint = "; data sets of scans without labels take unlabelled=True" if key == "segment" else ""
            raise ConfigError(f"Collect: the sample has no {key!r}, only {', '.join(sample)}{hint}")
        if isinstance(sample[key], np.ndarray):
            raise ConfigError(f"Collect: {key!r} is still a NumPy array: put ToTensor before Collect")
        return sample[key]

    def _tensor(self, sample: Sample, key: str) -> torch.Tensor:
        value = self._get(sample, key)
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"Collect: {key!r} must be a tensor, got {type(value).__name__}")
        return value

    @staticmethod
    def _check_rows(sample: Sample) -> None:
        rows = {key: len(sample[key]) for key in point_keys(sample)}
        if len(set(rows.values())) > 1:
            raise DataError(f"Collect: per-point entries are not aligned, their rows: {rows}")
