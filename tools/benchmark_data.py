"""Time the input pipeline: python tools/benchmark_data.py --config FILE --options data_root=PATH [--json FILE]."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line, time, and show the table; returns the exit code."""
    from pointcept.datasets.benchmark import argument_parser, benchmark
    from pointcept.engines.defaults import load_config
    from pointcept.engines.launch import exit_code
    from pointcept.utils.config import parse_options

    args = argument_parser().parse_args()

    def run() -> None:
        cfg = load_config(args.config, parse_options(args.options))
        sys.stdout.write(benchmark(cfg, args))

    return exit_code(run, args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
