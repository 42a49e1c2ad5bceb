"""Generates a synthetic data set: scenes in parallel, restartable, the same bytes from the same seed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pointcept.utils.errors import ConfigError, DataError, did_you_mean
from pointcept.utils.files import write_text_atomic

from .layouts import LAYOUTS, Job
from .layouts.base import SPLITS
from .plan import STYLES

STATE = ".generated"
_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """What to generate.

    Attributes:
        layout: a name of :data:`.layouts.LAYOUTS`.
        out: root folder of the data set.
        scenes: number of scenes of each split.
        frames: labelled frames of each scene.
        seed: all bytes follow from it and the other settings.
        style: a name of :data:`.plan.STYLES` for all scenes; drawn for each when None.
    """

    layout: str
    out: Path
    scenes: Mapping[str, int]
    frames: int = 10
    seed: int = 0
    style: str | None = None

    def check(self) -> None:
        """Raises ``ConfigError`` if something cannot be generated."""
        if self.layout not in LAYOUTS:
            raise ConfigError(f"unknown layout {self.layout!r}: {did_you_mean(self.layout, LAYOUTS)}")
        for split, count in self.scenes.items():
            if split not in SPLITS:
                raise ConfigError(f"unknown split {split!r}: {did_you_mean(split, SPLITS)}")
            if count < 0:
                raise ConfigError(f"the number of {split} scenes must not be negative, got {count}")
        if not sum(self.scenes.values()):
            raise ConfigError("no scenes to generate: give at least one, for instance train=1")
        if self.frames < 1 or self.seed < 0:
            raise ConfigError(f"frames must be positive and seed not negative, got {self.frames} and {self.seed}")
        if self.style is not None and self.style not in STYLES:
            raise ConfigError(f"unknown street style {self.style!r}: {did_you_mean(self.style, STYLES)}")
        LAYOUTS[self.layout].check(dict(self.scenes), self.frames)

    def jobs(self) -> list[Job]:
        """All scenes, split by split."""
        return [
            Job(self.out, split, i, self.frames, self.seed, self.style)
            for split in SPLITS
            for i in range(self.scenes.get(split, 0))
        ]

    def record(self) -> dict[str, Any]:
        """What a later ``resume`` must agree with; JSON types."""
        scenes = {split: self.scenes.get(split, 0) for split in SPLITS}
        return {
            "version": _VERSION, "layout": self.layout, "scenes": scenes, "frames": self.frames, "seed": self.seed,
            "style": self.style,
        }  # fmt: skip


def _part_file(job: Job) -> Path:
    return job.out / STATE / f"{job.name}.json"


def _write_scene(layout: str, job: Job) -> str:
    """Generate one scene and leave a mark that it is complete; return its name."""
    part = LAYOUTS[layout].write_scene(job)
    write_text_atomic(_part_file(job), json.dumps(part))
    return job.name


def _prepare(settings: Settings, resume: bool) -> None:
    """Check the output folder and note the settings in it.

    Raises:
        DataError: the folder holds something else, or another run with other settings, or the disk is too small.
    """
    out, state = settings.out, settings.out / STATE / "settings.json"
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder")
    if out.exists() and any(out.iterdir()):
        if not resume:
            raise DataError(f"{out} is not empty: give another --out, or --resume to complete an interrupted run")
        if not state.is_file():
            raise DataError(f"{out} was not made by this generator ({state} is missing): give another --out")
        before, now = json.loads(state.read_text()), settings.record()
        changed = [f"{key}: {before.get(key)!r} -> {now[key]!r}" for key in now if before.get(key) != now[key]]
        if changed:
            raise DataError(f"{out} was begun with other settings ({'; '.join(changed)}): resume needs the same ones")
    out.mkdir(parents=True, exist_ok=True)
    missing = sum(not _part_file(job).is_file() for job in settings.jobs())
    need = missing * LAYOUTS[settings.layout].bytes_per_scene(settings.frames)
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(f"{out}: about {need / 1e6:.0f} MB are needed, the disk has {free / 1e6:.0f} MB left")
    write_text_atomic(state, json.dumps(settings.record()))


def _results(layout: str, jobs: list[Job], num_workers: int) -> Iterator[str]:
    """Run the jobs here (``num_workers`` <= 1) or in that many processes; yield names as scenes are complete."""
    run = partial(_write_scene, layout)
    if num_workers <= 1:
        yield from map(run, jobs)
        return
    # spawn: Embree's threads do not survive a fork
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def generate(
    settings: Settings,
    num_workers: int = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Generate the data set that ``settings`` describe; return the number of scenes generated now.

    Args:
        settings: what to generate.
        num_workers: processes; the bytes do not depend on it.
        resume: complete an interrupted run in the same folder.
        progress: called with (scenes done, scenes in all).

    Raises:
        ConfigError: settings that cannot be.
        DataError: the output folder cannot be used, or the disk is full; no half-written file is left.
    """
    settings.check()
    try:
        _prepare(settings, resume)
        jobs = settings.jobs()
        todo = [job for job in jobs if not _part_file(job).is_file()]
        before = len(jobs) - len(todo)
        for done, _ in enumerate(_results(settings.layout, todo, num_workers), start=before + 1):
            if progress is not None:
                progress(done, len(jobs))
        parts = [json.loads(_part_file(job).read_text()) for job in jobs]
        LAYOUTS[settings.layout].finish(settings.out, jobs, parts)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{settings.out}: no space left on the disk; free some and continue with --resume ({error})"
            ) from error
        raise DataError(f"{settings.out}: cannot write: {error}") from error
    return len(todo)
