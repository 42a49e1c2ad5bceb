"""What memory was short for: a message with the scans and their sizes instead of torch's alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pointcept.utils.errors import MemoryShortage

NO_MEMORY = ("out of memory", "not enough memory", "allocate memory", "bad_alloc", "alloc_failed")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it followed from, says that memory is short, of this machine or of a GPU."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def memory_for(what: str | Callable[[], str]) -> Iterator[None]:
    """Say what memory was short for.

    Args:
        what: words for the message, or what makes them when they are needed.

    Raises:
        MemoryShortage: memory is short inside.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryShortage) or not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        words = what if isinstance(what, str) else what()
        raise MemoryShortage(f"out of memory for {words} ({reason[:200]})") from error


def describe_scans(batch: Mapping[str, Any], values: bool = False) -> list[str]:
    """``08_000003 (81234 voxels)`` for each scan of a batch.

    Args:
        batch: collated samples, on any device.
        values: also say how large its features are.
    """
    ends = batch["offset"].tolist()
    names = batch.get("name")
    if not isinstance(names, (list, tuple)) or len(names) != len(ends):
        names = [f"scan {i} of the batch" for i in range(len(ends))]
    lines = []
    for name, begin, end in zip(names, [0, *ends], ends, strict=False):
        line = f"{end - begin} voxels"
        if values and isinstance(batch.get("feat"), Tensor) and end > begin:
            line += f", features up to {float(batch['feat'][begin:end].float().abs().max()):.3g}"
        lines.append(f"{name} ({line})")
    return lines
