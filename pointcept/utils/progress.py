"""A live bar in a terminal. Files and pipes see nothing of it.

for scan in progress(scans, len(scans), "testing", "scan"):
    ...
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

from tqdm import tqdm

from pointcept.utils import comm
from pointcept.utils.patience import waiting

T = TypeVar("T")

WIDTH = 120
"""Columns of a line in a terminal, at most."""
OWN_ETA = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
TOLD_ETA = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"

tqdm.monitor_interval = 0  # no thread beside those of the loaders
tqdm.set_lock(threading.RLock())  # the default one is shared between processes, which would start a helper for it


class Bar:
    """A bar, if standard error is a terminal and this is rank 0; otherwise nothing.

    Args:
        total: how many there are.
        what: what is being done, ``training``.
        unit: of what.
        done: how many are done already.
        told_eta: the time left stands in the text that :meth:`update` gets; the bar estimates none itself.
    """

    def __init__(self, total: int, what: str, unit: str, done: int = 0, told_eta: bool = False) -> None:
        self._bar: Any = None
        if comm.is_main_process() and sys.stderr is not None and sys.stderr.isatty():
            size = shutil.get_terminal_size()  # not tqdm's own look, which takes a terminal without a size for full
            self._bar = tqdm(
                total=total,
                initial=done,
                desc=what,
                unit=unit,
                leave=False,
                mininterval=0.2,
                ncols=min(WIDTH, size.columns - 1),
                nrows=size.lines,
                bar_format=TOLD_ETA if told_eta else OWN_ETA,
                file=sys.stderr,
            )

    def update(self, text: str = "", count: int = 1) -> None:
        """``count`` more are done; ``text`` stands behind the bar."""
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(count)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def progress(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """Yield ``items`` beside a bar; what takes long is named in the log (see ``patience``).

    Args:
        items: to yield.
        total: how many there are.
        what: what is done with them, ``testing``.
        unit: one of them, ``scan``.
    """
    bar = Bar(total, what, f" {unit}{'es' if unit.endswith('ch') else 's'}")
    rest = iter(items)
    try:
        for number in range(1, total + 2):
            with waiting(f"{what}, {unit} {number} of {total}" if number <= total else f"the end of {what}"):
                try:
                    item = next(rest)
                except StopIteration:
                    return
                yield item
            bar.update()
        yield from rest  # more than was said
    finally:
        bar.close()


def beside_bars(stream: Any) -> Any:
    """A context in which ``stream`` may be written to without mixing with bars."""
    return tqdm.external_write_mode(file=stream) if getattr(tqdm, "_instances", None) else nullcontext()
