"""The command that writes the report of runs.

    python tools/report.py exp/semantic_kitti/distill_full --teacher exp/semantic_kitti/teacher

It reads what the runs have left, at any time: while they go on, after they were killed, on another machine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pointcept.reports.report import write_reports
from pointcept.utils.errors import ConfigError


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/report.py``."""
    parser = argparse.ArgumentParser(description="Write report.html and report.md of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, its save_path")
    parser.add_argument(
        "--teacher", type=Path, metavar="RUN", help="run or result to compare with; by default that of the config"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write into this folder instead (one run)")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the reports, and say where they are and what they lack.

    Raises:
        ConfigError: --out with several runs.
        DataError: no such run or teacher, or a report cannot be written.
    """
    if args.out is not None and len(args.runs) > 1:
        raise ConfigError(f"--out {args.out} is for one run, got {len(args.runs)}")
    for folder in args.runs:
        report = write_reports(folder, args.teacher, args.out)
        sys.stdout.write("".join(f"missing: {note}\n" for note in report.missing))
        sys.stdout.write(f"{report.html}\n{report.markdown}\n")
