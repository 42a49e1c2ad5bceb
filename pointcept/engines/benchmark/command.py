"""The command line of ``tools/benchmark.py``.

    python tools/benchmark.py --config configs/nuscenes/teacher.py configs/nuscenes/student.py --scan FILE \\
        --mode infer train --dtype fp16 fp32 --backend auto torch --out result.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pointcept.engines.benchmark.measure import Row, measure
from pointcept.engines.benchmark.plan import Settings, plan_cases, read_configs
from pointcept.engines.benchmark.table import add_ratios, format_rows, growth
from pointcept.engines.benchmark.workloads import DTYPES, MODES
from pointcept.utils.config import parse_options
from pointcept.utils.env import collect_environment
from pointcept.utils.errors import ConfigError, did_you_mean
from pointcept.utils.files import write_text_atomic
from pointcept.utils.logging import setup_logging

logger = logging.getLogger(__name__)

DEFAULT_POINTS = 20_000
AXES = ("config", "scan", "points", "mode", "backend", "dtype", "batch")  # options that multiply rows


def argument_parser() -> argparse.ArgumentParser:
    """The command line; every option that takes several values adds rows."""
    parser = argparse.ArgumentParser(description="Parameters, FLOPs, time and memory of networks, in one table.")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument("--config", "--config-file", required=True, metavar="FILE", **several)
    parser.add_argument(
        "--scan", type=Path, default=[], metavar="PATH", help="a scan file or a folder of them: one input", **several
    )
    parser.add_argument(
        "--points", type=int, default=[], metavar="N", help="a made-up street of N points: one input", **several
    )
    parser.add_argument("--mode", nargs="+", choices=list(MODES), default=["infer"])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["fp32"])
    parser.add_argument(
        "--backend",
        nargs="+",
        default=["auto"],
        metavar="NAME",
        help="as in POINTCEPT_BACKEND, which it replaces: auto, torch, sparse_convolution=spconv, ...",
    )
    parser.add_argument("--baseline", metavar="NAME", help="backend that ratios refer to; the first of several")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], metavar="N", help="scans in a batch")
    parser.add_argument("--iterations", type=int, default=20, help="calls that are timed")
    parser.add_argument("--warmup", type=int, default=5, help="calls before these")
    parser.add_argument("--profiled", type=int, default=5, help="calls whose kernels are counted, on a GPU")
    parser.add_argument("--top", type=int, default=0, metavar="K", help="list the K kernels that took longest")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of what training draws")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON, after each of them")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", default=[], metavar="KEY=VALUE", help="override in every config, weight=PATH", **several
    )
    return parser


def benchmark_main(args: argparse.Namespace) -> int:
    """Measure what the arguments name, write the table to standard output and the rows to ``--out``.

    Returns:
        The number of rows that failed.

    Raises:
        ConfigError: a config, an option or a name is wrong.
        DataError: a scan is missing or malformed.
    """
    setup_logging()
    if args.traceback:
        logging.getLogger("pointcept").setLevel(logging.DEBUG)
    chosen = {key: list(dict.fromkeys(getattr(args, key))) for key in AXES}
    backends = chosen["backend"]
    baseline = args.baseline or (backends[0] if len(backends) > 1 else None)
    if baseline is not None and baseline not in backends:
        raise ConfigError(f"--baseline {baseline}: {did_you_mean(baseline, backends)}")
    settings = Settings(args.iterations, args.warmup, args.profiled, args.top, args.seed)
    configs = read_configs(chosen["config"], parse_options(args.options))
    points = chosen["points"] or ([] if args.scan else [DEFAULT_POINTS])
    cases = plan_cases(configs, chosen["scan"], points, chosen["mode"], backends, chosen["dtype"], chosen["batch"])
    facts = collect_environment(settings.seed)
    rows: list[Row] = []
    for number, case in enumerate(cases, start=1):
        rows.append(measure(case, settings))
        logger.info("[%d/%d] %s", number, len(cases), _line(rows[-1]))
        if args.out is not None:
            _write(args.out, facts, settings, add_ratios(rows, baseline))
    rows = add_ratios(rows, baseline)
    sys.stdout.write(f"\n{_head(facts, settings)}\n\n{format_rows(rows)}")
    return sum(row.error is not None for row in rows)


def _line(row: Row) -> str:
    what = f"{row.config} {row.input} x {row.scans} {row.mode} {row.dtype} {row.backend}"
    return f"{what}: {row.error or f'{row.median_ms:.2f} ms'}"


def _head(facts: Mapping[str, Any], settings: Settings) -> str:
    gpus = [gpu["name"] for gpu in facts.get("gpus", [])]
    where = gpus[0] if gpus else f"CPU, {facts['torch_threads']} thread(s)"
    commit = (facts["git"]["commit"] or "unknown")[:10] + (" with local changes" if facts["git"]["dirty"] else "")
    return (
        f"{where}, torch {facts['torch']}, commit {commit}, {settings.iterations} iterations after "
        f"{settings.warmup}, seed {settings.seed}"
    )


def _write(path: Path, facts: Mapping[str, Any], settings: Settings, rows: Sequence[Row]) -> None:
    result = {
        "environment": facts,
        "settings": asdict(settings),
        "rows": [asdict(row) for row in rows],
        "growth": [asdict(entry) for entry in growth(rows)],
    }
    write_text_atomic(path, json.dumps(result, indent=2) + "\n")
