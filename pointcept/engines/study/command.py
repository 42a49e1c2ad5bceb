"""The command of a study: run what is not finished, several runs at a time, and collect.

    python tools/study.py --config configs/studies/semantic_kitti.py --jobs 4 --time-limit 570 \\
        --options data_root=DATA

Started again, it skips what is finished and goes on with what was interrupted. ``results`` in the study's folder
is all that a later call on another machine needs, beside the ``weights`` of teachers whose students are not finished.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from pointcept.engines.launch import AGAIN, INTERRUPTED, USER_ERROR
from pointcept.engines.study.jobs import Jobs, left_to_do
from pointcept.engines.study.plan import Planner, Run, Study, load_study
from pointcept.engines.study.report import collect, summarise
from pointcept.engines.study.tables import markdown
from pointcept.evaluation.report import without_nan
from pointcept.utils.config import parse_options
from pointcept.utils.errors import ConfigError, did_you_mean
from pointcept.utils.files import write_text_atomic
from pointcept.utils.logging import setup_logging

logger = logging.getLogger(__name__)

REPORT = "study"
FAILED = 1


def study_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/study.py``."""
    parser = argparse.ArgumentParser(
        description="Scene cross-validation of the rows of a study.",
        epilog=f"exit codes: 0 all runs are finished, {AGAIN} the time is over, or a scheduler has asked to stop, and "
        f"runs are left, {FAILED} runs have failed, {USER_ERROR} something is wrong with the study, "
        f"{INTERRUPTED} Ctrl-C",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="study file")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="these rows only, and their teachers")
    parser.add_argument("--folds", nargs="+", type=int, default=[], metavar="K", help="these folds only, from 0")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="these seeds instead")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="runs at a time; GPUs take turns")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds until everything has been saved")
    parser.add_argument(
        "--grace", type=float, default=45.0, metavar="S", help="seconds of the limit that saving may take; 45"
    )
    parser.add_argument("--collect", action="store_true", help="run nothing")
    parser.add_argument("--baseline", nargs="+", default=[], metavar="ROW", help="compare with these rows instead")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="SCENE", help="scenes that do not count")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="overrides for every row"
    )
    return parser


def study_main(args: argparse.Namespace) -> int:
    """Run what is left, and print and write the tables; returns 0, ``FAILED`` or ``AGAIN``.

    Raises:
        ConfigError: anything wrong with the study or the arguments.
        DataError: there is nothing to collect, or results that do not belong together.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after running trainings have been saved.
    """
    if args.jobs < 1 or args.grace < 0 or (args.time_limit is not None and args.time_limit <= 0):
        raise ConfigError(f"--jobs {args.jobs} --time-limit {args.time_limit} --grace {args.grace}: expected more")
    options = parse_options(args.options)
    study = load_study(args.config, options.pop("save_path", None))
    for row in args.baseline:
        if row not in study.rows:
            raise ConfigError(f"--baseline {row}: {did_you_mean(row, study.rows)}")
    runs = Planner(study, options).runs(args.rows, args.folds, args.seeds)
    code = 0 if args.collect else run_all(study, runs, args)
    if any(run.result.exists() for run in runs) or args.collect:
        report(study, runs, args)
    return code


def run_all(study: Study, runs: list[Run], args: argparse.Namespace) -> int:
    """Do the runs that are left, as long as there is time; returns the exit code."""
    left = left_to_do(runs)
    setup_logging(study.save_path, f"{REPORT}.log", resume=True)
    logger.info("%d runs, %d of them left to do", len(runs), len(left))
    outcome = Jobs(args.jobs, args.time_limit, args.grace).run(left)
    if outcome.left:
        logger.info("left: %d runs: %s", len(outcome.left), ", ".join(outcome.left))
    if outcome.failed:
        logger.error("failed: %s", ", ".join(outcome.failed))
        return FAILED
    return AGAIN if outcome.left else 0


def report(study: Study, runs: list[Run], args: argparse.Namespace) -> None:
    """Print the tables, and write them beside the numbers that they were made of."""
    summary = summarise(collect(runs, args.leave_out), args.baseline or study.baseline)
    text = markdown(summary)
    folder = Path(study.save_path)
    numbers = json.dumps(without_nan(summary), separators=(",", ":"), allow_nan=False)
    write_text_atomic(folder / f"{REPORT}.json", numbers + "\n")
    write_text_atomic(folder / f"{REPORT}.md", text)
    sys.stdout.write(text)
