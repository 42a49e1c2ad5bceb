"""Predict scan files: python tools/predict.py --config FILE --options weight=PATH --scan FILE --out FILE.npy."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept predict`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("predict", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
