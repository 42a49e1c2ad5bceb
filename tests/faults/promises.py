"""What must hold after a fault; each raises ``Broken`` with the outcome that the user would meet."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from pointcept.engines import launch
from pointcept.engines.launch import INTERRUPTED, NOT_FINITE, USER_ERROR
from tests.faults import records
from tests.faults.case import Broken, Step
from tests.faults.process import Ending
from tests.faults.stage import Stage, files

OK, LOST_LOSS, USER, FAILED_ROW, AGAIN, INTERRUPTED = 0, NOT_FINITE, USER_ERROR, 3, launch.AGAIN, INTERRUPTED
DOCUMENTED = (OK, LOST_LOSS, USER, FAILED_ROW, AGAIN, INTERRUPTED)
CRASH = re.compile(
    r"Traceback \(most recent call last\)|--- Logging error ---|Exception ignored in|Fatal Python error|"
    r"terminate called|Segmentation fault|core dumped|Error in sys\.|Exception in thread"
)


def judge(stage: Stage) -> Iterator[Broken]:
    """What must hold for every fault."""
    for ending in stage.endings:
        yield from _judge_ending(ending)
    if stage.endings and stage.ending.code != -signal.SIGKILL:
        left = [str(path.relative_to(stage.folder)) for path in stage.run.rglob("*.tmp")]
        if left:
            yield Broken("leaked", f"temporary files: {', '.join(left)}")


def _judge_ending(ending: Ending) -> Iterator[Broken]:
    if ending.code is None:
        yield Broken("hung", f"{ending.what}: no end within {ending.seconds:.0f} s; it said: {_tail(ending)}")
        return
    found = CRASH.search(ending.said)
    if found:
        line = next((text for text in reversed(ending.said.splitlines()) if "Error" in text), found[0])
        yield Broken("traceback", f"{ending.what}: {found[0]}: {line.strip()}")
    if ending.code < 0 and -ending.code not in ending.sent:
        yield Broken("traceback", f"{ending.what}: died of signal {-ending.code}: {_tail(ending)}")
    elif ending.code >= 0 and ending.code not in DOCUMENTED and ending.code - 128 not in ending.sent:
        yield Broken("unclear", f"{ending.what}: exit code {ending.code} is not documented: {_tail(ending)}")
    if ending.left:
        yield Broken("leaked", f"{ending.what}: still running: {'; '.join(ending.left)}")


def _tail(ending: Ending, lines: int = 4) -> str:
    return " / ".join(ending.said.strip().splitlines()[-lines:]) or "(nothing)"


def message(ending: Ending) -> str:
    """The one error message of a tool: its ``error:`` line and the indented lines behind it; empty without one."""
    lines = ending.err.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return ""
    end = starts[0] + 1
    while end < len(lines) and lines[end].startswith("  "):
        end += 1
    return "\n".join(lines[starts[0] : end])


def missing_words(text: str, words: Iterable[str]) -> list[str]:
    """Those of ``words`` that are not in ``text``; ``a|b`` asks for one of them, and case does not matter."""
    low = text.lower()
    return [word for word in words if not any(part in low for part in word.lower().split("|"))]


def refused(*words: str, codes: tuple[int, ...] = (USER,)) -> Step:
    """The tool ended with one of ``codes`` and one message that has all ``words``; nothing looks like a result."""

    def check(stage: Stage) -> None:
        ending = stage.ending
        if ending.code == OK:
            raise Broken("silent", f"{ending.what}: exit code 0; it said: {_tail(ending)}")
        if ending.code in DOCUMENTED and ending.code not in codes:
            raise Broken("unclear", f"{ending.what}: exit code {ending.code}, expected {codes}: {_tail(ending)}")
        said = message(ending)
        if not said:
            raise Broken("unclear", f"{ending.what}: no line 'error: ...': {_tail(ending)}")
        if ending.err.count("\nerror: ") + ending.err.startswith("error: ") > 1:
            raise Broken("unclear", f"{ending.what}: more than one error: {ending.err}")
        absent = missing_words(said, words)
        if absent:
            raise Broken("unclear", f"{ending.what}: the message does not say {absent}: {said}")

    return check


def succeeded(stage: Stage) -> None:
    """The tool that ended last did what it was asked for."""
    if stage.ending.code != OK:
        raise Broken("lost", f"{stage.ending.what}: exit code {stage.ending.code}: {_tail(stage.ending)}")


def ended(*codes: int) -> Step:
    """The tool that ended last had one of these exit codes."""

    def check(stage: Stage) -> None:
        if stage.ending.code not in codes:
            ending = stage.ending
            raise Broken("unclear", f"{ending.what}: exit code {ending.code}, expected {codes}: {_tail(ending)}")

    return check


def said(*words: str, outcome: str = "silent") -> Step:
    """Whichever way it went, the user was told: the last tool said all ``words``."""

    def check(stage: Stage) -> None:
        absent = missing_words(stage.ending.said, words)
        if absent:
            raise Broken(outcome, f"{stage.ending.what}: not a word of {absent}: {_tail(stage.ending)}")

    return check


def saved_at(step: int, path: str = "run/model/model_last.pth") -> Step:
    """The newest checkpoint is that of ``step`` or a later one."""

    def check(stage: Stage) -> None:
        found = iteration(stage.folder / path)
        if found < step:
            raise Broken("lost", f"stopped after step {step}, the checkpoint is of step {found}")

    return check


def iteration(path: Path) -> int:
    """The step of a checkpoint; -1 where there is none that can be read."""
    try:
        return int(torch.load(path, weights_only=False)["iteration"])
    except Exception:  # any damage: for the user there is no checkpoint
        return -1


def equals_whole(stage: Stage) -> None:
    """The run is the one that nothing has disturbed: checkpoints bit by bit, results, log lines and curves."""
    equals_whole_numbers(stage)
    whole = stage.world.whole(stage.recipe)
    _same("train.log", records.progress(stage.run), records.progress(whole))
    _same("TensorBoard", records.scalars(stage.run), records.scalars(whole))


def equals_whole_numbers(stage: Stage) -> None:
    """As :func:`equals_whole`, without the records of its progress, which the fault has hit."""
    if stage.ending.code != OK:
        raise Broken("lost", f"{stage.ending.what}: exit code {stage.ending.code}: {_tail(stage.ending)}")
    whole = stage.world.whole(stage.recipe)
    for name in ("model_last.pth", "model_best.pth"):
        _same(name, records.checkpoint(stage.model / name), records.checkpoint(whole / "model" / name))
    _same_results(stage.run, whole)


def _same_results(run: Path, whole: Path) -> None:
    for path in (whole / "result").glob("*.json"):
        own = run / "result" / path.name
        if path.name.startswith("miou"):
            if not own.exists():
                raise Broken("lost", f"no {own}")
            _same(path.name, records.result(own), records.result(path))


def _same(what: str, one: Any, other: Any) -> None:
    found = list(records.differences(one, other))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise Broken("silent", f"{what} is not that of the undisturbed run: {'; '.join(found[:5])}{more}")


def equals_or_refused(*words: str) -> Step:
    """The undisturbed run's result after all, or an error that says ``words``."""

    def check(stage: Stage) -> None:
        (equals_whole_numbers if stage.ending.code == OK else refused(*words))(stage)

    return check


def nothing_saved(stage: Stage) -> None:
    """No checkpoint and no result was written."""
    found = [path.name for path in stage.run.rglob("*") if path.suffix == ".pth" or path.name.startswith("miou")]
    if found:
        raise Broken("silent", f"written although the run was refused: {', '.join(found)}")


def keep(stage: Stage, folder: Path | None = None) -> None:
    """Remember the files of the run, for :func:`kept`; the lock of a process that has ended is none of them."""
    stage.notes["kept"] = {name: content for name, content in files(folder or stage.run).items() if name != "lock"}


def kept(stage: Stage) -> None:
    """Every file that :func:`keep` has seen is there with its content, under its name or set aside with the run."""
    contents = [path.read_bytes() for path in stage.folder.rglob("*") if path.is_file()]
    gone = [name for name, content in stage.notes["kept"].items() if content and content not in contents]
    if gone:
        raise Broken("lost", f"overwritten or gone: {', '.join(gone)}")
