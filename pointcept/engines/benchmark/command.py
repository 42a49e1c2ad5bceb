"""The command line of ``tools/benchmark.py``.

    python tools/benchmark.py --config configs/nuscenes/teacher.py configs/nuscenes/student.py --scan FILE \\
        --mode infer train --dtype fp16 fp32 --backend auto torch --out result.json
    python tools/benchmark.py --from result.json --plot growth.svg
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from pointcept.engines.benchmark.measure import STAGED, Row, measure
from pointcept.engines.benchmark.plan import PEAK_GBS, PEAK_TFLOPS, Settings, plan_cases, read_configs
from pointcept.engines.benchmark.plot import check_plot, draw_growth
from pointcept.engines.benchmark.result import Result, read_result, write_result
from pointcept.engines.benchmark.table import add_ratios, format_rows
from pointcept.engines.benchmark.workloads import DTYPES, MODES
from pointcept.utils.config import parse_options
from pointcept.utils.env import collect_environment
from pointcept.utils.errors import ConfigError, did_you_mean
from pointcept.utils.files import writable_file
from pointcept.utils.logging import setup_logging

logger = logging.getLogger(__name__)

DEFAULT_POINTS = 20_000
AXES = ("config", "scan", "points", "mode", "backend", "dtype", "batch")  # options that multiply rows


def argument_parser() -> argparse.ArgumentParser:
    """The command line; every option that takes several values adds rows."""
    parser = argparse.ArgumentParser(description="Parameters, FLOPs, time and memory of networks, in one table.")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    parser.add_argument("--config", "--config-file", default=[], metavar="FILE", **several)
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
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw time and memory over the voxels of two or more --points, as SVG"
    )
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="FILE", help="show what an earlier --out holds; measure nothing"
    )
    parser.add_argument("--stages", action="store_true", help=f"also measure every stage of mode {STAGED}")
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=PEAK_TFLOPS,
        help="10^12 operations per second that the floors of --stages assume; by default half precision of an H100 SXM "
        f"without sparsity, {PEAK_TFLOPS:g}",
    )
    parser.add_argument(
        "--peak-gbs",
        type=float,
        default=PEAK_GBS,
        help=f"10^9 bytes per second, likewise; by default memory of an H100 SXM, {PEAK_GBS:g}",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", default=[], metavar="KEY=VALUE", help="override in every config, weight=PATH", **several
    )
    return parser


def benchmark_main(args: argparse.Namespace) -> int:
    """Measure what the arguments name: the table goes to standard output, rows to ``--out``, a figure to ``--plot``.

    Returns:
        The number of rows that failed; 0 where nothing was measured.

    Raises:
        ConfigError: a config, an option or a name is wrong, or the figure needs what is not installed.
        DataError: a scan or an earlier result is missing or malformed, or there is nothing to draw.
    """
    setup_logging()
    if args.traceback:
        logging.getLogger("pointcept").setLevel(logging.DEBUG)
    _check(args)
    result = _measured(args) if args.earlier is None else read_result(args.earlier)
    sys.stdout.write(f"\n{_head(result)}\n\n{format_rows(result.rows)}")
    if args.plot is not None:
        draw_growth(result.rows, args.plot)
    return 0 if args.earlier else sum(row.error is not None for row in result.rows)


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is measured."""
    if args.plot is not None:
        check_plot(args.plot)
        writable_file(args.plot, "--plot")
    if args.out is not None:
        writable_file(args.out, "--out")
    if args.earlier is not None:
        given = [f"--{key}" for key in ("config", "scan", "points", "out") if getattr(args, key)]
        if given or args.stages:
            raise ConfigError(f"--from measures nothing: leave out {', '.join(given) or '--stages'}, or --from")
        return
    if not args.config:
        raise ConfigError("nothing to do: name a --config FILE to measure, or an earlier result --from FILE")
    if args.plot is not None and len(set(args.points)) < 2:
        raise ConfigError(f"--plot {args.plot}: growth needs two or more sizes: --points 10000 100000 1000000")
    if args.stages and STAGED not in args.mode:
        raise ConfigError(f"--stages measures the mode {STAGED}, got --mode {' '.join(args.mode)}")


def _measured(args: argparse.Namespace) -> Result:
    """Measure row after row, and write all so far to ``--out`` after each."""
    chosen = {key: list(dict.fromkeys(getattr(args, key))) for key in AXES}
    backends = chosen["backend"]
    baseline = args.baseline or (backends[0] if len(backends) > 1 else None)
    if baseline is not None and baseline not in backends:
        raise ConfigError(f"--baseline {baseline}: {did_you_mean(baseline, backends)}")
    peaks = args.peak_tflops, args.peak_gbs
    settings = Settings(args.iterations, args.warmup, args.profiled, args.top, args.seed, args.stages, *peaks)
    configs = read_configs(chosen["config"], parse_options(args.options))
    points = chosen["points"] or ([] if args.scan else [DEFAULT_POINTS])
    cases = plan_cases(configs, chosen["scan"], points, chosen["mode"], backends, chosen["dtype"], chosen["batch"])
    facts = collect_environment(settings.seed)
    rows: list[Row] = []
    for number, case in enumerate(cases, start=1):
        rows.append(measure(case, settings))
        logger.info("[%d/%d] %s", number, len(cases), _line(rows[-1]))
        if args.out is not None:
            write_result(args.out, Result(facts, settings, add_ratios(rows, baseline)))
    return Result(facts, settings, add_ratios(rows, baseline))


def _line(row: Row) -> str:
    what = f"{row.config} {row.input} x {row.scans} {row.mode} {row.dtype} {row.backend}"
    return f"{what}: {row.error or f'{row.median_ms:.2f} ms'}"


def _head(result: Result) -> str:
    facts, settings = result.environment, result.settings
    gpus = [gpu["name"] for gpu in facts.get("gpus", [])]
    where = gpus[0] if gpus else f"CPU, {facts['torch_threads']} thread(s)"
    commit = (facts["git"]["commit"] or "unknown")[:10] + (" with local changes" if facts["git"]["dirty"] else "")
    peaks = f", floors at {settings.peak_tflops:g} TFLOP/s and {settings.peak_gbs:g} GB/s" if settings.stages else ""
    return (
        f"{where}, torch {facts['torch']}, commit {commit}, {settings.iterations} iterations after "
        f"{settings.warmup}, seed {settings.seed}{peaks}"
    )
