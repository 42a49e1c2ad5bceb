"""The command ``pointcept simulate``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pointcept.utils.errors import ConfigError
from pointcept.utils.logging import close_logging, setup_logging
from pointcept.utils.patience import waiting
from pointcept.utils.progress import Bar

from .generate import Settings, generate
from .layouts import LAYOUTS
from .plan import STYLES
from .report import compare


def _scene_count(text: str) -> tuple[str, int]:
    split, _, count = text.partition("=")
    if not count.isdigit():
        raise argparse.ArgumentTypeError(f"expected SPLIT=NUMBER such as train=4, got {text!r}")
    return split, int(count)


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(description="Generate a synthetic street data set, or compare one with real scans.")
    cli.add_argument("--layout", choices=sorted(LAYOUTS), default="semantic_kitti")
    cli.add_argument("--out", type=Path, required=True, help="root folder of the data set")
    cli.add_argument("--scenes", type=_scene_count, nargs="+", default=[("train", 4), ("val", 1)], metavar="SPLIT=N")
    cli.add_argument("--frames", type=int, default=10, help="labelled frames of each scene")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--style", choices=sorted(STYLES), help="one street style for all scenes (default: mixed)")
    cli.add_argument(
        "--varied", action="store_true", help="another scanner, height and brightness in each frame, frames 2 s apart"
    )
    cli.add_argument("--num_workers", type=int, default=1, help="processes; the bytes do not depend on it")
    cli.add_argument("--resume", action="store_true", help="complete an interrupted run")
    cli.add_argument("--report", type=Path, metavar="REAL_ROOT", help="compare --out with real SemanticKITTI scans")
    cli.add_argument("--traceback", action="store_true", help="show where an error was raised")
    return cli


def main(args: argparse.Namespace) -> None:
    """Generate what the arguments say, or compare.

    Raises:
        ConfigError: settings that cannot be, or the extra 'simulator' is missing.
        DataError: the output folder cannot be used, or there are no scans to compare.
    """
    setup_logging()
    try:
        if args.report is not None:
            sys.stdout.write(compare(args.report, args.out))
            return
        settings = Settings(args.layout, args.out, dict(args.scenes), args.frames, args.seed, args.style, args.varied)
        count = _generate(settings, args)
    except ImportError as error:
        raise ConfigError(str(error)) from error
    finally:
        close_logging()
    sys.stdout.write(f"{count} scenes of {args.frames} frames written to {args.out}\n")


def _generate(settings: Settings, args: argparse.Namespace) -> int:
    """Generate beside a bar; returns the number of scenes."""
    bar, told = Bar(sum(settings.scenes.values()), args.layout, " scenes"), 0
    with waiting(f"simulation of {args.layout}") as wait:

        def show(done: int, total: int) -> None:
            nonlocal told
            wait.what = f"simulation of {args.layout}, {done} of {total} scenes are done"
            bar.update(count=done - told)
            told = done

        try:
            return generate(settings, args.num_workers, args.resume, show)
        finally:
            bar.close()
