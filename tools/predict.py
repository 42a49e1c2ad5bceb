"""Predict scan files: python tools/predict.py --config FILE --options weight=PATH --scan FILE --out FILE.npy."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and predict; returns the exit code."""
    from pointcept.engines.launch import exit_code
    from pointcept.engines.predict import argument_parser, predict_main

    args = argument_parser().parse_args()
    return exit_code(lambda: predict_main(args), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
