"""Reading Python config files: bases, references to bases, merging.

A file is ordinary Python. ``_base_ = ["a.py", "b.py"]`` (relative to the file) names configs to
start from; dicts are merged key by key, ``_delete_=True`` inside a dict replaces instead;
``{{_base_.data.num_classes}}`` stands for a value of the bases and keeps its type. Names that
start with ``_`` stay private to their file.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import os
import re
import traceback
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pointcept.utils.errors import ConfigError, did_you_mean
from pointcept.utils.files import read_regular

REFERENCE = re.compile(r"\{\{\s*_base_\.(\w+(?:\.\w+)*)\s*\}\}")
MOST_BYTES = 2**24  # of a file
MOST_BASES = 50  # on top of each other
MOST_VALUES, DEEPEST = 10**6, 100  # of what a file defines: with those it names twice, and one inside the other


@dataclass
class Layer:
    """What one config file and its bases define.

    Args:
        values: top-level names, helper variables included.
        origin: the file that set each name last.
        used: names that some file reads, so that they have an effect even outside the schema.
        late: names that a file gives another value after a base has read them.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)


def load_layer(path: Path, parents: tuple[Path, ...] = ()) -> Layer:
    """Run a config file on top of its bases.

    Args:
        path: the file.
        parents: the files whose ``_base_`` led here, outermost first.

    Raises:
        ConfigError: a missing or unreadable file, a cycle, bases that disagree, or an error in the file.
    """
    chain = (*parents, path)
    source = _read(path, parents)
    if any(os.path.realpath(path) == os.path.realpath(parent) for parent in parents):
        raise ConfigError(f"{parents[-1]}: _base_ goes in a circle: {' -> '.join(map(str, chain))}")
    if len(chain) > MOST_BASES:
        raise ConfigError(f"{parents[0]}: more than {MOST_BASES} configs stand on each other, the last is {path}")
    text, references = _mark_references(source)
    try:
        tree = ast.parse(text, str(path))
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else str(path)  # a NUL byte has no line
        raise ConfigError(f"{place}: SyntaxError: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{path} is no Python source that can be read, or nested too deep for that") from None
    layer = Layer()
    for base in _find_bases(tree, path):
        _join(layer, load_layer(path.parent / base, chain), path)
    own, read = _execute(tree, references, layer, path)
    _extend(layer, own, read, path)
    return layer


def merge(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``new``: dicts key by key, everything else as a whole.

    A dict of ``new`` with ``_delete_=True`` replaces its counterpart.
    """
    if new.get("_delete_"):
        return _without_marks(new)
    merged = dict(base)
    for key, value in new.items():
        if key == "_delete_":
            continue
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else _without_marks(value)
    return merged


def follow_data_root(values: dict[str, Any], former: Any, root: Any) -> dict[str, Any]:
    """Return ``values`` in which the data sets that lay at ``former`` lie at ``root``.

    Without this, ``--options data_root=PATH`` would silently leave ``data.train.data_root``,
    which was computed from the former value, where it was.
    """
    data = values.get("data")
    if not isinstance(data, dict) or root is None:
        return values
    moved = {
        split: {**entry, "data_root": root}
        for split, entry in data.items()
        if isinstance(entry, dict) and "data_root" in entry and entry["data_root"] == former
    }
    return {**values, "data": {**data, **moved}}


def _read(path: Path, parents: tuple[Path, ...]) -> str:
    asked_by = f", which is a _base_ of {parents[-1]}" if parents else ""
    if path.suffix != ".py":
        raise ConfigError(f"config files end in .py, got {path}{asked_by}")
    try:
        return importlib.util.decode_source(read_regular(path, MOST_BYTES))  # as Python reads it: BOM, coding
    except (FileNotFoundError, NotADirectoryError):
        place = "" if path.is_absolute() else f" (looked for {os.path.abspath(path)})"
        raise ConfigError(f"no config file {path}{asked_by}{place}") from None
    except OSError as error:
        raise ConfigError(f"config file {path}{asked_by}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:  # bytes that are no characters, NUL in the name
        raise ConfigError(
            f"config file {path}{asked_by} is no Python source in UTF-8, or in what its coding line names: {error}"
        ) from error


def _mark_references(text: str) -> tuple[str, dict[str, str]]:
    """Replace every ``{{_base_.a.b}}`` by an identifier, so that the text is plain Python.

    Returns:
        The text and ``{identifier: "a.b"}``.
    """
    references: dict[str, str] = {}

    def mark(match: re.Match[str]) -> str:
        name = f"_base_reference_{len(references)}_"
        references[name] = match.group(1)
        return name

    return REFERENCE.sub(mark, text), references


def _find_bases(tree: ast.Module, path: Path) -> list[str]:
    """The file names in ``_base_``; they are read, not run, because they come before all else."""
    bases: list[str] = []
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and any(_is_name(t, "_base_") for t in node.targets)):
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            value = None
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, (list, tuple)) or not all(isinstance(b, str) for b in value):
            raise ConfigError(
                f"{path}:{node.lineno}: _base_: got {ast.unparse(node.value)}, "
                "allowed: a file name or a list of file names, written out"
            )
        bases = list(value)
    return bases


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _join(layer: Layer, other: Layer, path: Path) -> None:
    """Add the next base of ``path`` to the ones before it, in place."""
    for key, value in other.values.items():
        old = layer.values.get(key, value)
        if isinstance(old, dict) and isinstance(value, dict):
            value = merge(layer.values.get(key, {}), value)
        elif _differ(old, value):
            raise ConfigError(
                f"{path}: its bases disagree on {key!r}: {old!r} in {layer.origin[key]}, {value!r} in "
                f"{other.origin[key]}; keep one (a name that starts with '_' stays private to its file)"
            )
        layer.values[key] = value
        layer.origin[key] = other.origin[key]
    layer.used |= other.used
    layer.late |= other.late


def _execute(
    tree: ast.Module, references: Mapping[str, str], layer: Layer, path: Path
) -> tuple[dict[str, Any], set[str]]:
    """Run the file; return the names that it defines and the names that it reads."""
    resolver = _Resolver(references, layer, path)
    try:
        tree = ast.fix_missing_locations(resolver.visit(tree))
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep to be read") from None
    scope: dict[str, Any] = {"__file__": str(path), "__name__": "pointcept_config", **resolver.bound}
    try:
        exec(compile(tree, str(path), "exec"), scope)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a config ends no tool without a word
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        hint = ""
        if isinstance(error, NameError) and getattr(error, "name", None) in layer.values:
            hint = f" (a base defines it: write {{{{_base_.{error.name}}}}})"
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise ConfigError(f"{where}: {type(error).__name__}: {_words(error)}{hint}") from error
    own = {k: v for k, v in scope.items() if not k.startswith("_") and not _is_code(v)}
    for key, value in own.items():
        _check_finite(value, f"{path}: {key}")
    read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return own, read


def _check_finite(value: Any, where: str) -> None:
    """Check that a value written out is not endless, nor so large that nothing could be done with it.

    Raises:
        ConfigError: it contains itself, is nested deeper than ``DEEPEST``, or has more than ``MOST_VALUES`` values.
    """
    count, left = 0, [iter([value])]
    inside: list[int] = []
    while left:
        item = next(left[-1], left)
        if item is left:  # the end of this container
            left.pop()
            if inside:
                inside.pop()
            continue
        count += 1
        if count > MOST_VALUES:
            raise ConfigError(f"{where}: has more than {MOST_VALUES} values")
        if not isinstance(item, (dict, list, tuple)):
            continue
        if id(item) in inside:
            raise ConfigError(f"{where}: got a {type(item).__name__} that contains itself")
        if len(inside) >= DEEPEST:
            raise ConfigError(f"{where}: is nested deeper than {DEEPEST}")
        inside.append(id(item))
        left.append(iter(item.values() if isinstance(item, dict) else item))


def _differ(one: Any, other: Any) -> bool:
    """Whether two values differ; those that cannot be compared, arrays for one, do unless they are the same object."""
    try:
        return one is not other and bool(one != other)
    except Exception:
        return True


def _words(error: BaseException) -> str:
    """The message of an error that a config raised, whose class may be the config's own."""
    try:
        return str(error)
    except Exception:
        return "(no message)"


def _is_code(value: Any) -> bool:
    """Modules, functions and classes are tools of the file, not configuration."""
    return isinstance(value, types.ModuleType) or callable(value)


def _extend(layer: Layer, own: dict[str, Any], read: Iterable[str], path: Path) -> None:
    """Put what the file itself defines on top of its bases, in place."""
    former = layer.values.get("data_root")
    layer.late |= {key for key in layer.used & own.keys() if _differ(layer.values.get(key), own[key])}
    layer.values = merge(layer.values, own)
    if former is not None and "data_root" in own:
        layer.values = follow_data_root(layer.values, former, own["data_root"])
    # A helper that is defined anew has to be read anew: overriding it would otherwise do nothing.
    layer.used = (layer.used - own.keys()) | (own.keys() & set(read))
    layer.origin.update(dict.fromkeys(own, str(path)))


def _without_marks(value: Any) -> Any:
    """A copy of ``value`` without ``_delete_`` keys."""
    if isinstance(value, dict):
        return {k: _without_marks(v) for k, v in value.items() if k != "_delete_"}
    if isinstance(value, list):
        return [_without_marks(v) for v in value]
    if type(value) is tuple:
        return tuple(_without_marks(v) for v in value)
    return value


class _Resolver(ast.NodeTransformer):
    """Gives the identifiers of :func:`_mark_references` their values, in code and in strings."""

    def __init__(self, references: Mapping[str, str], layer: Layer, path: Path) -> None:
        self.references, self.layer, self.path = references, layer, path
        self.bound: dict[str, Any] = {}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in self.references:
            if not isinstance(node.ctx, ast.Load):
                raise ConfigError(f"{self.path}:{node.lineno}: a reference to a base cannot be assigned to")
            self.bound[node.id] = self._look_up(node.id, node.lineno)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        # A docstring may explain references without meaning one.
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and node.value in self.references:
            # The whole string is one reference: it becomes the value itself and keeps its type.
            return self.visit_Name(ast.copy_location(ast.Name(node.value, ast.Load()), node))
        return self._fill(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = [self._fill(v) if isinstance(v, ast.Constant) else self.visit(v) for v in node.values]
        return node

    def _fill(self, node: ast.Constant) -> ast.Constant:
        """Write the values into a string that contains references among other text."""
        if isinstance(node.value, str):
            for name in self.references:
                if name in node.value:
                    node.value = node.value.replace(name, str(self._look_up(name, node.lineno)))
        return node

    def _look_up(self, name: str, line: int) -> Any:
        dotted = self.references[name]
        value: Any = self.layer.values
        for key in dotted.split("."):
            if isinstance(value, (list, tuple)) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                hint = did_you_mean(key, value if isinstance(value, dict) else [])
                reference = f"{{{{_base_.{dotted}}}}}"
                raise ConfigError(f"{self.path}:{line}: {reference}: its bases have no {key!r}: {hint}")
        self.layer.used.add(dotted.split(".")[0])
        return copy.deepcopy(value)
