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
    last of an odd number stays alone. Only the ends change (``offset`` and other keys with that word), ``name``,
    whose pairs are joined with "+", and ``instance``: ids >= 0 of the second scan follow those of the first, negative
    ones (no instance) stay. The two scans keep their own ``grid_coord``, so that a voxel may occur twice in an entry:
    what looks voxels up must tolerate duplicates.

    The draw comes from the global ``np.random``: after samples drawn with a ``Draw`` it is a function of
    the last seed.

    Args:
        batch: samples, see :func:`collate_fn`.
        mix_prob: probability in [0, 1].

    Raises:
        DataError: see :func:`collate_fn`, or with ``mix_prob`` > 0 an entry that two scans cannot share: one value
            per scan (such as a pose), or positions within a scan (``inverse``, ``index``).
    """
    result = collate_fn(batch)
    if mix_prob > 0:
        _check_mixable(batch)
    if mix_prob > 0 and np.random.random() < mix_prob:
        offset = result["offset"]
        # Every second end, and the last one whatever its place.
        for key in result:
            if "offset" in key:
                result[key] = torch.cat([result[key][1:-1:2], result[key][-1:]])
        if "instance" in result:
            result["instance"] = _distinct_instances([sample["instance"] for sample in batch])
        names = result.get("name")
        if isinstance(names, list) and len(names) == len(offset):
            result["name"] = ["+".join(names[i : i + 2]) for i in range(0, len(names), 2)]
    return result


def _check_mixable(batch: Sequence[Mapping[str, Any]]) -> None:
    """Check that every entry of the samples makes sense for two scans in one.

    Raises:
        DataError: one does not; whether or not this batch is mixed, so that a training fails at its start.
    """
    for sample in batch:
        points = int(sample["offset"][-1]) if "offset" in sample else len(sample["coord"])
        for key, value in sample.items():
            # Copies of entries before sampling have rows of their own.
            if key == "name" or key.startswith("origin_"):
                continue
            rows = len(value) if isinstance(value, torch.Tensor) and value.dim() else None
            if key in ("inverse", "index"):
                what = "positions within a scan"
            elif rows != (1 if "offset" in key else points):
                what = "not one end for each scan" if "offset" in key else f"not one row for each of {points} points"
            else:
                continue
            got = type(value).__name__ if not isinstance(value, torch.Tensor) else f"shape {tuple(value.shape)}"
            raise DataError(
                f"Mix3D makes one scan of two, but {key!r} ({got}) holds {what}: leave it out of the keys of Collect,"
                " or set mix_prob=0"
            )


def _distinct_instances(instances: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate instance ids (N,) of scans so that the two of each pair share no id >= 0."""
    parts = list(instances)
    for second in range(1, len(parts), 2):
        first = parts[second - 1]
        shift = int(first.max()) + 1 if len(first) else 0
        parts[second] = torch.where(parts[second] < 0, parts[second], parts[second] + max(shift, 0))
    return torch.cat(parts)
