"""Checks of values that a config gives, for the constructors that get them.

    self.p = check_number("p", p, 0, 1)
    self.mode = check_choice("mode", mode, ("train", "test"))

Each returns the value, and raises a ``ConfigError`` with the argument's name, what was got and what is allowed; the
registry that builds the object puts the place in the config before it: ``data.train.transform.0.p: got 2, ...``.
A bool is no number, and neither are NaN and infinity.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

from pointcept.utils.errors import ConfigError, did_you_mean


def refused(name: str, got: Any, allowed: str) -> ConfigError:
    """The error for an argument: its name, what was got, what is allowed."""
    return ConfigError(f"got {got!r}, allowed: {allowed}", name)


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return ``value`` as a float if it is a finite number in [``low``, ``high``].

    Args:
        name: the argument.
        value: what the config gives.
        low: smallest allowed number.
        high: largest allowed number.
        open_low: ``low`` itself is not allowed.
        open_high: ``high`` itself is not allowed.

    Raises:
        ConfigError: no number, not finite, or outside.
    """
    if not _is_number(value) or not _inside(float(value), low, high, open_low, open_high):
        raise refused(name, value, _words("a finite number", low, high, open_low, open_high))
    return float(value)


def check_integer(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> int:
    """Return ``value`` as an int if it is an integer in [``low``, ``high``].

    Raises:
        ConfigError: no integer, or outside.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise refused(name, value, _words("an integer", low, high, False, False))
    return int(value)


def check_numbers(
    name: str,
    value: Any,
    count: int | None = None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> tuple[float, ...]:
    """Return ``value`` as a tuple of floats, each as :func:`check_number` wants it.

    Args:
        name: the argument.
        value: what the config gives, a list or a tuple.
        count: how many there have to be; None for any number but 0.
        low, high, open_low, open_high: see :func:`check_number`.

    Raises:
        ConfigError: no sequence, another number of entries, or an entry that is refused.
    """
    right = _is_list(value) and (len(value) == count if count is not None else len(value) > 0)
    if not right or not all(_is_number(v) and _inside(float(v), low, high, open_low, open_high) for v in value):
        each = _words("finite numbers", low, high, open_low, open_high)
        raise refused(name, value, f"a list of {count} {each}" if count is not None else f"a list of {each}")
    return tuple(float(v) for v in value)


def check_integers(
    name: str, value: Any, count: int | None = None, low: float = -math.inf, high: float = math.inf
) -> tuple[int, ...]:
    """Return ``value`` as a tuple of ints, each as :func:`check_integer` wants it; ``count`` as :func:`check_numbers`.

    Raises:
        ConfigError: no sequence, another number of entries, or an entry that is refused.
    """
    right = _is_list(value) and (len(value) == count if count is not None else len(value) > 0)
    if not right or not all(_is_number(v) and isinstance(v, Integral) and low <= int(v) <= high for v in value):
        each = _words("integers", low, high, False, False)
        raise refused(name, value, f"a list of {count} {each}" if count is not None else f"a list of {each}")
    return tuple(int(v) for v in value)


def check_range(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, open_low: bool = False
) -> tuple[float, float]:
    """Return ``value`` as a pair of finite numbers in [``low``, ``high``], the first one not above the second.

    Raises:
        ConfigError: it is not such a pair.
    """
    first, second = check_numbers(name, value, 2, low, high, open_low=open_low)
    if first > second:
        raise refused(name, value, "two numbers (low, high), low not above high")
    return first, second


def check_choice(name: str, value: Any, allowed: Collection[str]) -> str:
    """Return ``value`` if it is one of the names in ``allowed``.

    Raises:
        ConfigError: it is not; the message has the nearest name.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"got {value!r}: {did_you_mean(str(value), allowed)}", name)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _inside(value: float, low: float, high: float, open_low: bool, open_high: bool) -> bool:
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    return math.isfinite(value) and above and below


def _words(kind: str, low: float, high: float, open_low: bool, open_high: bool) -> str:
    """``a finite number above 0 and at most 1``."""
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if open_low else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"{'below' if open_high else 'at most'} {high:g}")
    return f"{kind} {' and '.join(bounds)}" if bounds else kind
