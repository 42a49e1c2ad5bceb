"""Plays all cases, two at a time, and counts how they ended."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.faults import linux
from tests.faults.case import FAILURES, KINDS, SURVIVED, Broken, Fault, NotHere, Verdict
from tests.faults.promises import judge
from tests.faults.stage import Stage
from tests.faults.world import World

CASE_LIMIT = 900.0
"""Seconds for one case; its tools have limits of their own, so this one is for errors of the harness."""
IMPORTED = (
    "pointcept.engines.defaults", "pointcept.engines.predict", "pointcept.evaluation.compare", "tensorboardX",
    "torch._dynamo", "yapf.yapflib.yapf_api",
)  # fmt: skip
"""What the tools import at their start or later."""
NOT_HERE, HARNESS = "not here", "harness"


def preload() -> None:
    """Import all that the tools import, so that a tool is a fork of this process.

    Raises:
        RuntimeError: an import has started a thread, which a fork would lose.
    """
    for name in IMPORTED:
        importlib.import_module(name)
    if threading.active_count() > 1 or len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a thread runs in the process that tools are forked from")


def play(fault: Fault, folder: Path, world: World) -> Verdict:
    """Play one case in this process, which it may change: mounts, orphans."""
    start = time.monotonic()
    linux.adopt_orphans()
    stage = Stage(folder, world)
    found: list[Broken] = []
    try:
        if fault.mounts:
            linux.own_mounts()
        fault.inject(stage)
        for holds in fault.holds:
            try:
                holds(stage)
            except Broken as broken:
                found.append(broken)
    except Broken as broken:
        found.append(broken)
    except NotHere as reason:
        return Verdict(fault.kind, fault.name, NOT_HERE, [str(reason)], time.monotonic() - start)
    except Exception:  # a case itself may be wrong: then it has no outcome, and the campaign fails
        text = traceback.format_exc()
        told = [f"{ending.what}: exit code {ending.code}: {ending.said[-1500:]}" for ending in stage.endings[-1:]]
        return Verdict(fault.kind, fault.name, HARNESS, [text, *told], time.monotonic() - start)
    found += judge(stage)
    found.sort(key=lambda broken: list(FAILURES).index(broken.outcome))
    outcome = found[0].outcome if found else SURVIVED
    messages = [f"{broken.outcome}: {broken}" for broken in found]
    return Verdict(fault.kind, fault.name, outcome, messages, time.monotonic() - start)


def run(faults: Sequence[Fault], jobs: int, keep: bool = False) -> Iterator[Verdict]:
    """Play ``faults``, ``jobs`` at a time, each in a process of its own; verdicts come as cases end.

    Args:
        keep: leave the folders of cases that did not survive.
    """
    preload()
    with _temporary(keep) as root:
        world = World(root / "world")
        world.build()
        waiting, playing = list(faults), dict[int, tuple[Fault, Path, float]]()
        while waiting or playing:
            while waiting and len(playing) < jobs:
                fault = waiting.pop(0)
                number = len(faults) - len(waiting)
                folder = root / re.sub(r"\W+", "-", f"{number}-{fault.kind}-{fault.name}")[:60]
                playing[_fork(fault, folder, world)] = fault, folder, time.monotonic()
            for pid, (fault, folder, start) in list(playing.items()):
                verdict = _look(pid, fault, folder, start)
                if verdict is not None:
                    del playing[pid]
                    if not keep or verdict.outcome == SURVIVED:
                        _remove(folder)
                    yield verdict
            time.sleep(0.02)


def _fork(fault: Fault, folder: Path, world: World) -> int:
    folder.mkdir(parents=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        verdict = play(fault, folder, world)
        (folder / "verdict.json").write_text(json.dumps(asdict(verdict)))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _look(pid: int, fault: Fault, folder: Path, start: float) -> Verdict | None:
    """The verdict of a case if it has ended."""
    if os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() - start < CASE_LIMIT:
            return None
        for number in [*linux.descendants(pid), pid]:
            os.kill(number, signal.SIGKILL)
        os.waitpid(pid, 0)
    try:
        return Verdict(**json.loads((folder / "verdict.json").read_text()))
    except (OSError, ValueError) as error:
        return Verdict(fault.kind, fault.name, HARNESS, [f"no verdict: {error}"], time.monotonic() - start)


@contextmanager
def _temporary(keep: bool) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        yield root
    finally:
        if keep:
            sys.stderr.write(f"folders of the cases: {root}\n")
        else:
            _remove(root)


def _remove(folder: Path) -> None:
    """Remove a folder in which cases have taken rights away."""
    for place, names, _ in os.walk(folder):
        for name in names:
            if not os.path.islink(os.path.join(place, name)):
                os.chmod(os.path.join(place, name), 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def table(verdicts: Sequence[Verdict]) -> str:
    """How many cases of each kind ended how, as a Markdown table."""
    columns = [SURVIVED, *FAILURES]
    columns += [name for name in (NOT_HERE, HARNESS) if any(verdict.outcome == name for verdict in verdicts)]
    rows = [["kind", "tried", *columns], ["---", *["---:"] * (len(columns) + 1)]]
    for kind in [*KINDS, ""]:
        own = [verdict for verdict in verdicts if kind in ("", verdict.kind)]
        if own:
            counts = Counter(verdict.outcome for verdict in own)
            name = f"{kind} {KINDS[kind]}" if kind else "all"
            tried = len(own) - counts[NOT_HERE]
            rows.append([name, str(tried), *(str(counts[column]) for column in columns)])
    widths = [max(len(row[i]) for row in rows if "---" not in row[0]) for i in range(len(rows[0]))]
    rows[1] = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
