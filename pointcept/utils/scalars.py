"""``scalars.jsonl``: every scalar of a run as text, one line for each moment at which some were written.

    {"iteration": 40, "train/loss": 1.234, "train/kld": 0.31, "train/kld/raw": 1.03, "lr/base": 0.002, "time/step": 0.4}

Names are those of TensorBoard. A number that is undefined or infinite is null. Whatever reads the file has to expect a
last line that is not whole: a run may be killed while it writes one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointcept.utils.errors import DataError
from pointcept.utils.files import read_regular

SCALARS = "scalars.jsonl"
ITERATION = "iteration"
MOST = 2**30  # bytes


class ScalarFile:
    """Appends lines to ``scalars.jsonl``; each is on its way to the disk when :meth:`write` returns.

    Args:
        folder: of the run; it is created with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / SCALARS
        self._stream: Any = None

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Append the values of one moment.

        Raises:
            OSError: the file cannot be written; the next call tries again.
        """
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({ITERATION: step, **numbers}, allow_nan=False) + "\n"
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = open(self.path, "ab", buffering=0)  # noqa: SIM115  # kept open
                if _ends_within_a_line(self.path):
                    line = "\n" + line
            self._stream.write(line.encode())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; more lines would open it again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


def _ends_within_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_scalars(path: str | Path) -> tuple[list[dict[str, Any]], int]:
    """What stands in a ``scalars.jsonl``.

    Returns:
        The lines as dicts, each with ``iteration``, and how many lines were left out because they are not whole.

    Raises:
        OSError: it cannot be read.
        DataError: nothing in it is such a line.
    """
    entries, broken = [], 0
    lines = read_regular(path, MOST).splitlines()
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get(ITERATION), int):
            entries.append(entry)
        elif line.strip():
            broken += 1
    if broken and not entries:
        raise DataError(f"{path} is no {SCALARS}: none of its {broken} lines is one of numbers at an iteration")
    return entries, broken
