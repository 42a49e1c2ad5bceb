"""An ablation of distillation losses: which of a config's losses to keep, over several seeds, in one command.

    python tools/ablation.py --config configs/semantic_kitti/distill_full.py --seeds 0 1

runs the rows of arXiv 2505.08101, table 7. Every run is an ordinary training in ``<save_path>/<row>/seed<n>``. Started
again, the command skips runs that are finished and goes on with the one that was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pointcept.engines import run_folder
from pointcept.engines.defaults import argument_parser, config_from_args, default_setup
from pointcept.engines.launch import launch
from pointcept.engines.preflight import check_training
from pointcept.engines.test import TESTERS
from pointcept.engines.train import build_trainer
from pointcept.evaluation import report_file
from pointcept.utils import comm
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError, did_you_mean
from pointcept.utils.files import read_json, write_text_atomic
from pointcept.utils.logging import close_logging

logger = logging.getLogger(__name__)

# Row -> the losses that it keeps out of those of the config; None trains the student without a teacher.
ROWS: dict[str, tuple[str, ...] | None] = {
    "seg": None,
    "kld": ("KLDLoss",),
    "topo": ("KLDLoss", "TopoLoss"),
    "grad": ("KLDLoss", "GradGuidedLoss"),
    "full": ("KLDLoss", "GradGuidedLoss", "TopoLoss"),
}
TABLE_7 = ("kld", "topo", "grad", "full")
FIGURES = ("last_quick", "best_quick", "precise")
RESULT = "ablation.json"
# Keys that say where and how a run goes, not what it learns.
PLACE = ("resume", "resume_changes", "skip_nonfinite", "skip_out_of_memory", "save_path", "num_worker", "backend")


def ablation_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/ablation.py``: that of training, and rows and seeds."""
    parser = argument_parser("Train every row of an ablation of distillation losses with every seed.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds of each row")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=list(TABLE_7),
        metavar="ROW",
        help=f"out of {', '.join(ROWS)}; default: the paper's",
    )
    return parser


def ablation_main(args: argparse.Namespace) -> None:
    """Run what is not finished yet, and print and write the table.

    Raises:
        ConfigError: an unknown row, a config that lacks the row's losses, or a finished run of another config.
        DataError, CheckpointError, FloatingPointError: of a training.
    """
    cfg = config_from_args(args)
    base = Path(cfg.save_path)
    folder = base.with_name(f"{base.name}_ablation")
    plan = [
        (row, seed, row_config(cfg, row, seed, folder))
        for seed in dict.fromkeys(args.seeds)
        for row in dict.fromkeys(args.rows)
    ]
    for run in {row: run for row, _, run in plan if finished(run) is None}.values():
        check_training(run)  # a wrong value of the last row shall not be found days later
    done: dict[str, dict[int, dict[str, Any]]] = {row: {} for row in dict.fromkeys(args.rows)}
    for row, seed, run in plan:
        result = finished(run)
        if result is None:
            run.resume = bool(run_folder.kept(Path(run.save_path) / "model"))
            launch(train_and_record, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, run)
            close_logging()
            result = finished(run)
            assert result is not None, "a run that ended without an error has a result"
        done[row][seed] = result
    report = summary(done, str(args.config))
    path = write_text_atomic(folder / RESULT, json.dumps(report, indent=2) + "\n")
    sys.stdout.write(f"{table(report)}\nwrote {path}\n")


def row_config(cfg: Config, row: str, seed: int, folder: Path) -> Config:
    """The config of one run: losses of the row only, a seed and a folder of its own.

    Args:
        cfg: trains a ``Distiller`` with every loss that a row may want.
        row: a key of ``ROWS``.
        seed: of the run.
        folder: of the ablation.

    Raises:
        ConfigError: an unknown row, another model, or a loss that the config does not have.
    """
    if row not in ROWS:
        raise ConfigError(f"--rows {row}: {did_you_mean(row, ROWS)}")
    if cfg.model.get("type") != "Distiller":
        raise ConfigError(f"an ablation needs a config of a Distiller, got {cfg.model.get('type')!r}")
    kept = ROWS[row]
    run = Config(cfg.to_dict())
    if kept is None:
        run.model = run.model.student
    else:
        losses = [loss for loss in run.model.losses if loss["type"] in kept]
        missing = [name for name in kept if all(loss["type"] != name for loss in losses)]
        if missing:
            raise ConfigError(f"row {row!r} needs {', '.join(missing)}, which model.losses of the config does not have")
        run.model.losses = losses
    run.seed = seed
    run.save_path = str(folder / row / f"seed{seed}")
    run.miou_result_path = None
    run.weight, run.resume = None, False
    return run


def fingerprint(run: Config) -> str:
    """Digest of everything in a config that decides the result."""
    tree = {key: value for key, value in run.to_dict().items() if key not in PLACE}
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


def finished(run: Config) -> dict[str, Any] | None:
    """The result of a run, or None if it has none yet.

    Raises:
        ConfigError: the folder holds the result of another config.
        DataError: the result is damaged.
    """
    path = Path(run.save_path) / RESULT
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path, ("config",))
    if result["config"] != fingerprint(run):
        raise ConfigError(
            f"{path} is the result of another config; give another save_path (--options save_path=PATH) or delete "
            f"{run.save_path}"
        )
    return result


def train_and_record(run: Config) -> None:
    """Train in this process, evaluate the last weights and write the result, rank 0 last of all."""
    try:
        default_setup(run, "train")
        _train_and_record(run)
    finally:
        run_folder.release(run)


def _train_and_record(run: Config) -> None:
    start = time.perf_counter()
    trainer = build_trainer(run)
    trainer.train()
    weight = str(Path(run.save_path) / "model" / "model_last.pth")
    last = TESTERS.build({**run.test, "quick": True}, cfg=run, weight=weight).test()
    precise = Path(run.save_path) / report_file("precise")
    if comm.is_main_process():
        best = getattr(trainer, "best_metric", -math.inf)
        result = {
            "config": fingerprint(run),
            "last_quick": last.miou_present if last is not None and math.isfinite(last.miou_present) else None,
            "best_quick": best if math.isfinite(best) else None,
            "precise": json.loads(precise.read_text())["miou_present_precise"] if precise.exists() else None,
            "seconds": round(time.perf_counter() - start, 1),
        }
        write_text_atomic(Path(run.save_path) / RESULT, json.dumps(result, indent=2) + "\n")


def summary(done: Mapping[str, Mapping[int, Mapping[str, Any]]], config: str) -> dict[str, Any]:
    """Runs, and per row the mean and the sample standard deviation of every figure.

    Args:
        done: row -> seed -> result.
        config: the file that was ablated.
    """
    rows = {}
    for row, seeds in done.items():
        entry: dict[str, Any] = {"losses": list(ROWS[row] or ()), "runs": {str(s): dict(r) for s, r in seeds.items()}}
        for figure in FIGURES:
            entry[figure] = spread([r[figure] for r in seeds.values() if r.get(figure) is not None])
        rows[row] = entry
    return {"config": config, "metric": "miou_present", "rows": rows}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, and sample standard deviation (None below two values)."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def table(report: Mapping[str, Any]) -> str:
    """The summary as aligned text, in percent: mean ± standard deviation over the seeds."""
    head = ["row", "losses", "n", *(f"mIoU {figure.replace('_', ' ')} [%]" for figure in FIGURES)]
    lines = [head]
    for row, entry in report["rows"].items():
        names = " + ".join(["seg", *(name.removesuffix("Loss") for name in entry["losses"])])
        lines.append([row, names, str(len(entry["runs"])), *(_cell(entry[figure]) for figure in FIGURES)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return "-"
    std = "" if figure["std"] is None else f" ± {100 * figure['std']:.2f}"
    return f"{100 * figure['mean']:.2f}{std}"
