"""From the words of a command line to an exit code (docs/reliability.md); help imports nothing that takes time."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from pointcept import __version__
from pointcept.cli.commands import COMMANDS, command
from pointcept.utils.errors import ConfigError
from pointcept.utils.faults import USER_ERROR, guarded
from pointcept.utils.streams import complain

USAGE = "usage: pointcept COMMAND [OPTION ...]"


def overview() -> str:
    """All commands, one a line."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {entry.help}" for name, entry in COMMANDS.items()]
    return "\n".join(
        [
            USAGE,
            "",
            "Train LiDAR segmentation networks, distil them into small ones, label scans.",
            "",
            *rows,
            "",
            "pointcept COMMAND --help   the options of a command",
            "pointcept --version        the version",
            "",
        ]
    )


def run(name: str, words: Sequence[str], prog: str | None = None) -> int:
    """Run one command; returns its exit code.

    Args:
        name: a key of ``COMMANDS``.
        words: what follows it.
        prog: how messages call the program; by default as it was called.

    Raises:
        ConfigError: there is no such command.
    """
    return run_module(command(name).module, words, prog)


def run_module(name: str, words: Sequence[str], prog: str | None = None) -> int:
    """Run a module that has ``argument_parser`` and ``main``; the rest as for :func:`run`."""
    module = importlib.import_module(name)
    parser = module.argument_parser()
    if prog is not None:
        parser.prog = prog
    args = parser.parse_args(words)
    from pointcept.engines.launch import exit_code

    codes: list[int] = []
    failed = exit_code(lambda: codes.append(module.main(args) or 0), getattr(args, "traceback", False))
    return failed or sum(codes)


def dispatch(words: Sequence[str]) -> int:
    """Run what ``words`` (without the program) say; returns the exit code."""
    first = words[0] if words else ""
    if first in ("-h", "--help", "help"):
        if first == "help" and len(words) > 1:
            return dispatch([words[1], "--help"])
        sys.stdout.write(overview())
        return 0
    if first in ("-V", "--version"):
        sys.stdout.write(f"pointcept {__version__}\n")
        return 0
    if not first:
        complain(overview().rstrip())
        return USER_ERROR
    try:
        return run(first, words[1:], f"pointcept {first}")
    except ConfigError as error:  # no such command: those of commands have become exit codes
        complain(f"error: {error}")
        return USER_ERROR


def main() -> int:
    """The entry point of the installed program; returns the exit code."""
    return guarded(lambda: dispatch(sys.argv[1:]))
