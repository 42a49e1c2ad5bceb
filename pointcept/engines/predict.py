"""Predicting scan files of any format: ``tools/predict.py``.

    python tools/predict.py scan.pcd more_scans/ --weight model_best.pth --out predictions

The weights carry the config of their training. Files of that data set's benchmark are read as the data set reads its
own, others as clouds (:mod:`pointcept.datasets.clouds`). Each is cut into fragments by the config's ``data.test``, and
every point gets the class that most votes are for. With ``--engine`` each file takes one pass through the inference
engine. A scan that fails is named and skipped. docs/predict.md describes formats and options.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pointcept.datasets import DATASETS
from pointcept.datasets.arguments import check_dataset
from pointcept.datasets.clouds import SUFFIXES, CloudFile
from pointcept.datasets.clouds.cloud import MEANINGS, OPTION_NAMES, UP
from pointcept.datasets.clouds.reader import CloudReader
from pointcept.datasets.files import ScanFiles, full_prediction
from pointcept.engines.data import per_process, scan_loader
from pointcept.engines.defaults import load_config
from pointcept.engines.deploy.engine import InferenceEngine
from pointcept.engines.deploy.files import predict_with_engine
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.engines.inference import Precision, predict_scan
from pointcept.engines.prediction.outputs import SAME, Writer, check_format, output_paths
from pointcept.engines.prediction.progress import Progress
from pointcept.engines.prediction.scans import Outcome, Tolerant
from pointcept.engines.preflight import check_prediction
from pointcept.engines.restore import config_of
from pointcept.engines.scores import network_name
from pointcept.models import build_inference_model
from pointcept.ops import backend
from pointcept.utils import device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.config import Config, parse_options
from pointcept.utils.errors import ConfigError, DataError, MemoryShortage
from pointcept.utils.logging import setup_logging
from pointcept.utils.patience import waiting

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/predict.py``."""
    parser = argparse.ArgumentParser(
        description="Predict the class of every point of scans: " + " ".join(SUFFIXES) + ", files or folders of them.",
        epilog="Exit codes: 0 done; 2 a mistake, or scans were skipped, which are named; 1 scores are no numbers.",
    )
    parser.add_argument("scans", nargs="*", type=Path, metavar="SCAN", help="scan files, folders of them")
    parser.add_argument("--scan", nargs="+", action="extend", type=Path, default=[], help="the same")
    parser.add_argument("--weight", metavar="FILE", help="weights; by default those that ship with the package")
    parser.add_argument("--config", "--config-file", metavar="FILE", help="by default the config in the weights")
    parser.add_argument(
        "--out",
        type=Path,
        help="for one scan a file, .npy (int16 classes, -1 for points left out), the benchmark's .label or .bin, a "
        "coloured .ply or another format of clouds with labels; for several a folder (by default predictions)",
    )
    parser.add_argument(
        "--suffix",
        help=f"format in a folder: a suffix as above, or {SAME!r} for that of each scan (by default .npy; .ply without "
        "--out)",
    )
    parser.add_argument("--quick", action="store_true", help="one view of each scan instead of all of data.test")
    parser.add_argument(
        "--engine",
        nargs="?",
        const="",
        metavar="DTYPE",
        help="one pass through the inference engine with the transforms of data.val, in float16, bfloat16 or float32 "
        "(by default float16 on a GPU, float32 on a CPU)",
    )
    add_cloud_arguments(parser)
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override of the config"
    )
    return parser


def add_cloud_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what users may say about clouds, one argument for each of ``CloudOptions``."""
    group = parser.add_argument_group("scans of other programs and sensors (docs/predict.md)")
    names = ", ".join(MEANINGS)
    group.add_argument(
        "--fields",
        nargs="+",
        action="extend",
        default=[],
        metavar="MEANING=NAME",
        help=f"{names}: name of a field, or its number from 0 on; nothing behind the = where there is none",
    )
    group.add_argument("--columns", type=int, metavar="N", help="float32 numbers per point of .bin files")
    group.add_argument("--delimiter", metavar="C", help="between columns of text")
    group.add_argument("--topic", help="clouds of bags")
    group.add_argument("--intensity-scale", type=float, metavar="I", help="intensity that is 1 (default: found)")
    group.add_argument("--intensity", type=float, metavar="S", help="strength of points without, 0 to 1")
    group.add_argument("--sensor-height", type=float, metavar="M", help="of the sensor above the ground [m]")
    group.add_argument("--up", metavar="AXIS", help=f"the axis that points up: {', '.join(UP)} (write --up=-y)")


def cloud_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say about clouds, as ``CloudOptions`` takes it.

    Raises:
        ConfigError: ``--fields`` is malformed.
    """
    given = {name: getattr(args, name) for name in OPTION_NAMES}
    pairs = [text.partition("=") for text in args.fields]
    for meaning, mark, _ in pairs:
        if not mark:
            raise ConfigError(f"--fields {meaning}: expected MEANING=NAME, such as intensity=reflectance")
    return {**given, "fields": {meaning: name for meaning, _, name in pairs}}


def main(args: argparse.Namespace) -> None:
    """Predict what the arguments name and write it.

    Raises:
        ConfigError: the config, the options or the output format are wrong.
        CheckpointError: the weights are missing, damaged or do not fit.
        DataError: there are no scans, a prediction cannot be written, or scans have failed, after all others have their
            files.
        FloatingPointError: the same where scores of scans are NaN or infinite.
    """
    cfg = config_from_args(args)
    backend.configure(cfg.backend)
    setup_logging()
    if cfg.data.get("test") is None:
        raise ConfigError("prediction needs data.test with test_mode=True and test_cfg")
    check_prediction(cfg, ["test"] if args.engine is None else ["test", "val"])
    reader = cloud_reader(cfg, cloud_arguments(args))
    dataset = reader.dataset
    named = [*args.scans, *args.scan]
    if not named:
        raise ConfigError("name scans, files or folders")
    found = [(path, reader.find(path, skip=args.out)) for path in named]
    files = [file for _, some in found for file in some]
    targets = output_paths(found, args.out, args.suffix, dataset.SCAN_PATTERN)
    for suffix in sorted({args.suffix or target.suffix for target in targets}):
        check_format(dataset, suffix)
    if not cfg.weight:
        raise ConfigError("prediction needs weights: --weight FILE")
    with waiting("loading the network"):
        model = build_inference_model(cfg.model)
        load_weights(model, cfg.weight)
    scans = scan_files(cfg, reader, files, args.quick)
    progress = Progress(len(files), dataset.names)
    writer = Writer(reader, same=args.suffix == SAME)
    if args.engine is None:
        outcomes = predict_files(model.to(device.get_device()).eval(), scans, cfg)
    else:
        with waiting("building the inference engine"):
            engine = InferenceEngine(model, args.engine or None, Preprocessing.of_config(cfg), weight=cfg.weight)
        outcomes = predict_with_engine(engine, scans)
    try:
        for file, target, outcome in zip(files, targets, outcomes, strict=True):
            progress.note(file.name, outcome.notes)
            if outcome.classes is None:
                progress.skip(file.name, outcome.error or DataError(f"{file}: no classes"))
                continue
            writer.write(target, file, outcome.classes)
            progress.written(target, outcome.classes)
    finally:
        progress.close()
    progress.finish()


def config_from_args(args: argparse.Namespace) -> Config:
    """The config of the network: that of ``--config``, or the one in the weights; those shipped without either.

    Raises:
        ConfigError: it cannot be read, the weights have none, or this copy of the package ships no weights.
        CheckpointError: the weights are missing or damaged.
    """
    options = parse_options(args.options)
    weight = args.weight or options.get("weight")
    if args.config is not None:
        return load_config(args.config, {**options, **({"weight": weight} if weight else {})})
    if not weight:
        from pointcept.assets import shipped_weight

        weight = shipped_weight()
        logger.info("no --weight: %s", weight)
    return config_of(weight, options)


def cloud_reader(cfg: Config, options: dict[str, Any] | None = None) -> CloudReader:
    """What reads scan files as ``cfg.data.test`` reads its own; ``options`` as in :class:`CloudReader`.

    Raises:
        ConfigError: ``data.test`` or an option is wrong.
    """
    dataset: Any = check_dataset(cfg.data.test, "data.test")
    if dataset is None:
        dataset = DATASETS.get(cfg.data.test.type)
    return CloudReader(dataset, options)


def scan_files(cfg: Config, reader: CloudReader, files: Sequence[Path | CloudFile], quick: bool = False) -> ScanFiles:
    """The files as samples in test mode, with the transforms of ``cfg.data.test``.

    Args:
        cfg: the resolved config; points that are not finite are left out unless its ``data.test.nonfinite`` is "raise".
        reader: reads them.
        files: what its ``find`` gives.
        quick: one view of each scan instead of those of ``test_cfg.aug_transform``.

    Raises:
        ConfigError: ``data.test`` is not in test mode.
    """
    section = cfg.data.test.to_dict()
    if not section.get("test_mode"):
        raise ConfigError("prediction needs data.test with test_mode=True and test_cfg")
    test_cfg = {**section["test_cfg"], "aug_transform": [[]]} if quick else section["test_cfg"]
    return ScanFiles(reader, files, section.get("transform"), test_cfg, section.get("nonfinite", "drop"))


def predict_files(model: nn.Module, scans: ScanFiles, cfg: Any) -> Iterator[Outcome]:
    """Predict file by file.

    Args:
        model: in evaluation mode, on the device.
        scans: the files.
        cfg: ``num_worker``, ``batch_size_test``, ``enable_amp``, ``amp_dtype``; ``weight`` for messages.

    Yields:
        Classes of all points of a file, or why it has none: it is malformed, its scores are no numbers, or memory is
        short.
    """
    batch_size, precision = per_process(cfg.batch_size_test, "batch_size_test"), Precision.of(cfg)
    network = network_name(model, cfg.weight)
    for sample in scan_loader(Tolerant(scans), cfg):
        if "error" in sample:
            yield Outcome(None, {}, DataError(sample["error"]))
            continue
        try:
            pred = predict_scan(model, sample, batch_size, precision, network).pred.cpu().numpy()
        except (DataError, FloatingPointError, MemoryShortage) as error:
            yield Outcome(None, sample["notes"], error)
            continue
        yield Outcome(full_prediction(pred, sample["kept"]), sample["notes"])
