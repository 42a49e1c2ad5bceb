"""The errors that a user can cause, each with a message that says what to change.

``ValueError`` subclasses: programming mistakes inside the package stay ``AssertionError`` or
whatever Python raises, so that the two are never confused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration file, an ``--options`` override or a registry entry is wrong."""


class DataError(ValueError):
    """A data set folder, a scan or a label file is missing or malformed."""


class CheckpointError(ValueError):
    """A weight file is missing, damaged or does not fit the model."""


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
