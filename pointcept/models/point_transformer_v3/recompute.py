"""Tensors that the backward pass computes again from others, instead of keeping them in memory.

``torch.utils.checkpoint`` repeats everything between two points of a network. Most of what a block of PTv3 keeps comes
from its linear layers and norms, which take a small part of its time; its convolution and its attention take most of
it. So a block names the tensors that are cheap to have again, and what it computes them from, which it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Recipe = Callable[[], Sequence[Tensor]]


@dataclass(eq=False)
class _Saved:
    """A tensor that autograd keeps, or how to have it again: by number ``index`` of ``source``, as a view of it."""

    tensor: Tensor | None
    source: _Source | None = None
    index: int = 0
    view: tuple[Any, ...] = ()


class _Source:
    """Tensors of one recipe. Each lives from when the first is asked for until it has been asked for itself."""

    def __init__(self, recipe: Recipe, uses: list[int], precision: tuple[str, torch.dtype, bool]) -> None:
        self._recipe, self._uses, self._precision = recipe, uses, precision
        self._found: dict[int, Tensor] = {}
        self._left: dict[int, int] = {}

    def take(self, index: int) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("tensors that are computed again have no second derivative; set recompute=None")
        if index not in self._found:
            device, dtype, enabled = self._precision
            with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
                found = self._recipe()
            for i, (tensor, uses) in enumerate(zip(found, self._uses, strict=True)):
                if uses:
                    self._found[i], self._left[i] = tensor, uses
        self._left[index] -= 1
        return self._found[index] if self._left[index] else self._found.pop(index)


class Recomputation:
    """A context whose operations may forget some of what autograd saves for them.

        with Recomputation(x.device.type) as saved:
            a = f(x)
            b = g(a)                                    # autograd saves a
            x = x.detach()
            saved.forget([a], lambda: [f(x)])           # and computes it again when it needs it

    Args:
        device_type: of the tensors; the autocast state of this device holds for recipes, too.
        enabled: if False, nothing is forgotten.

    Attributes:
        enabled: as given.
    """

    def __init__(self, device_type: str, enabled: bool = True) -> None:
        self.enabled = enabled
        self._saved: list[_Saved] = []
        self._precision = (
            device_type, torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
        )  # fmt: skip
        saved = self._saved

        def keep(tensor: Tensor) -> _Saved:
            saved.append(_Saved(tensor))
            return saved[-1]

        self._hooks: AbstractContextManager[Any] = nullcontext()
        if enabled:
            self._hooks = torch.autograd.graph.saved_tensors_hooks(keep, _again)

    def __enter__(self) -> Recomputation:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        self._saved.clear()

    def forget(self, tensors: Sequence[Tensor], recipe: Recipe) -> None:
        """Let go of tensors that were saved so far.

        Args:
            tensors: contiguous ones.
            recipe: computes them again, without random numbers; it must not hold them, nor what has a gradient.
        """
        place = {tensor.untyped_storage().data_ptr(): i for i, tensor in enumerate(tensors) if tensor.numel()}
        source = _Source(recipe, uses := [0] * len(tensors), self._precision)
        for saved in self._saved:
            tensor = saved.tensor
            index = None if tensor is None else place.get(tensor.untyped_storage().data_ptr())
            if tensor is not None and index is not None and tensor.dtype == tensors[index].dtype:
                view = tensor.size(), tensor.stride(), tensor.storage_offset()
                saved.tensor, saved.source, saved.index, saved.view = None, source, index, view
                uses[index] += 1


def _again(saved: _Saved) -> Tensor:
    if saved.tensor is not None:
        return saved.tensor
    assert saved.source is not None
    return saved.source.take(saved.index).as_strided(*saved.view)
