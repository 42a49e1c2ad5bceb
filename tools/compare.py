"""Compare results: python tools/compare.py teacher=exp/teacher student=exp/student."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept compare`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("compare", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
