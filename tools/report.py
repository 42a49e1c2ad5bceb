"""Write the report of a run: python tools/report.py exp/semantic_kitti/student."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Do what ``pointcept report`` does; returns the exit code."""
    from pointcept.cli.door import run

    return run("report", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(guarded(main))
