"""Look at scans: python tools/view.py --weight PATH --teacher --out scan.png scan.html."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and draw; returns the exit code."""
    from pointcept.engines.launch import exit_code
    from pointcept.views.command import argument_parser
    from pointcept.views.command import main as view

    args = argument_parser().parse_args()
    return exit_code(lambda: view(args), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
