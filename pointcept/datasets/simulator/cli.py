"""The command line of ``tools/generate_synthetic.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pointcept.utils.faults import USER_ERROR

from .generate import Settings, generate
from .layouts import LAYOUTS
from .plan import STYLES
from .report import compare


def _scene_count(text: str) -> tuple[str, int]:
    split, _, count = text.partition("=")
    if not count.isdigit():
        raise argparse.ArgumentTypeError(f"expected SPLIT=NUMBER such as train=4, got {text!r}")
    return split, int(count)


def parser() -> argparse.ArgumentParser:
    """The argument parser."""
    cli = argparse.ArgumentParser(description="Generate a synthetic street data set, or compare one with real scans.")
    cli.add_argument("--layout", choices=sorted(LAYOUTS), default="semantic_kitti")
    cli.add_argument("--out", type=Path, required=True, help="root folder of the data set")
    cli.add_argument("--scenes", type=_scene_count, nargs="+", default=[("train", 4), ("val", 1)], metavar="SPLIT=N")
    cli.add_argument("--frames", type=int, default=10, help="labelled frames of each scene")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--style", choices=sorted(STYLES), help="one street style for all scenes (default: mixed)")
    cli.add_argument("--num_workers", type=int, default=1, help="processes; the bytes do not depend on it")
    cli.add_argument("--resume", action="store_true", help="complete an interrupted run")
    cli.add_argument("--report", type=Path, metavar="REAL_ROOT", help="compare --out with real SemanticKITTI scans")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status (2 after a message on stderr for an error of the user's)."""
    args = parser().parse_args(argv)
    try:
        if args.report is not None:
            sys.stdout.write(compare(args.report, args.out))
            return 0
        settings = Settings(args.layout, args.out, dict(args.scenes), args.frames, args.seed, args.style)
        with tqdm(unit="scene", desc=args.layout, disable=not sys.stderr.isatty()) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.n = done
                bar.refresh()

            count = generate(settings, args.num_workers, args.resume, show)
    except (ValueError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        return USER_ERROR
    sys.stdout.write(f"{count} scenes of {args.frames} frames written to {args.out}\n")
    return 0
