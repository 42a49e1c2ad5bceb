"""The folder of a run: who may write there, what it holds, and how far back a resumed run goes in it.

save_path/lock                 the process that trains here, while it does
save_path/train.log            the log; train.lost.log has what was logged after the checkpoint that was gone on from
save_path/config.py, environment.json, events.out.tfevents.*
save_path/model/model_last.pth            the newest state of the run
save_path/model/model_previous.pth        the one before it; model_previous_2.pth and so on are older
save_path/model/model_best.pth            the state whose evaluation was best
save_path/model/epoch_<n>.pth             those that are kept (``save_freq``)
save_path/result               what the tester writes
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointcept.utils import comm, lock
from pointcept.utils.env import write_environment
from pointcept.utils.errors import ConfigError

logger = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "model_last.pth", "model_previous.pth", "model_best.pth"
LOG, LOST_LOG, EVENTS = "train.log", "train.lost.log", "events.out.tfevents.*"
TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
"""Names of files that ``save_atomically`` and ``write_text_atomic`` have not finished, with the process that wrote."""

_opened: dict[Path, int] = {}
"""Bytes of the log of a folder when this process opened it."""


def previous(folder: Path, keep_last: int) -> list[Path]:
    """Where the states before the last one are kept, the newest first, of ``keep_last`` states in all."""
    stem, suffix = PREVIOUS.split(".")
    return [folder / (PREVIOUS if n == 1 else f"{stem}_{n}.{suffix}") for n in range(1, keep_last)]


def kept(folder: Path) -> list[Path]:
    """The states of a run that there are, the newest first: ``model_last.pth``, ``model_previous.pth`` and so on."""
    older = sorted(folder.glob(PREVIOUS.replace(".pth", "*.pth")), key=lambda path: (len(path.name), path.name))
    return [path for path in (folder / LAST, *older) if path.exists()]


def resume_point(cfg: Any) -> Path | None:
    """The file that ``resume=True`` goes on from, or begins from where it holds weights alone; None to start afresh.

    It is ``weight`` if that is of the run's own folder, or if the run has no state of its own yet: started again with
    the same command, it goes on with its own.
    """
    folder = Path(cfg.save_path) / "model"
    own = kept(folder)
    if cfg.weight and (not own or Path(cfg.weight).resolve().parent == folder.resolve()):
        return Path(cfg.weight)
    return own[0] if own else None


def claim(cfg: Any) -> None:
    """Take ``cfg.save_path`` for a training, and put away what a start without a checkpoint has left there.

    Every process calls it.

    Raises:
        ConfigError: another process trains there, or it holds a run and ``cfg.resume`` does not ask to go on with it.
    """
    problem = None
    if comm.is_main_process():
        try:
            _claim(Path(cfg.save_path), cfg)
        except ConfigError as error:
            problem = str(error)
    problem = comm.broadcast_object(problem)
    if problem is not None:
        raise ConfigError(problem)


def is_claimed(cfg: Any) -> bool:
    """Whether this process has claimed ``cfg.save_path``."""
    return lock.is_held(cfg.save_path)


def release(cfg: Any) -> None:
    """Give ``cfg.save_path`` back."""
    lock.let_go(cfg.save_path)


def _claim(folder: Path, cfg: Any) -> None:
    _opened.pop(folder.resolve(), None)
    lock.hold(folder, patient=cfg.resume)  # first: that a run still goes on matters more than what it has left so far
    held = what_it_holds(folder)
    if held and not cfg.resume:
        lock.let_go(folder)
        raise ConfigError(
            f"save_path={folder} holds a run already ({held}): give another save_path, or go on with it (resume=True)"
        )
    log, point = folder / LOG, resume_point(cfg)
    own = point is not None and point.resolve().parent == (folder / "model").resolve()
    if held and not own:
        lock.let_go(folder)
        raise ConfigError(
            f"save_path={folder} holds {held} of a run, but no {LAST} to go on from: give another save_path"
        )
    remove_leftovers(folder)
    if log.exists() and not own:
        rewind(folder, {})
    _opened[folder.resolve()] = log.stat().st_size if log.exists() else 0


def what_it_holds(folder: Path) -> str | None:
    """Names what a training has left in a folder that another one would replace; None if there is no such thing."""
    files = sorted((folder / "model").glob("*.pth"))
    if (folder / LOG).exists():  # a test alone may have left results, too
        files += sorted((folder / "result").glob("miou_*.json"))
    names = [str(path.relative_to(folder)) for path in files]
    return None if not names else names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def remove_leftovers(folder: Path) -> None:
    """Remove files that a process did not come to finish, if it has ended; the folder has to be held."""
    for place in (folder, folder / "model"):
        for path in place.glob(".*.tmp"):
            match = TEMPORARY.fullmatch(path.name)
            facts = path.stat()
            if match and not lock.was_running(int(match[1]), facts.st_mtime):
                path.unlink()
                logger.info(
                    "removed %s (%.1f MB), which process %s did not finish", path, facts.st_size / 1e6, match[1]
                )


def extent(folder: Path) -> dict[str, int]:
    """How far the files of a run have come that grow while it runs: name -> bytes."""
    return {path.name: path.stat().st_size for path in (folder / LOG, *folder.glob(EVENTS)) if path.exists()}


def rewind(folder: Path, then: Mapping[str, int]) -> None:
    """Take back what was logged after a checkpoint, since it will be logged again.

    Lines of the log go to ``train.lost.log``, scalars for TensorBoard are removed. What this process has logged since
    :func:`claim` stays.

    Args:
        folder: of the run.
        then: :func:`extent` at the checkpoint.
    """
    for path in folder.glob(EVENTS):
        if path.name not in then:
            path.unlink()
        elif path.stat().st_size > then[path.name]:
            os.truncate(path, then[path.name])
    log = folder / LOG
    if not log.exists():
        return
    begin = then.get(LOG, 0)
    with open(log, "r+b") as file:
        content = file.read()
        end = _opened.get(folder.resolve(), len(content))
        if begin >= end:
            return
        with open(folder / LOST_LOG, "ab") as lost:
            lost.write(content[begin:end])
        file.seek(begin)
        file.write(content[end:])
        file.truncate()
    _opened[folder.resolve()] = begin


def write_record(cfg: Any, record: Path) -> dict[str, Any]:
    """Write what a run is made of, ``config.py`` and ``environment.json``; returns the latter."""
    cfg.dump(record / "config.py")
    return write_environment(record / "environment.json", cfg.seed)
