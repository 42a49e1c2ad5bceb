"""Compare results: python tools/compare.py teacher=exp/teacher student=exp/student."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and show the table; returns the exit code."""
    from pointcept.engines.launch import exit_code
    from pointcept.evaluation.compare import argument_parser, compare

    args = argument_parser().parse_args()
    return exit_code(lambda: sys.stdout.write(compare(args.runs)), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
