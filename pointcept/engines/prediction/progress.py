"""What is said while scans are predicted: how far it is, what differs, what has failed, and which classes there are."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pointcept.utils.errors import DataError

logger = logging.getLogger(__name__)


class Progress:
    """Follows the prediction of several scans.

    On a terminal it is a bar, elsewhere a line of the log for each scan; both say how long it will take.

    Args:
        total: number of scans.
        names: of the classes.
    """

    def __init__(self, total: int, names: Sequence[str]) -> None:
        self.total, self.names = total, names
        self.counts = np.zeros(len(names) + 1, np.int64)  # the last: points without a class
        self.failed: list[tuple[str, Exception]] = []
        self.done = 0
        self._kinds: Counter[str] = Counter()
        self._start = self._last = time.perf_counter()
        shown = sys.stderr is not None and sys.stderr.isatty() and total > 1
        self._bar = tqdm(total=total, unit="scan", file=sys.stderr, dynamic_ncols=True) if shown else None

    def note(self, name: str, notes: Mapping[str, str]) -> None:
        """Warn of what is special about a scan; of each kind once."""
        new = [text for kind, text in notes.items() if not self._kinds[kind]]
        if new:
            self._log(logging.WARNING, "%s: %s", name, "; ".join(new))
        self._kinds.update(notes.keys())

    def written(self, target: Path, classes: np.ndarray) -> None:
        """A scan is predicted: its classes int (M,), -1 for points without one."""
        self.counts += np.bincount(np.where(classes < 0, len(self.names), classes), minlength=len(self.counts))
        seconds = self._step()
        if self._bar is None:
            place = (self.done, self.total, len(classes), seconds, target, self._left())
            logger.info("[%d/%d] %d points in %.2f s: %s%s", *place)

    def skip(self, name: str, error: Exception) -> None:
        """A scan has failed; the next one goes on."""
        self.failed.append((name, error))
        self._step()
        if self.total > 1:
            self._log(logging.ERROR, "skipped: %s%s", error, self._left() if self._bar is None else "")

    def _step(self) -> float:
        self.done += 1
        seconds, self._last = time.perf_counter() - self._last, time.perf_counter()
        if self._bar is not None:
            self._bar.update()
        return seconds

    def _left(self) -> str:
        """``, 0:01:10 left``; nothing behind the last scan."""
        if self.done >= self.total:
            return ""
        seconds = (time.perf_counter() - self._start) / self.done * (self.total - self.done)
        return f", {int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d} left"

    def _log(self, level: int, message: str, *arguments: object) -> None:
        if self._bar is not None:
            self._bar.clear()
        logger.log(level, message, *arguments)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def finish(self) -> None:
        """Say what there is: classes and their shares, and which scans have failed.

        Raises:
            DataError: scans have failed; of a single one its own error.
            FloatingPointError: scans have failed, all of them for scores that are NaN or infinite.
        """
        self.close()
        often = [f"{kind} ({times} scans)" for kind, times in self._kinds.items() if times > 1]
        if often:
            logger.warning("what was said holds for more scans: %s", ", ".join(often))
        if self.done > len(self.failed):
            logger.info("%s", self.summary())
        if not self.failed:
            return
        first = self.failed[0][1]
        if self.total == 1:
            raise first
        finite = all(isinstance(error, FloatingPointError) for _, error in self.failed)
        more = f" (and {len(self.failed) - 1} more, named above)" if len(self.failed) > 1 else ""
        text = f"{len(self.failed)} of {self.total} scans have no prediction: {first}{more}"
        raise (FloatingPointError if finite else DataError)(text) from first

    def summary(self) -> str:
        """A table of classes: points and per cent, most frequent first; classes without points are left out."""
        names, total = [*self.names, "no class"], int(self.counts.sum())
        width = max(len(name) for name in names)
        scans = self.done - len(self.failed)
        rows = [f"classes of {total} points in {scans} scan{'s' if scans > 1 else ''}:"]
        for index in np.argsort(-self.counts, kind="stable"):
            if self.counts[index]:
                share = 100 * self.counts[index] / total
                rows.append(f"  {names[index]:<{width}} {self.counts[index]:>12} {share:>6.2f} %")
        return "\n".join(rows)
