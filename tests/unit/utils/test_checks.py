"""Checks of single values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pointcept.utils.checks import (
    check_choice,
    check_integer,
    check_integers,
    check_number,
    check_numbers,
    check_range,
)
from pointcept.utils.errors import ConfigError

NOT_NUMBERS = (True, "1", None, [1], float("nan"), float("inf"), -float("inf"))


def test_what_is_allowed_comes_back() -> None:
    assert check_number("a", 1, 0, 1) == 1.0
    assert isinstance(check_number("a", np.float32(0.5)), float)
    assert check_integer("a", np.int64(3), 3, 3) == 3
    assert check_numbers("a", (1, 2.5)) == (1.0, 2.5)
    assert check_integers("a", [0, 1], 2) == (0, 1)
    assert check_range("a", [1, 1]) == (1.0, 1.0)
    assert check_choice("a", "x", ("x", "y")) == "x"


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_number(value: Any) -> None:
    for check in (check_number, check_integer):
        with pytest.raises(ConfigError, match=r"^a: got "):
            check("a", value)
    for check_all in (check_numbers, check_integers, check_range):
        with pytest.raises(ConfigError, match=r"^a: got "):
            check_all("a", [1, value])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_number("a", -1, 0), "a: got -1, allowed: a finite number at least 0"),
        (lambda: check_number("a", 0, 0, open_low=True), "a: got 0, allowed: a finite number above 0"),
        (
            lambda: check_number("a", 1, 0, 1, open_high=True),
            "a: got 1, allowed: a finite number at least 0 and below 1",
        ),
        (lambda: check_integer("a", 1.0), "a: got 1.0, allowed: an integer"),
        (lambda: check_numbers("a", []), "a: got [], allowed: a list of finite numbers"),
        (lambda: check_numbers("a", "12", 2), "a: got '12', allowed: a list of 2 finite numbers"),
        (lambda: check_integers("a", [1, -1], low=0), "a: got [1, -1], allowed: a list of integers at least 0"),
        (lambda: check_range("a", (2, 1)), "a: got (2, 1), allowed: two numbers (low, high), low not above high"),
        (lambda: check_choice("a", "chioce", ("choice",)), "a: got 'chioce': did you mean 'choice'? Allowed: choice."),
        (lambda: check_choice("a", 3, ("x",)), "a: got 3: Allowed: x."),
    ],
)
def test_the_message_says_what_was_got_and_what_is_allowed(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == message
    assert str(caught.value.within("hooks.1")) == f"hooks.1.{message}"
