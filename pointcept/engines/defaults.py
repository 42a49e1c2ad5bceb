"""What every run begins with: arguments, the config, seeds, and a folder that says how it was made."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
from pathlib import Path
from typing import Any

# Models and data sets for their registries: a config is checked against everything registered.
import pointcept.datasets
import pointcept.models  # noqa: F401
from pointcept.engines import run_folder
from pointcept.engines.data import per_process
from pointcept.engines.preflight import check_test, check_training
from pointcept.engines.test import build_tester, result_path
from pointcept.engines.train import build_trainer
from pointcept.ops import backend
from pointcept.utils import comm
from pointcept.utils.config import Config, parse_options, validate_config
from pointcept.utils.config_upstream import adopt
from pointcept.utils.device import seed_everything
from pointcept.utils.env import collect_environment
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import read_json, writable_folder
from pointcept.utils.logging import setup_logging

logger = logging.getLogger(__name__)

BENCHMARKS = ("nuscenes", "semantic_kitti", "waymo")


def argument_parser(description: str, test: bool = False) -> argparse.ArgumentParser:
    """The command line of ``tools/train.py`` and ``tools/test.py``.

    Args:
        description: the tool's first line of help.
        test: also accept ``--model-file`` and ``--benchmark``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", "--config-file", required=not test, metavar="FILE", help="config file")
    if test:
        parser.add_argument("--model-file", metavar="PATH", help="weight file; the same as --options weight=PATH")
        parser.add_argument("--benchmark", choices=BENCHMARKS, help="use configs/<benchmark>/student.py")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs (processes) on this machine")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0)
    parser.add_argument("--dist-url", default="auto", help="tcp://host:port where processes meet")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override, model.a.b=1"
    )
    return parser


def config_from_args(args: argparse.Namespace) -> Config:
    """Read the config that the arguments name, apply ``--options`` and check it.

    Raises:
        ConfigError: no config or two, or anything wrong in it.
    """
    benchmark = getattr(args, "benchmark", None)
    model_file = getattr(args, "model_file", None)
    if (args.config is None) == (benchmark is None):
        raise ConfigError("give either --config FILE or --benchmark " + "|".join(BENCHMARKS))
    options = parse_options(args.options)
    if model_file is not None:
        options["weight"] = model_file
    path = Path(args.config) if benchmark is None else benchmark_config(benchmark)
    return load_config(path, options)


def benchmark_config(benchmark: str) -> Path:
    """The student's config of a benchmark, found from the working folder or beside the tool.

    Raises:
        ConfigError: this is no clone of the repository.
    """
    places = [Path.cwd(), Path(sys.argv[0]).resolve().parent.parent, Path(__file__).resolve().parents[2]]
    for place in places:
        path = place / "configs" / benchmark / "student.py"
        if path.is_file():
            return path
    raise ConfigError(
        f"--benchmark {benchmark}: no configs/{benchmark}/student.py below {places[0]}; run from a clone, or use "
        "--config"
    )


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read and check a config file.

    Raises:
        ConfigError: anything wrong in it; the message names file and place.
    """
    cfg = Config.fromfile(path, options)
    adopt(cfg)
    validate_config(cfg)
    backend.parse(cfg.backend or "", "backend")
    return cfg


def default_setup(cfg: Config, job: str = "train") -> None:
    """Prepare this process: config tried, backends chosen, log open, generators seeded, the run's facts on disk.

    ``train`` takes ``save_path`` for this process until ``run_folder.release``, and writes ``config.py``,
    ``environment.json`` and ``train.log`` into it; those of a run that is gone on with stay until that is known to
    be possible. ``test`` writes ``result/config.py``, ``result/environment.json`` and ``test.log``, so that a
    later test leaves the record of the training as it is.

    Args:
        cfg: its ``seed`` is filled in when it is ``None``: with that of the run that ``resume`` goes on
            with, otherwise with a new one.
        job: ``"train"`` or ``"test"``.

    Raises:
        ConfigError: a wrong value or a contradiction in the config (see ``preflight``), a batch size that the
            processes cannot share, a ``backend`` that does not exist, folders in which nothing can be written, or a
            ``save_path`` that is in use, or holds a run that ``resume`` does not ask to go on with.
        CheckpointError: the weights of a teacher are missing, damaged or do not fit.
    """
    (check_training if job == "train" else check_test)(cfg)
    backend.configure(cfg.backend)
    per_process(cfg.batch_size_test, "batch_size_test")
    if job == "train":
        per_process(cfg.batch_size, "batch_size")
        per_process(cfg.batch_size_val, "batch_size_val")
    folder = Path(cfg.save_path)
    record = folder if job == "train" else folder / "result"
    if comm.is_main_process():
        _check_writable(cfg, job)
    if job == "train":
        setup_logging()  # the terminal alone, until the folder is ours
        run_folder.claim(cfg)
    setup_logging(folder, f"{job}.log", resume=cfg.resume or job == "train")
    if cfg.seed is None:
        resumed = recorded_seed(cfg) if job == "train" and cfg.resume else None
        cfg.seed = comm.broadcast_object(secrets.randbelow(2**31) if resumed is None else resumed)
    seed_everything(cfg.seed + comm.rank(), cfg.deterministic)
    if comm.is_main_process():
        goes_on = job == "train" and cfg.resume  # then CheckpointLoader writes it
        facts = collect_environment(cfg.seed) if goes_on else run_folder.write_record(cfg, record)
        logger.info(
            "pointcept %s, torch %s, commit %s%s, seed %d, results in %s",
            *(facts["pointcept"], facts["torch"], (facts["git"]["commit"] or "unknown")[:10]),
            *(" with local changes" if facts["git"]["dirty"] else "", cfg.seed, folder),
        )
    comm.barrier()


def _check_writable(cfg: Config, job: str) -> None:
    """Check that everything the run will write can be written, so that it does not end for that after hours.

    Raises:
        ConfigError: a folder is a file or cannot be written in, or a file is a folder.
    """
    if not cfg.save_path.strip():
        raise ConfigError(f"save_path: got {cfg.save_path!r}, allowed: the name of a folder")
    folder, report = Path(cfg.save_path), result_path(cfg, "quick" if cfg.test.get("quick") else "precise")
    writable_folder(folder, "save_path")
    files = [report, folder / f"{job}.log"]
    if job == "train":
        models = writable_folder(folder / "model", "save_path")
        files += [models / "model_last.pth", models / "model_best.pth"]
    if job == "test" or report.parent.exists() or cfg.miou_result_path:
        writable_folder(report.parent, "miou_result_path" if cfg.miou_result_path else "save_path")
    for file in files:
        if file.is_dir():
            raise ConfigError(f"{file} is a folder, and the run would write a file of that name")


def recorded_seed(cfg: Config) -> int | None:
    """The seed of the run that ``cfg`` resumes, from its ``environment.json``; ``None`` where none is recorded.

    The run is the one that it goes on with (``<run>/model/<name>.pth``), or one that has not come to a checkpoint.
    """
    point = run_folder.resume_point(cfg)
    run = point.parent.parent if point is not None else Path(cfg.save_path)
    try:
        seed = read_json(run / "environment.json", ("seed",))["seed"]
    except (OSError, DataError):
        return None
    return seed if isinstance(seed, int) else None


def train_main(cfg: Config) -> None:
    """Train in this process, or only test when ``test_only``.

    Raises:
        ConfigError, DataError, CheckpointError, FloatingPointError: see the trainer.
        Interrupted: a signal; what is done is saved.
    """
    if cfg.test_only:
        test_main(cfg)
        return
    try:
        default_setup(cfg, "train")
        build_trainer(cfg).train()
    finally:
        run_folder.release(cfg)


def test_main(cfg: Config) -> None:
    """Test the weights ``cfg.weight`` in this process.

    Raises:
        ConfigError, DataError, CheckpointError: see the tester.
    """
    default_setup(cfg, "test")
    build_tester(cfg).test()
