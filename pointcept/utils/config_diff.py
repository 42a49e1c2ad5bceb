"""What differs between two configs, key by key, and how much that matters to a run that goes on."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pointcept.utils.config_schema import defaults

# A run may go on with other values of these: they say where things lie, how fast it goes and what is told of it.
FREE = {
    *("weight", "resume", "resume_changes", "save_path", "miou_result_path", "data_root", "test_only", "seed"),
    *("num_worker", "batch_size_val", "batch_size_test", "log_freq", "evaluate", "hooks", "test", "data.test"),
    *("skip_nonfinite", "skip_out_of_memory"),
    # up to rounding
    *("backend", "cuda_graphs", "deterministic", "empty_cache", "find_unused_parameters"),
}
# The same for these at any depth. Scans and the teacher's weights themselves are compared, wherever they lie.
FREE_NAMES = {"data_root", "teacher_weight", "teacher_cache", "recompute"}

ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """One value that two configs do not share."""

    place: str
    """Dotted key, ``model.backbone.drop_path``."""
    before: Any
    """``ABSENT`` where there was none."""
    now: Any

    @property
    def free(self) -> bool:
        """Whether a run computes the same with either, up to rounding."""
        parts = self.place.split(".")
        heads = {".".join(parts[: n + 1]) for n in range(len(parts))}
        return not heads.isdisjoint(FREE) or parts[-1] in FREE_NAMES

    def __str__(self) -> str:
        before, now = ("nothing" if v is ABSENT else repr(v) for v in (self.before, self.now))
        return f"{self.place} {before} -> {now}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """What differs between two configs, in the order of their keys; a top-level key that one lacks has its default.

    Lists and tuples are one, and so are 1 and 1.0.
    """
    old, new = (dict(_leaves({**defaults(), **tree}, "")) for tree in (before, now))
    places = dict.fromkeys([*old, *new])
    found = (Difference(place, old.get(place, ABSENT), new.get(place, ABSENT)) for place in places)
    return [each for each in found if each.before is ABSENT or each.now is ABSENT or each.before != each.now]


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a tree that holds nothing more."""
    if isinstance(value, (Mapping, list, tuple)) and value:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in pairs:
            yield from _leaves(item, f"{place}.{key}" if place else str(key))
    else:
        yield place, [] if value == () else value


def parse_config(text: str) -> dict[str, Any]:
    """Read what ``Config.pretty_text`` wrote, without running it.

    Raises:
        ValueError: it is something else.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"no config: {error}") from error
    tree = {}
    for line in body:
        if not isinstance(line, ast.Assign) or len(line.targets) != 1 or not isinstance(line.targets[0], ast.Name):
            raise ValueError(f"no config: got {ast.unparse(line)[:60]!r}")
        try:
            tree[line.targets[0].id] = _value(line.value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"no config: got {ast.unparse(line)[:60]!r}") from error
    return tree


def _value(node: ast.expr) -> Any:
    """The value of plain literals, ``dict(a=1)`` and ``float("inf")``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "dict" and not node.args and all(word.arg for word in node.keywords):
            return {word.arg: _value(word.value) for word in node.keywords}
        if node.func.id == "float" and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
            return float(node.args[0].value)  # type: ignore[arg-type]
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {ast.literal_eval(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)
