"""Measure networks: python tools/benchmark.py --config FILE [FILE ...] [--scan PATH] [--mode ...] [--out FILE.json]."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept benchmark`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("benchmark", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
