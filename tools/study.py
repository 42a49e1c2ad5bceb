"""Cross-validate recipes over scenes: python tools/study.py --config configs/studies/semantic_kitti.py --jobs 4."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and run the study; returns the exit code."""
    from pointcept.engines.launch import exit_code
    from pointcept.engines.study.command import study_main, study_parser

    args = study_parser().parse_args()
    codes: list[int] = []
    return exit_code(lambda: codes.append(study_main(args)), args.traceback) or sum(codes)


if __name__ == "__main__":
    sys.exit(guarded(main))
