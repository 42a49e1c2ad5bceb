"""Take a student away: write a folder that labels scans without this repository.

    python tools/export.py --weight exp/semantic_kitti/distill_kld/model/model_best.pth --out student/

The folder holds the weights (safetensors), ``card.json``, and the programs that ``--programs`` names.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pointcept.engines.defaults import load_config
from pointcept.engines.preflight import check_prediction
from pointcept.engines.restore import config_of
from pointcept.export.agreement import Agreement, compare, compare_labels, plain_scores
from pointcept.export.compiled import CAPACITIES, compile_programs, label_points, load_programs
from pointcept.export.facts import card_of, card_text
from pointcept.export.networks import describe
from pointcept.export.onnx_program import ATTENTION, OPSET, onnx_program
from pointcept.models import build_inference_model
from pointcept.ops import backend
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.config import Config, parse_options
from pointcept.utils.device import get_device
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.logging import setup_logging
from pointcept_runtime import ExportError, ScanError, load, read_card
from pointcept_runtime.card import CARD
from pointcept_runtime.scans import find_scans, read_scan
from pointcept_runtime.voxels import voxelize

logger = logging.getLogger(__name__)

PROGRAMS = ("onnx", "pt2")
WEIGHTS, ONNX = "weights.safetensors", "model.onnx"


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/export.py``."""
    parser = argparse.ArgumentParser(description="Write a folder that labels scans without this repository.")
    parser.add_argument("--weight", required=True, metavar="PATH", help="a checkpoint; it carries its config")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a folder that is not there yet")
    parser.add_argument("--config", "--config-file", metavar="FILE", help="for a checkpoint that carries no config")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["onnx"], help="onnx by default")
    parser.add_argument(
        "--attention",
        choices=ATTENTION,
        default=ATTENTION[0],
        help="of the ONNX program: patch after patch (for CPUs, the default) or all at once (for GPUs)",
    )
    parser.add_argument(
        "--capacities",
        type=int,
        nargs="+",
        default=list(CAPACITIES),
        metavar="POINTS",
        help=f"of the .pt2 programs: the most points of a scan, one program each (default {CAPACITIES})",
    )
    parser.add_argument(
        "--check", type=Path, metavar="SCAN", help="a scan or a folder of them: compare labels with the plain network"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override, model.a.b=1"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    """Write what the arguments name.

    Raises:
        ConfigError: the config, the options or the folder are wrong, or a network that cannot be exported.
        CheckpointError: the weights are missing, damaged or do not fit.
        DataError: a scan of ``--check`` cannot be labelled, or its labels differ.
    """
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f"--out {args.out} exists: name a folder that is not there yet")
    options = parse_options(args.options)
    if args.config is None:
        cfg = config_of(args.weight, options)
    else:
        cfg = load_config(args.config, {**options, "weight": str(args.weight)})
    setup_logging()
    model = export(cfg, args.out, args.programs, args.attention, args.capacities)
    if args.check is not None:
        check(model, args.out, args.check)


def export(
    cfg: Config, out: Path, programs: list[str], attention: str = ATTENTION[0], capacities: list[int] | None = None
) -> nn.Module:
    """Write the folder of a network, whole or not at all.

    Args:
        cfg: the config; ``weight`` is the checkpoint.
        out: a folder that is not there yet, or empty.
        programs: out of ``PROGRAMS``.
        attention: of the ONNX program, see :func:`~pointcept.export.onnx_program.onnx_program`.
        capacities: of the .pt2 programs.

    Returns:
        The plain network, on the device.

    Raises:
        ConfigError, CheckpointError: see :func:`main`.
    """
    backend.configure(cfg.backend)
    check_prediction(cfg, ["val"])
    model = build_inference_model(cfg.model)
    load_weights(model, cfg.weight)
    model = model.eval()
    graph = describe(model)
    card = card_of(cfg, model, graph)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    # Beside its place: a rename is atomic only within one file system.
    temporary = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    try:
        (temporary / WEIGHTS).write_bytes(_safetensors(model))
        card["programs"] = {}
        if "onnx" in programs:
            (temporary / ONNX).write_bytes(onnx_program(graph, attention))
            card["programs"]["onnx"] = {"file": ONNX, "opset": OPSET, "precision": "float32", "attention": attention}
        if "pt2" in programs:
            card["programs"]["pt2"] = compile_programs(graph, card, temporary, capacities or list(CAPACITIES))
        card["files"] = {path.name: _facts(path) for path in sorted(temporary.iterdir())}
        (temporary / CARD).write_text(card_text(card), encoding="utf-8")
        read_card(temporary).verify()
        temporary.chmod(0o755)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    logger.info("wrote %s: %s, %.1f MB", out, ", ".join(sorted(path.name for path in out.iterdir())), size)
    return model.to(get_device())


def _safetensors(model: nn.Module) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError:
        raise ConfigError('the weights need the package safetensors: pip install "pointcept[export]"') from None
    return save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()})


def _facts(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def check(model: nn.Module, folder: Path, scan: Path) -> None:
    """Compare the labels of every program with those of the plain network.

    Args:
        model: the plain network, on the device.
        folder: what :func:`export` wrote.
        scan: a scan or a folder of them.

    Raises:
        DataError: a scan cannot be labelled, or labels that are no near ties differ.
    """
    try:
        card = read_card(folder)
        student = load(folder) if "onnx" in card.programs else None
        compiled = load_programs(folder, card.programs["pt2"]) if "pt2" in card.programs else None
        for path in find_scans(scan):
            points = read_scan(path, card)
            voxels = voxelize(points, card)
            plain = plain_scores(model, voxels.grid, voxels.feat)
            if student is not None:
                _demand(compare(student.logits(voxels.grid, voxels.feat), plain), f"{path}, {ONNX}")
            if compiled is not None:
                labels = label_points(compiled, points.astype(np.float32))
                _demand(compare_labels(labels, plain[voxels.inverse]), f"{path}, .pt2")
    except (ExportError, ScanError) as error:
        raise DataError(str(error)) from None


def _demand(found: Agreement, what: str) -> None:
    if not found.holds:
        raise DataError(f"{what}: {found}")
    logger.info("%s: %s", what, found)
