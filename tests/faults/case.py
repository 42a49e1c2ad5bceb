"""What a fault is: a small declared case, and the outcomes that a case can have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.stage import Stage

KINDS = {
    "A": "exact resume",
    "B": "checkpoints",
    "C": "disk",
    "D": "data",
    "E": "processes",
    "F": "environment",
    "G": "config",
    "H": "testing",
}

SURVIVED = "survived"
FAILURES = {
    "lost": "work is gone that was promised to be kept",
    "silent": "a wrong result, or a change of the run, without a word",
    "hung": "no end, and no word, within the time limit",
    "leaked": "processes or temporary files are left behind",
    "traceback": "a traceback or a crash for what a user or a machine did",
    "unclear": "an error that does not say what was wrong, or another exit code than the documented one",
}
"""Every other outcome than ``survived``, the gravest first."""

Step = Callable[["Stage"], None]


class Broken(Exception):
    """A promise that did not hold.

    Args:
        outcome: a key of ``FAILURES``.
        message: what was found.
    """

    def __init__(self, outcome: str, message: str) -> None:
        assert outcome in FAILURES, outcome
        super().__init__(message)
        self.outcome = outcome


class NotHere(Exception):
    """This machine cannot inject the fault; the message says why."""


@dataclass(frozen=True)
class Fault:
    """One injected fault.

    Args:
        kind: a key of ``KINDS``.
        name: unique; what goes wrong.
        inject: brings the fault about, with the command line tools.
        holds: what must be true afterwards; each raises ``Broken``. What must hold for every fault (no traceback, no
            hang, nothing left behind, documented exit codes) is judged without being declared.
        quick: belongs to the part that runs with the other tests.
        mounts: mounts file systems, so it needs a mount namespace.
    """

    kind: str
    name: str
    inject: Step
    holds: tuple[Step, ...] = ()
    quick: bool = False
    mounts: bool = False


FAULTS: list[Fault] = []


def fault(
    kind: str,
    name: str,
    inject: Step,
    *holds: Step,
    quick: bool = False,
    mounts: bool = False,
    at: list[Fault] = FAULTS,
) -> None:
    """Declare a fault, see :class:`Fault`."""
    assert kind in KINDS
    assert all(name != other.name for other in at), f"two faults are called {name!r}"
    at.append(Fault(kind, name, inject, holds, quick, mounts))


@dataclass(frozen=True)
class Verdict:
    """How a fault ended.

    Args:
        kind: of the fault.
        name: of the fault.
        outcome: ``survived``, a key of ``FAILURES``, or ``not here``.
        messages: every promise that did not hold.
        seconds: wall-clock time.
    """

    kind: str
    name: str
    outcome: str
    messages: Sequence[str]
    seconds: float
