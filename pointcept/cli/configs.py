"""List the configs that ``--config`` finds by name: ``pointcept configs [PART]``."""

from __future__ import annotations

import argparse
import sys
import textwrap

from pointcept.utils.config_files import config_names, installed_configs
from pointcept.utils.errors import ConfigError, did_you_mean

WIDTH = 120


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="List the configs that --config finds by name.")
    parser.add_argument("part", nargs="?", default="", metavar="PART", help="those with this in their name only")
    parser.add_argument("--show", action="store_true", help="print the text of the one config of that name")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the names, each with the first comment of its file.

    Raises:
        ConfigError: no name has that part in it.
    """
    folder, names = installed_configs(), config_names()
    if args.show:
        if args.part not in names:
            raise ConfigError(f"--show {args.part or 'needs a name'}: {did_you_mean(args.part, names)}")
        path = folder / f"{args.part}.py"
        sys.stdout.write(f"# {path}\n{path.read_text(encoding='utf-8')}")
        return
    found = [name for name in names if args.part in name]
    if not found:
        raise ConfigError(f"no config has {args.part!r} in its name: {did_you_mean(args.part, names)}")
    width = max(map(len, found))
    for name in found:
        first = (folder / f"{name}.py").read_text(encoding="utf-8").partition("\n")[0]
        about = first.removeprefix("#").strip()
        sys.stdout.write(f"{name:{width}}  {textwrap.shorten(about, WIDTH - width - 2)}\n")
    sys.stdout.write(f"\n{len(found)} configs in {folder}\n")
