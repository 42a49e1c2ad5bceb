"""What a layout does: simulate and write one scene, then write what spans scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..scene import Scene, draw_scene

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Job:
    """One scene to generate.

    Attributes:
        out: root folder of the data set.
        split, index: which scene.
        frames: labelled frames of the scene.
        seed: seed of the whole data set.
        style: a street style for all scenes; drawn for each when None.
    """

    out: Path
    split: str
    index: int
    frames: int
    seed: int
    style: str | None = None

    @property
    def name(self) -> str:
        """``<split>_<index>``."""
        return f"{self.split}_{self.index:04d}"

    def _seed(self, *more: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(SPLITS.index(self.split), self.index, *more))

    def scene(self, duration: float) -> Scene:
        """The scene for a drive of ``duration`` [s]; the same from any process."""
        return draw_scene(self._seed(), duration, self.style)

    def noise(self, *which: int) -> np.random.Generator:
        """The generator of one scan's noise, so that scans do not depend on the order in which they are made."""
        return np.random.default_rng(self._seed(1, *which))


class Layout(Protocol):
    """A data set on disk; all methods write each file in one step."""

    def check(self, scenes: dict[str, int], frames: int) -> None:
        """Refuse numbers of scenes or frames that the layout cannot hold (raises ``ConfigError``)."""

    def bytes_per_scene(self, frames: int) -> int:
        """About how many bytes a scene takes."""

    def write_scene(self, job: Job) -> dict[str, Any]:
        """Write the files of one scene; return what :meth:`finish` needs of it, as JSON types."""

    def finish(self, out: Path, jobs: list[Job], parts: list[dict[str, Any]]) -> None:
        """Write the files that span scenes, given all jobs and what their scenes returned."""
