"""Write a folder that labels scans without this repository: python tools/export.py --weight PATH --out FOLDER."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept export`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("export", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
