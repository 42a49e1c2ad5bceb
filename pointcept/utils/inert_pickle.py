"""The tensors of a torch file that also holds objects of other programs, without running anything of theirs.

A pickle names classes and functions and has them called. Here a name is never looked up. Of all names there are three
kinds:

- those by which torch writes tensors, and ``OrderedDict``, are bound to the small functions below;
- all others become a :class:`StandIn`, which accepts whatever a pickle does to an object and does nothing, so that the
  scheduler of another version of torch, a config or a path beside the weights costs nothing and is left out;
- those that only an attack needs are refused, and the file with them: what belongs to Python's own library, except
  types of plain values, a few that run code in packages that come with torch, and attributes such as
  ``__globals__``.

Safety does not rest on the third kind: a name that is missing there is never called either.
"""

from __future__ import annotations

import builtins
import pickle
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # what Python 2 called its modules
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

_ANY = frozenset({"*"})
# Types of plain values in Python's own library, and the functions that a pickle makes them with.
_VALUES = {
    "_codecs": {"encode"},
    "_io": {"BytesIO", "StringIO"},
    "argparse": {"Namespace"},
    "array": {"_array_reconstructor", "array"},
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range"),
        *("set", "slice", "str", "tuple", "type", "Ellipsis", "NotImplemented"),
        *(name for name in dir(builtins) if name.endswith(("Error", "Exception", "Warning"))),
    },
    "collections": _ANY,
    "copyreg": {"__newobj__", "__newobj_ex__", "_reconstructor"},
    "dataclasses": _ANY,
    "datetime": _ANY,
    "decimal": {"Decimal"},
    "enum": _ANY,
    "fractions": {"Fraction"},
    "functools": {"partial"},
    "itertools": _ANY,
    "logging": {"Logger", "RootLogger", "getLogger"},
    "math": _ANY,
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "platform": {"uname_result"},
    "random": {"Random"},
    "re": {"RegexFlag", "_compile"},
    "time": {"struct_time"},
    "types": {"MappingProxyType", "NoneType", "SimpleNamespace"},
    "typing": _ANY,
    "uuid": _ANY,
    "zoneinfo": _ANY,
}
_RUN_CODE = (
    *("torch.hub", "torch.jit", "torch.load", "torch.package", "torch.serialization.load"),
    *("torch.utils.cpp_extension", "torch._inductor"),
    *("numpy.load", "numpy.f2py", "numpy.testing", "numpy.distutils", "distutils", "imp", "pip", "setuptools"),
    *("pkg_resources", "cloudpickle", "dill", "joblib", "IPython"),
)
# Modules that are imported by so many others that an attack reaches them through one: "torch.serialization.os.system".
_REACHED = {"builtins", "ctypes", "importlib", "os", "posix", "runpy", "shutil", "socket", "subprocess", "sys"}


class RefusedName(pickle.UnpicklingError):
    """The pickle names something that no weight file needs."""


class StandIn:
    """Takes the place of an object whose class is not loaded; ``path`` is the name of that class."""

    path: ClassVar[str] = ""
    dump_patches: ClassVar[bool] = False  # torch asks it of modules in files older than zip

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """For lists, and by its other names for sets."""

    extend = add = append


class _Entries(dict[Any, Any]):
    """An ``OrderedDict`` without its attributes."""

    def __setstate__(self, _: Any) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    """Functions are handed out as bound methods and types are made for each file: a pickle can set attributes."""

    left_out: set[str]

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full = f"{module}.{name}"
        rebuild = {
            "builtins.getattr": self._attribute,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": self._first,
            "torch._utils._rebuild_parameter_with_state": self._first,
            "torch._tensor._rebuild_from_type_v2": self._again,
        }.get(full)
        if rebuild is not None:
            return rebuild
        if full == "torch.storage.UntypedStorage":
            return SimpleNamespace(dtype=torch.uint8)  # only asked for its type
        if full == "collections.OrderedDict":
            return type("OrderedDict", (_Entries,), {})
        if is_refused(module, name):
            raise RefusedName(full)
        return self._stand_in(full)

    def _stand_in(self, path: str) -> type[StandIn]:
        self.left_out.add(path)
        return type("StandIn", (StandIn,), {"path": path})

    def _attribute(self, owner: Any, name: str) -> type[StandIn]:
        known = isinstance(owner, StandIn) or (isinstance(owner, type) and issubclass(owner, StandIn))
        if not known or not isinstance(name, str) or is_refused(owner.path, name):
            raise RefusedName(f"getattr({owner.path if known else type(owner).__name__}, {name!r})")
        return self._stand_in(f"{owner.path}.{name}")

    def _tensor(
        self, storage: Any, offset: int, size: Any, stride: Any, _: Any = False, __: Any = None, metadata: Any = None
    ) -> Tensor:
        if not isinstance(storage, torch.storage.TypedStorage):
            raise pickle.UnpicklingError("a tensor without its values")
        return torch._utils._rebuild_tensor_v2(
            storage, offset, tuple(size), tuple(stride), False, OrderedDict(), metadata
        )

    def _first(self, data: Any, *_: Any) -> Any:
        return data

    def _again(self, function: Any, _: Any, arguments: Any, __: Any) -> Any:
        return function(*arguments)


def is_refused(module: str, name: str) -> bool:
    """Whether a weight file that names ``module.name`` is refused, see above."""
    top, parts = module.split(".")[0], name.split(".")
    if top in sys.stdlib_module_names:
        allowed = _VALUES.get(top, frozenset())
        if allowed is not _ANY:
            return name not in allowed
    hidden = any(part.startswith("__") and part.endswith("__") for part in parts)
    runs_code = any(f"{module}.{name}.".startswith(f"{code}.") for code in _RUN_CODE)
    return hidden or runs_code or not _REACHED.isdisjoint(parts)


def load_inert(path: str | Path) -> tuple[Any, list[str]]:
    """Read a file of ``torch.save`` to the CPU.

    Returns:
        What it holds, with stand-ins, and the names that they stand for.

    Raises:
        RefusedName: it names what only an attack needs.
        Exception: a damaged file can raise any; nothing of it has been executed.
    """
    left_out: set[str] = set()
    unpickler = type("Unpickler", (_Unpickler,), {"left_out": left_out})
    module = SimpleNamespace(
        __name__=__name__, Unpickler=unpickler, load=lambda file, **options: unpickler(file, **options).load()
    )
    content = torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
    return content, sorted(left_out)
