"""Ablate losses: python tools/ablation.py --config configs/semantic_kitti/distill_full.py --seeds 0 1."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and run the ablation; returns the exit code."""
    from pointcept.engines.ablation import ablation_main, ablation_parser
    from pointcept.engines.launch import exit_code

    args = ablation_parser().parse_args()
    return exit_code(lambda: ablation_main(args), args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
