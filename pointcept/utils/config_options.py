"""Command-line overrides: ``--options model.backbone.drop_path=0.1 hooks.2.save_freq=1``."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from pointcept.utils.config_schema import SCHEMA
from pointcept.utils.errors import ConfigError, did_you_mean

WORDS = {"true": True, "false": False, "none": None}
PAIRS = {"[": "]", "(": ")", "{": "}"}


def parse_options(options: Iterable[str]) -> dict[str, Any]:
    """Turn ``["epoch=3", "save_path=exp/a"]`` into ``{"epoch": 3, "save_path": "exp/a"}``.

    Values are Python literals where they can be read as such; ``true``, ``false`` and ``none``
    count in any case; a comma outside brackets makes a list; anything else is a string. A later
    option wins over an earlier one of the same key.

    Args:
        options: ``key.sub=value`` strings.

    Raises:
        ConfigError: no ``=``, an empty key, or a value that opens a bracket and cannot be read.
    """
    try:
        return _parse(options)
    except RecursionError:
        raise ConfigError("--options: a value is nested too deep to be read") from None


def _parse(options: Iterable[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for option in options:
        key, separator, text = option.partition("=")
        key = key.strip()
        if not separator or not all(key.split(".")):
            raise ConfigError(f"--options: got {option!r}, allowed: key=value or key.sub=value")
        parsed.pop(key, None)
        parsed[key] = _parse_text(text.strip()) if _is_text(key) else parse_value(text, f"--options {key}")
    return parsed


def _is_text(key: str) -> bool:
    """Whether the schema wants a string here: ``save_path=2024_01`` is then not a number."""
    return key in SCHEMA and str in SCHEMA[key].types


def _parse_text(text: str) -> str | None:
    if text.lower() == "none":
        return None
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def parse_value(text: str, where: str) -> Any:
    """Read one value as :func:`parse_options` describes.

    Raises:
        ConfigError: the value opens a bracket or a quote and cannot be read.
    """
    text = text.strip()
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    pieces = _split(text, where)
    if len(pieces) > 1:
        return [parse_value(piece, where) for piece in pieces if piece.strip()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if text[:1] in ("[", "(") and text.endswith(PAIRS[text[0]]):
        items = [parse_value(piece, where) for piece in _split(text[1:-1], where) if piece.strip()]
        return items if text[0] == "[" else tuple(items)
    if text[:1] in ("[", "(", "{"):
        raise ConfigError(f"{where}: got {text!r}, which is no Python literal")
    return text


def _split(text: str, where: str) -> list[str]:
    """Cut at the commas that stand outside brackets and quotes."""
    pieces, start, closers, quote = [], 0, "", ""
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in PAIRS:
            closers += PAIRS[letter]
        elif letter in PAIRS.values():
            if closers[-1:] != letter:
                raise ConfigError(f"{where}: got {text!r}, in which {letter!r} closes nothing")
            closers = closers[:-1]
        elif letter == "," and not closers:
            pieces.append(text[start:i])
            start = i + 1
    if closers:
        raise ConfigError(f"{where}: got {text!r}, in which {closers[-1]!r} is missing")
    return [*pieces, text[start:]]


def apply_options(tree: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``tree`` with the overrides in it.

    A new key is accepted at the top level if the schema has it, and in a dict with a ``type``
    (whose constructor then decides); otherwise a key has to exist already.

    Args:
        tree: resolved config, schema keys only.
        options: ``{"a.b.0.c": value}``; digits index lists and tuples.

    Raises:
        ConfigError: a key that does not exist, with the nearest one that does.
    """
    for option, value in options.items():
        keys = option.split(".")
        if keys[0] not in SCHEMA:
            raise ConfigError(f"--options {option}: unknown config key {keys[0]!r}: {did_you_mean(keys[0], SCHEMA)}")
        tree = _assign(tree, keys, 0, value)
    return tree


def _assign(node: Any, keys: list[str], depth: int, value: Any) -> Any:
    """Return a copy of ``node`` in which ``keys[depth:]`` leads to ``value``."""
    key, last = keys[depth], depth == len(keys) - 1
    option, parent = ".".join(keys), ".".join(keys[:depth]) or "the config"
    if isinstance(node, (list, tuple)):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigError(
                f"--options {option}: got {key!r} as index of {parent}, allowed: 0 to {len(node) - 1}"
                if node
                else f"--options {option}: {parent} is empty, so it has no {key!r}"
            )
        items = list(node)
        items[int(key)] = value if last else _assign(items[int(key)], keys, depth + 1, value)
        return type(node)(items)
    if not isinstance(node, dict):
        raise ConfigError(f"--options {option}: {parent} is {node!r}, not a dict, so it has no {key!r}")
    new_is_fine = last and (depth == 0 or "type" in node)
    if key not in node and not new_is_fine:
        raise ConfigError(f"--options {option}: {parent} has no {key!r}: {did_you_mean(key, node)}")
    return {**node, key: value if last else _assign(node[key], keys, depth + 1, value)}
