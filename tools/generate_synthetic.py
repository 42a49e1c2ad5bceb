#!/usr/bin/env python3
"""Generate a synthetic street data set in one of the official layouts, or compare one with real scans.

    python tools/generate_synthetic.py --layout semantic_kitti --out data/synthetic --scenes train=4 val=1 --frames 10
    python tools/generate_synthetic.py --out data/synthetic --report data/semantic_kitti

The second form needs no generation: it compares the SemanticKITTI layout in --out with real scans in the same layout.
Needs the extra 'simulator' (embreex).
"""

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and generate; returns the exit code."""
    from pointcept.datasets.simulator import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(guarded(main))
