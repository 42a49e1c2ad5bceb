"""Write a folder that labels scans without this repository: python tools/export.py --weight PATH --out FOLDER."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and export; returns the exit code."""
    from pointcept.engines.launch import exit_code
    from pointcept.export import command

    args = command.argument_parser().parse_args()
    return exit_code(lambda: command.main(args), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
