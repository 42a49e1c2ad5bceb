"""Evaluate weights: python tools/test.py --config configs/semantic_kitti/student.py --options weight=PATH."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept test`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("test", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
