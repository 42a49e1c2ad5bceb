"""Write the report of a run: python tools/report.py exp/semantic_kitti/student."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and write the report; returns the exit code."""
    from pointcept.engines.launch import exit_code
    from pointcept.reports import command

    args = command.argument_parser().parse_args()
    return exit_code(lambda: command.main(args), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
