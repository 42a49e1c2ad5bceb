"""Cross-validate recipes over scenes: python tools/study.py --config configs/studies/semantic_kitti.py --jobs 4."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept study`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("study", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
