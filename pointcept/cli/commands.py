"""The table of commands: each is a module with ``argument_parser()`` and ``main(args)``, imported when it is called.

``main`` raises the errors of :mod:`pointcept.utils.errors`, which the door turns into a line and an exit code, and
returns None, or an exit code of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from pointcept.utils.errors import ConfigError, did_you_mean


class Command(NamedTuple):
    """One command.

    Attributes:
        module: where its ``argument_parser`` and ``main`` are.
        help: what it does, in a line.
    """

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "predict": Command("pointcept.engines.predict", "label scan files, or a folder of them"),
    "train": Command("pointcept.cli.train", "train a network, or distil one"),
    "test": Command("pointcept.cli.test", "evaluate weights at full point resolution"),
    "view": Command("pointcept.views.command", "draw scans: truth, teacher, student, errors"),
    "report": Command("pointcept.reports.command", "write the report of a run"),
    "compare": Command("pointcept.reports.compare_command", "put the results of runs side by side"),
    "ablation": Command("pointcept.engines.ablation", "train with and without each loss of a distillation"),
    "study": Command("pointcept.engines.study.command", "cross-validate recipes over scenes and seeds"),
    "export": Command("pointcept.export.command", "write a student that runs outside this repository"),
    "benchmark": Command("pointcept.engines.benchmark.command", "measure networks: FLOPs, time, memory"),
    "benchmark-data": Command("pointcept.cli.benchmark_data", "measure reading, transforms and collation"),
    "simulate": Command("pointcept.datasets.simulator.cli", "simulate a street data set with labels"),
    "preprocess": Command("pointcept.cli.preprocess", "prepare nuScenes or Waymo Open for training"),
    "configs": Command("pointcept.cli.configs", "list the configs that --config finds by name"),
}


def command(name: str) -> Command:
    """The command of a name.

    Raises:
        ConfigError: there is none; the message has the nearest one.
    """
    if name not in COMMANDS:
        raise ConfigError(f"pointcept has no command {name!r}: {did_you_mean(name, COMMANDS)}")
    return COMMANDS[name]
