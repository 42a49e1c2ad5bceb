"""Look at scans: python tools/view.py --weight PATH --teacher --out scan.png scan.html."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept view`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("view", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
