"""Ablate losses: python tools/ablation.py --config configs/semantic_kitti/distill_full.py --seeds 0 1."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept ablation`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("ablation", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
