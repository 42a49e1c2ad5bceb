"""Measure networks: python tools/benchmark.py --config FILE [FILE ...] [--scan PATH] [--mode ...] [--out FILE.json]."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and measure; returns the exit code, 3 if a row failed."""
    from pointcept.engines.benchmark.command import argument_parser, benchmark_main
    from pointcept.engines.launch import exit_code

    args = argument_parser().parse_args()
    failed: list[int] = []
    code = exit_code(lambda: failed.append(benchmark_main(args)), args.traceback)
    return code or (3 if any(failed) else 0)


if __name__ == "__main__":
    sys.exit(guarded(main))
