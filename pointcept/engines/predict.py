"""Predicting scan files that belong to no data set tree: ``tools/predict.py``.

    python tools/predict.py --config configs/nuscenes/student.py --options weight=PATH \\
        --scan scan.pcd.bin --out scan.npy

The file is read as the data set of the config reads its own, cut into fragments by its ``data.test``, and every point
gets the class that most votes are for. With ``--engine`` each file takes one pass through the inference engine.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from pointcept.datasets import DATASETS, BaseDataset
from pointcept.datasets.files import ScanFiles
from pointcept.datasets.submission import write_array, write_npy
from pointcept.engines.data import per_process, scan_loader
from pointcept.engines.defaults import load_config
from pointcept.engines.deploy.engine import InferenceEngine
from pointcept.engines.deploy.files import predict_with_engine
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.engines.inference import Precision, predict_scan
from pointcept.engines.preflight import check_prediction
from pointcept.engines.scores import network_name
from pointcept.models import build_inference_model
from pointcept.ops import backend
from pointcept.utils import device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.config import Config, parse_options
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.logging import setup_logging

logger = logging.getLogger(__name__)

NPY = ".npy"


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/predict.py``."""
    parser = argparse.ArgumentParser(description="Predict the class of every point of scan files.")
    parser.add_argument("--config", "--config-file", required=True, metavar="FILE", help="config of the network")
    parser.add_argument("--scan", type=Path, required=True, help="a scan file, or a folder of them")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="for a file: FILE.npy (int16 classes, -1 for points left out) or the benchmark's own format, .label "
        "(SemanticKITTI) or .bin (nuScenes); for a folder: a folder",
    )
    parser.add_argument("--suffix", default=NPY, help="for a folder: format of the files, .npy, .label or .bin")
    parser.add_argument("--quick", action="store_true", help="one view of each scan instead of all of data.test")
    parser.add_argument(
        "--engine",
        nargs="?",
        const="",
        metavar="DTYPE",
        help="one pass through the inference engine with the transforms of data.val, in float16, bfloat16 or float32 "
        "(by default float16 on a GPU, float32 on a CPU)",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override; weight=PATH is needed"
    )
    return parser


def predict_main(args: argparse.Namespace) -> None:
    """Predict what the arguments name and write it.

    Raises:
        ConfigError: the config, the options or the output format are wrong.
        CheckpointError: the weights are missing, damaged or do not fit.
        DataError: a scan is missing or malformed, or a prediction cannot be written.
        FloatingPointError: scores of a scan are NaN or infinite; it gets no file, those before it keep theirs.
    """
    cfg = load_config(args.config, parse_options(args.options))
    backend.configure(cfg.backend)
    setup_logging()
    if cfg.data.get("test") is None:
        raise ConfigError("prediction needs data.test with test_mode=True and test_cfg")
    check_prediction(cfg, ["test"] if args.engine is None else ["test", "val"])
    reader = cast("type[BaseDataset]", DATASETS.get(cfg.data.test.type))
    files = reader.find_scans(args.scan)
    targets = output_paths(args.scan, files, args.out, args.suffix, reader.SCAN_PATTERN.removeprefix("*"))
    check_format(reader, targets[0])
    if not cfg.weight:
        raise ConfigError("prediction needs weights: --options weight=PATH")
    model = build_inference_model(cfg.model)
    load_weights(model, cfg.weight)
    scans = scan_files(cfg, reader, files, args.quick)
    if args.engine is None:
        predictions = predict_files(model.to(device.get_device()).eval(), scans, cfg)
    else:
        engine = InferenceEngine(model, args.engine or None, Preprocessing.of_config(cfg), weight=cfg.weight)
        predictions = predict_with_engine(engine, scans)
    start = time.perf_counter()
    for number, (target, classes) in enumerate(zip(targets, predictions, strict=True), start=1):
        write_prediction(target, classes, reader)
        seconds, start = time.perf_counter() - start, time.perf_counter()
        logger.info("[%d/%d] %d points in %.2f s: %s", number, len(targets), len(classes), seconds, target)


def scan_files(cfg: Config, reader: type[BaseDataset], files: Sequence[Path], quick: bool = False) -> ScanFiles:
    """The files as samples in test mode, with the transforms of ``cfg.data.test``.

    Args:
        cfg: the resolved config.
        reader: the data set whose format the files have.
        files: what its ``find_scans`` gives.
        quick: one view of each scan instead of those of ``test_cfg.aug_transform``.

    Raises:
        ConfigError: ``data.test`` is not in test mode.
    """
    section = cfg.data.test.to_dict()
    if not section.get("test_mode"):
        raise ConfigError("prediction needs data.test with test_mode=True and test_cfg")
    test_cfg = {**section["test_cfg"], "aug_transform": [[]]} if quick else section["test_cfg"]
    return ScanFiles(reader, files, section.get("transform"), test_cfg, section.get("nonfinite", "raise"))


def predict_files(model: nn.Module, scans: ScanFiles, cfg: Any) -> Iterator[np.ndarray]:
    """Predict file by file.

    Args:
        model: in evaluation mode, on the device.
        scans: the files.
        cfg: ``num_worker``, ``batch_size_test``, ``enable_amp``, ``amp_dtype``; ``weight`` for messages.

    Yields:
        Classes int64 (M,) of all points of a file, in its order; -1 for those that nonfinite="drop" left out.

    Raises:
        DataError: a file is malformed; the message names it.
        FloatingPointError: scores of a file are NaN or infinite.
    """
    batch_size, precision = per_process(cfg.batch_size_test, "batch_size_test"), Precision.of(cfg)
    network = network_name(model, cfg.weight)
    for index, sample in enumerate(scan_loader(scans, cfg)):
        pred = predict_scan(model, sample, batch_size, precision, network).pred
        yield scans.full_prediction(index, pred.cpu().numpy())


def output_paths(scan: Path, files: Sequence[Path], out: Path, suffix: str, scan_suffix: str) -> list[Path]:
    """Where each prediction goes: ``out`` itself for one scan, else the same places below ``out`` as below ``scan``.

    Args:
        scan: what the user named, a scan or a folder of scans.
        files: the scans there.
        out: a file or a folder.
        suffix: of the predictions in a folder.
        scan_suffix: what the names of scans end in, which is replaced.

    Raises:
        ConfigError: ``out`` is a folder where a file is needed, or the other way round.
    """
    if len(files) == 1 and scan in (files[0], files[0] / "coord.npy"):
        if out.is_dir() or not out.suffix:
            raise ConfigError(f"--out {out}: for one scan name a file, such as {out / 'prediction.npy'}")
        return [out]
    if out.is_file() or out.suffix == suffix:
        raise ConfigError(f"--out {out}: {scan} is a folder of {len(files)} scans, so name a folder")
    return [out / file.relative_to(scan).parent / (file.name.removesuffix(scan_suffix) + suffix) for file in files]


def check_format(reader: type[BaseDataset], target: Path) -> None:
    """Check that ``target`` has the suffix of a format in which predictions of ``reader`` are written.

    Raises:
        ConfigError: another suffix.
    """
    allowed = [NPY] if reader.PREDICTION_SUFFIX is None else [NPY, reader.PREDICTION_SUFFIX]
    if target.suffix not in allowed:
        raise ConfigError(
            f"predictions of {reader.__name__} are written as {' or '.join(allowed)}, got {target.suffix!r} ({target})"
        )


def write_prediction(target: Path, classes: np.ndarray, reader: type[BaseDataset]) -> None:
    """Write classes (M,) in the format that the suffix of ``target`` says.

    Raises:
        DataError: it cannot be written.
    """
    try:
        if target.suffix == NPY:
            write_npy(target, classes.astype(np.int16))
        else:
            write_array(target, reader.encode_prediction(classes))
    except OSError as error:
        raise DataError(f"cannot write {target}: {error}") from error
