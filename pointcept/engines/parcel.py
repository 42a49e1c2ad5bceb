"""How a batch comes from a loading process: its tensors in one block of shared memory, or in the message itself.

One block is one open file, however many tensors there are: the fragments of one scan have hundreds, and torch opens a
file for each tensor. Where /dev/shm has no room for the block, as in a container with 64 MB of it, the message carries
the bytes: slower, and the same batch.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from pointcept.utils.faults import machine_fault

ALIGNMENT = 64
"""Bytes; as torch aligns the memory of tensors."""
SPARE_FILES = 4
"""A process opens so many files to send a block."""


class Place(NamedTuple):
    """Where a tensor lies in a block."""

    start: int
    dtype: torch.dtype
    shape: torch.Size


class Parcel:
    """A batch on its way from one process to another.

    Args:
        batch: with a :class:`Place` for each tensor.
        block: their bytes, uint8 (N,): a tensor in shared memory, or an array.
        reason: why it is an array, ``""`` if it is none or was asked for.
    """

    def __init__(self, batch: Any, block: Tensor | np.ndarray, reason: str = "") -> None:
        self.batch, self.block, self.reason = batch, block, reason

    def pin_memory(self) -> Parcel:
        """For torch's thread that gets batches ready for a GPU: one copy for all tensors."""
        return Parcel(self.batch, torch.as_tensor(self.block).pin_memory(), self.reason)

    def unpack(self) -> Any:
        """The batch; its tensors share the memory of the block."""
        block = torch.as_tensor(self.block)

        def tensor(value: Any) -> Any:
            if not isinstance(value, Place):
                return value
            size = math.prod(value.shape) * value.dtype.itemsize
            if not size:
                return torch.empty(value.shape, dtype=value.dtype)
            return block[value.start : value.start + size].view(value.dtype).view(value.shape)

        return replaced(self.batch, tensor)


class Packing:
    """Collates samples; in a loading process the batch becomes a parcel.

    Args:
        collate: makes a batch of samples.

    Attributes:
        shared: use shared memory where there is room.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.collate = collate
        self.shared = True

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch, or its parcel."""
        batch = self.collate(samples)
        return batch if get_worker_info() is None else pack(batch, self.shared)


def pack(batch: Any, shared: bool = True) -> Parcel:
    """Put the tensors of a batch into one block.

    Args:
        batch: tensors on the CPU inside dicts, lists and tuples, and anything else that can be pickled.
        shared: in shared memory, if there is room for them; otherwise in an array.
    """
    tensors: list[Tensor] = []
    size = 0

    def place(value: Any) -> Any:
        nonlocal size
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            return value
        start = -(-size // ALIGNMENT) * ALIGNMENT
        size = start + value.nbytes
        tensors.append(value)
        return Place(start, value.dtype, value.shape)

    content = replaced(batch, place)
    reason = ""
    block: Tensor | np.ndarray | None = None
    if shared:
        try:
            block = _shared_block(size)
        except (RuntimeError, OSError) as error:
            fault = machine_fault(error)
            if fault is None:
                raise
            reason = f"{size / 2**20:.1f} MiB: {fault}"
    if block is None:
        block = np.empty(size, np.uint8)
    parcel = Parcel(content, block, reason)
    for target, source in zip(_tensors(parcel.unpack()), tensors, strict=True):
        target.copy_(source)
    return parcel


def _shared_block(size: int) -> Tensor:
    spare = []
    try:  # sending happens in a thread that could tell nobody
        spare = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(SPARE_FILES)]
    finally:
        for number in spare:
            os.close(number)
    storage = torch.UntypedStorage._new_shared(max(size, 1), device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload,no-any-return]


def _tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def look(value: Any) -> Any:
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            found.append(value)
        return value

    replaced(batch, look)
    return found


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same dicts, lists and tuples with ``change`` of what is in them."""
    if isinstance(value, Place):
        return change(value)
    if isinstance(value, Mapping):
        return {key: replaced(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(replaced(item, change) for item in value)
    return change(value)
