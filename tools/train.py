"""Train a network: python tools/train.py --config configs/semantic_kitti/teacher.py [--options key=value ...]."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept train`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("train", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
