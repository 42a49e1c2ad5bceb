"""The errors that a user can cause, each with a message that says what to change.

``ValueError`` subclasses: programming mistakes inside the package stay ``AssertionError`` or
whatever Python raises, so that the two are never confused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class ConfigError(ValueError):
    """A configuration file, an ``--options`` override or a registry entry is wrong.

    Args:
        message: what was got and what is allowed.
        place: the key or argument that is wrong, ``model.backbone.drop_path``; empty if the message says it.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.message = message
        self.place = place

    def within(self, place: str) -> ConfigError:
        """The same error, seen from where ``place`` holds what is wrong: ``p`` within ``hooks.1`` is ``hooks.1.p``."""
        return ConfigError(self.message, ".".join(part for part in (place, self.place) if part))


@contextmanager
def inside(place: str) -> Iterator[None]:
    """Put ``place`` before the place of a ``ConfigError`` that is raised here, see :meth:`ConfigError.within`."""
    try:
        yield
    except ConfigError as error:
        raise error.within(place).with_traceback(error.__traceback__) from error.__cause__


class DataError(ValueError):
    """A data set folder, a scan or a label file is missing or malformed."""


class CheckpointError(ValueError):
    """A weight file is missing, damaged or does not fit the model."""


class MachineError(ValueError):
    """A file, a disk, the memory or another thing of this machine does not do what is asked of it."""


def by_nearness(got: str, valid: Iterable[str]) -> list[str]:
    """The valid names, those that look most like ``got`` first."""
    text = str(got).lower()
    return sorted(sorted(valid), key=lambda name: -difflib.SequenceMatcher(None, text, name.lower()).ratio())


def did_you_mean(got: str, valid: Iterable[str]) -> str:
    """Say which valid name is nearest to ``got`` and list all of them, nearest first.

    Args:
        got: the name that was not recognised.
        valid: every name that would have been accepted.

    Returns:
        A sentence fragment such as ``did you mean 'enc_depths'? Allowed: ...``.
    """
    names = by_nearness(got, map(str, valid))
    near = difflib.get_close_matches(str(got).lower(), [name.lower() for name in names[:1]], n=1, cutoff=0.5)
    hint = f"did you mean {names[0]!r}? " if near else ""
    return f"{hint}Allowed: {', '.join(names) if names else '(nothing)'}."
