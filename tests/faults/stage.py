"""What a case plays on: a folder of its own, the tools, and what they have left."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults.case import Broken
from tests.faults.process import LIMIT, Conditions, Ending, Running, Then
from tests.faults.trigger import Moment
from tests.faults.world import FLAGS, World

Act = Callable[[Running, int], Any]


class Stage:
    """The place of one case.

    Args:
        folder: empty; everything that the case writes lies here.
        world: what it starts from.

    Attributes:
        endings: of all tools that have run, in order.
        notes: what ``inject`` keeps for ``holds``.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.run = folder / "run"
        self.recipe = "student"
        self.more = ""
        self.endings: list[Ending] = []
        self.notes: dict[str, Any] = {}
        self._started = 0
        self._own_data = False

    @property
    def data(self) -> Path:
        """A copy of the data that the case may damage; the runs of the case read it once it was asked for."""
        path = self.folder / "data"
        if not self._own_data:
            shutil.copytree(self.world.data, path)
            self._own_data = True
        return path

    def scan(self, frame: int = 0, sequence: str = "00", labels: bool = False) -> Path:
        """A scan file of :attr:`data`, or its labels."""
        kind, suffix = ("labels", "label") if labels else ("velodyne", "bin")
        return self.data / "dataset" / "sequences" / sequence / kind / f"{frame:06d}.{suffix}"

    @property
    def model(self) -> Path:
        """Folder of the checkpoints."""
        return self.run / "model"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.model / "model_last.pth"

    @property
    def ending(self) -> Ending:
        """Of the tool that ended last."""
        return self.endings[-1]

    def use(self, recipe: str, more: str = "") -> None:
        """Which recipe the tools get, and what follows it in the config."""
        self.recipe, self.more = recipe, more
        self.world.prepare(recipe)

    def config(self) -> Path:
        """The config file of the recipe for this case."""
        path = self.folder / "config.py"
        data = self.data if self._own_data else self.world.data
        path.write_text(self.world.recipe(self.recipe, data, self.folder / "cache", self.more))
        return path

    def take(self, run: Path) -> None:
        """Begin with a copy of a run of the world, and of its teacher's cache."""
        shutil.copytree(run, self.run)
        if (run.parent / "cache").exists():
            shutil.copytree(run.parent / "cache", self.folder / "cache")

    def weight(self, recipe: str = "student") -> Path:
        """Trained weights of a recipe, a copy that the case may damage."""
        path = self.folder / f"{recipe}.pth"
        if not os.path.lexists(path):
            shutil.copy(self.world.whole(recipe) / "model" / "model_best.pth", path)
        return path

    def start(self, tool: str, *arguments: str, then: Then | None = None, **conditions: Any) -> Running:
        """Start a tool with exactly these arguments; see ``Conditions`` for the others."""
        self._started += 1
        place = self.folder / f"tool{self._started}"
        return Running(tool, arguments, place, Conditions(**conditions), then)

    def end(self, running: Running, limit: float = LIMIT) -> Ending:
        """Wait for a tool that was started."""
        self.endings.append(running.wait(limit))
        return self.ending

    def call(self, tool: str, *arguments: str, limit: float = LIMIT, **conditions: Any) -> Ending:
        """Run a tool with exactly these arguments to its end."""
        return self.end(self.start(tool, *arguments, **conditions), limit)

    def command(self, *options: str, flags: tuple[str, ...] = ()) -> list[str]:
        """Arguments of ``train.py`` and ``test.py``: the recipe's config, the case's ``save_path``, and ``options``."""
        return ["--config", str(self.config()), *flags, "--options", f"save_path={self.run}", *options]

    def train(self, *options: str, flags: tuple[str, ...] = (), **conditions: Any) -> Ending:
        """Train."""
        flags = (*FLAGS.get(self.recipe, ()), *flags)
        return self.call("train", *self.command(*options, flags=flags), **conditions)

    def resume(self, *options: str, **conditions: Any) -> Ending:
        """Go on, with the same command and ``resume=True``."""
        return self.train("resume=True", *options, **conditions)

    def test(self, *options: str, **conditions: Any) -> Ending:
        """Test; ``weight=`` is among the options, or that of :meth:`weight` is taken."""
        if not any(option.startswith("weight=") for option in options):
            options = (f"weight={self.weight(self.recipe)}", *options)
        return self.call("test", *self.command(*options), **conditions)

    def predict(self, scan: Path, out: Path, *options: str, flags: tuple[str, ...] = (), **conditions: Any) -> Ending:
        """Predict a scan file or a folder of them."""
        arguments = ["--config", str(self.config()), "--scan", str(scan), "--out", str(out), *flags]
        weight = f"weight={self.weight(self.recipe)}"
        return self.call("predict", *arguments, "--options", weight, *options, **conditions)

    def interrupted(self, moment: Moment, act: Act, *options: str, **conditions: Any) -> Ending:
        """Train until ``moment``, and let ``act`` do something to the run there.

        Raises:
            Broken: the run ended before.
        """
        ending = self.train(*options, moment=moment, then=act, **conditions)
        if not ending.reached:
            raise Broken("unclear", f"{ending.what}: ended before {moment}: {ending.said[-500:]}")
        return ending


def send(number: int, group: bool = False) -> Act:
    """Send a signal to the main process, or to its whole process group as schedulers do."""

    def act(running: Running, pid: int) -> None:
        running.send(number, -running.pid if group else None)

    return act


def send_workers(number: int, first: bool = True) -> Act:
    """Send a signal to one or all of the loading processes."""

    def act(running: Running, pid: int) -> None:
        for worker in running.workers()[: 1 if first else None]:
            running.send(number, worker)

    return act


KILL = send(signal.SIGKILL)


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file around; ``bit`` counts through the whole file, and through it again."""
    content = bytearray(path.read_bytes())
    place = bit % (8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def overwrite(path: Path, start: int, content: bytes) -> None:
    """Overwrite a part of a file in place."""
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a checkpoint holds."""
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and what it holds."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def make_unreadable(path: Path) -> None:
    """Take all rights to a file or folder away."""
    os.chmod(path, 0)
