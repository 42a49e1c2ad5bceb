"""Predict scan files: python tools/predict.py SCAN [SCAN ...] --weight FILE --out FOLDER."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and predict; returns the exit code."""
    from pointcept.engines import predict
    from pointcept.engines.launch import exit_code

    args = predict.argument_parser().parse_args()
    return exit_code(lambda: predict.main(args), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
