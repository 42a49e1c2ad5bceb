"""Time the input pipeline: python tools/benchmark_data.py --config FILE --options data_root=PATH [--json FILE]."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept benchmark-data`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("benchmark-data", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
