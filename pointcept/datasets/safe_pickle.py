"""Load pickle files that may hold nothing but plain containers and NumPy arrays.

A pickle can name any importable function and have it called. Here every name is refused but the four by which NumPy
1 and 2 write arrays and scalars, and these are bound to the small functions below rather than to NumPy's own: NumPy's
restore a dtype from a state which the file controls, and a wrong one makes it read foreign memory.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pointcept.utils.errors import DataError

# NumPy 2 renamed numpy.core to numpy._core; files from either side must load on the other.
_CORE = ("numpy.core", "numpy._core")
_ARRAY_NAMES = {f"{core}.multiarray._reconstruct" for core in _CORE}
_SCALAR_NAMES = {f"{core}.multiarray.scalar" for core in _CORE}
_BUFFER_NAMES = {f"{core}.numeric._frombuffer" for core in _CORE}
_PLAIN_KINDS = "biufcUS"  # of dtypes: numbers, bool, strings


class _Dtype:
    """A dtype under construction; only the byte order of its pickled state is used."""

    __slots__ = ("numpy",)

    def __init__(self, name: str) -> None:
        self.numpy = np.dtype(name)
        if self.numpy.kind not in _PLAIN_KINDS or self.numpy.hasobject:
            raise pickle.UnpicklingError(f"arrays of {self.numpy} are not allowed, only numbers and strings")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose pickled state is checked before NumPy sees it."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, raw = state
        plain = dtype.numpy if isinstance(dtype, _Dtype) else dtype
        if not isinstance(plain, np.dtype) or plain.hasobject or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array without a plain type")
        super().__setstate__((version, shape, plain, fortran, raw))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Written out again it is an ordinary array, which programs without this module can read.
        return self.view(np.ndarray).__reduce_ex__(protocol)


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name but those of NumPy's arrays. Bound methods are handed out, as nothing can be set on them."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _ARRAY_NAMES:
            return self._array
        if full in _SCALAR_NAMES:
            return self._scalar
        if full in _BUFFER_NAMES:
            return self._from_buffer
        if full == "numpy.dtype":
            return self._dtype
        if full == "numpy.ndarray":
            return full
        raise pickle.UnpicklingError(f"the class or function {full!r} is refused")

    def _dtype(self, name: str, *_: Any) -> _Dtype:
        return _Dtype(name)

    def _array(self, *_: Any) -> _Array:
        return np.ndarray.__new__(_Array, (0,), np.dtype("b"))

    def _scalar(self, dtype: _Dtype, raw: bytes) -> Any:
        return np.frombuffer(raw, dtype=dtype.numpy, count=1)[0]

    def _from_buffer(self, raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Any, *_: Any) -> np.ndarray:
        return np.frombuffer(raw, dtype=dtype.numpy).reshape(shape, order=order).copy()


def load_plain_pickle(path: Path) -> Any:
    """Load a pickle of plain containers (list, dict, tuple, set, str, bytes, numbers, None) and NumPy arrays.

    Raises:
        DataError: naming the file, and the class or function if the pickle asks for any other.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file).load()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything; nothing of it has been executed
        raise DataError(
            f"{path} is not a pickle of plain containers and NumPy arrays, which is all that is accepted: {error}"
        ) from error
