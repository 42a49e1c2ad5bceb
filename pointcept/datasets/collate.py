"""Put samples together to a batch: points of all scans one after the other, ``offset`` where each ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pointcept.utils.errors import DataError


def collate_fn(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Concatenate samples.

    Args:
        batch: samples with the same keys, at least one.

    Returns:
        Tensors concatenated along dimension 0; keys that contain "offset" as cumulative ends, int64;
        mappings entry by entry; all else as lists. Without an ``offset`` it is made from ``coord``.

    Raises:
        DataError: the batch is empty, keys differ or tensors do not fit together.
    """
    if not batch:
        raise DataError("cannot collate an empty batch")
    result = _collate(batch)
    if "coord" in result and "offset" not in result:
        result["offset"] = torch.cumsum(torch.tensor([len(sample["coord"]) for sample in batch]), 0)
    return result


def _collate(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate mappings key by key."""
    for sample in batch:
        if sample.keys() != batch[0].keys():
            different = sorted(map(str, sample.keys() ^ batch[0].keys()))
            raise DataError(f"samples of one batch have different keys: {', '.join(different)} not in all of them")
    return {key: _collate_entry(key, [sample[key] for sample in batch]) for key in batch[0]}


def _collate_entry(key: str, values: list[Any]) -> Any:
    """Collate the values of one key."""
    if isinstance(values[0], Mapping):
        return _collate(values)
    if not all(isinstance(value, torch.Tensor) for value in values):
        return values
    if "offset" in key:
        # Ends within each sample -> lengths -> ends within the batch.
        lengths = [value.diff(prepend=value.new_zeros(1)) for value in values]
        return torch.cumsum(torch.cat(lengths).long(), 0)
    if values[0].dim() == 0:
        return torch.stack(values)
    try:
        return torch.cat(values)
    except RuntimeError:
        shapes = ", ".join(str(tuple(value.shape)) for value in values)
        raise DataError(f"the tensors {key!r} of one batch do not fit together: {shapes}") from None


def point_collate_fn(batch: Sequence[Mapping[str, Any]], mix_prob: float = 0.0) -> dict[str, Any]:
    """Concatenate samples and, with probability ``mix_prob``, merge pairs of scans into one (Mix3D).

    Mix3D (Nekrasov et al., 3DV 2021): scans 0 and 1 become one entry of the batch, 2 and 3 the next; the
    last of an odd number stays alone. Only ``offset`` changes (and ``name``, whose pairs are joined with
    "+"). The two scans keep their own ``grid_coord``, so that a voxel may occur twice in an entry: what
    looks voxels up must tolerate duplicates.

    The draw comes from the global ``np.random``: after samples drawn with a ``Draw`` it is a function of
    the last seed.

    Args:
        batch: samples, see :func:`collate_fn`.
        mix_prob: probability in [0, 1].

    Raises:
        DataError: see :func:`collate_fn`.
    """
    result = collate_fn(batch)
    if mix_prob > 0 and np.random.random() < mix_prob:
        offset = result["offset"]
        # Every second end, and the last one whatever its place.
        result["offset"] = torch.cat([offset[1:-1:2], offset[-1:]])
        names = result.get("name")
        if isinstance(names, list) and len(names) == len(offset):
            result["name"] = ["+".join(names[i : i + 2]) for i in range(0, len(names), 2)]
    return result
