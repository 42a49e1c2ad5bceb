"""What the card of an exported student says, found in its config, its checkpoint and the reports of its run."""

from __future__ import annotations

import colorsys
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pointcept import __version__
from pointcept.datasets import DATASETS
from pointcept.datasets.arguments import check_dataset
from pointcept.engines.deploy.preprocessing import Preprocessing
from pointcept.evaluation.report import report_file
from pointcept.export.graph import Graph
from pointcept.utils.checkpoint import read_checkpoint, weight_forms
from pointcept.utils.env import git_state
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import read_json
from pointcept_runtime.card import FORMAT, RAW_TYPES, VERSION

FEATURES = {
    (0, 1, 2, 3): ["coord", "strength"],
    (0, 1, 2): ["coord"],
    (3,): ["strength"],
    (3, 0, 1, 2): ["strength", "coord"],
}
_PROBE = 4 * 3 * 5 * 7 * 11 * 13  # numbers in a file that is read to see how many a point has
_REPORTED = ("kind", "num_scans", "num_points", "num_classes_present")


def card_of(cfg: Any, model: nn.Module, graph: Graph) -> dict[str, Any]:
    """The card, but for ``programs`` and ``files``.

    Args:
        cfg: the config of the run; ``weight`` is the checkpoint.
        model: the network with its weights.
        graph: what is exported of it.

    Raises:
        ConfigError: the data set tells no classes, or its transforms are not those that a program can do.
    """
    names, colors = _classes(cfg, graph.num_classes)
    preprocessing = Preprocessing.of_config(cfg)
    scan, raw = _scan_files(cfg, len(names))
    strength = preprocessing.strength_range
    return {
        "format": FORMAT,
        "version": VERSION,
        "classes": [
            {"name": name, "color": list(color), "raw": value}
            for name, color, value in zip(names, colors, raw, strict=True)
        ],
        "voxels": {
            "grid_size": list(preprocessing.grid_size),
            "clip": None if preprocessing.clip is None else list(preprocessing.clip),
        },
        "features": {
            "keys": FEATURES[tuple(preprocessing.columns)],
            "strength_range": None if strength is None else list(strength),
        },
        "scan": scan,
        "network": {
            "type": cfg.model.to_dict().get("student", cfg.model.to_dict())["backbone"]["type"],
            "form": weight_forms(model),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "orders": list(graph.orders),
            "strides": list(graph.strides),
            "tables": list(graph.tables),
        },
        "sensor": _sensor(cfg),
        "training": _training(cfg),
        "metrics": _metrics(Path(cfg.weight)),
        "provenance": _provenance(Path(cfg.weight)),
    }


def _reader(cfg: Any) -> Any:
    """The data set class whose files the network reads."""
    section = cfg.data.get("test") or cfg.data.val
    return DATASETS.get(section["type"])


def _classes(cfg: Any, number: int) -> tuple[list[str], list[tuple[int, ...]]]:
    dataset = check_dataset(cfg.data.val, "data.val")
    names = list(getattr(dataset, "names", None) or cfg.data.get("names") or [])
    if len(names) != number:
        raise ConfigError(f"data.val has {len(names)} class names, the network {number} classes: data.names names them")
    own = getattr(dataset, "colours", ())  # "#rrggbb" each, where the data set gives any
    if len(own) == number:
        return names, [tuple(bytes.fromhex(colour.removeprefix("#"))) for colour in own]
    return names, [_colour(i) for i in range(number)]


def _colour(number: int) -> tuple[int, ...]:
    """Colours that differ: hues a golden angle apart, in three shades."""
    shade = (0.62, 0.5, 0.74)[number % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb((0.6 + number * 0.381966) % 1, shade, 0.65))


def _scan_files(cfg: Any, classes: int) -> tuple[dict[str, Any], Sequence[int | None]]:
    """How scan files are read and label files are written, as the data set itself does it."""
    reader = _reader(cfg)
    columns, divisor = _columns(reader)
    labels: dict[str, Any] | None = None
    raw: list[int | None] = [None] * classes
    suffix = getattr(reader, "PREDICTION_SUFFIX", None)
    if suffix is not None and len(reader.names) == classes:
        values = reader.encode_prediction(np.arange(classes))
        if values.dtype.name in RAW_TYPES and values.shape == (classes,):
            labels, raw = {"suffix": suffix, "type": values.dtype.name}, [int(value) for value in values]
    name = (cfg.data.get("test") or cfg.data.val)["type"]
    return {"dataset": name, "columns": columns, "strength_divisor": divisor, "labels": labels}, raw


def _columns(reader: Any) -> tuple[int | None, float]:
    """Numbers of a point in a scan file and the divisor of its strength, seen by letting the data set read one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.bin"

        def read(numbers: np.ndarray) -> Any:
            numbers.astype(np.float32).tofile(path)
            return reader.read_scan(path)[0]

        try:
            columns = _PROBE // len(read(np.full(_PROBE, 0.5))["coord"])
            point = read(np.linspace(0.25, 0.75, columns))
        except (AttributeError, NotImplementedError, DataError):
            return None, 1.0
    raw = np.linspace(0.25, 0.75, columns).astype(np.float32)
    if columns < 4 or not np.array_equal(point["coord"][0], raw[:3]):
        return None, 1.0
    return columns, float(round(float(raw[3] / point["strength"][0, 0]), 4))


def _sensor(cfg: Any) -> dict[str, Any]:
    reader = _reader(cfg)
    scanner = getattr(reader, "scanner", None)
    pitch = getattr(scanner, "pitch_range", None)
    return {
        "scans": "x, y, z [m] and strength of one scan, in the frame of the data set's own scans",
        "position": list(getattr(scanner, "position", (0.0, 0.0, 0.0))),
        "beams_from_to_degrees": None if pitch is None else list(pitch),
    }


def _training(cfg: Any) -> dict[str, Any]:
    content = read_checkpoint(cfg.weight)
    content = content if isinstance(content, Mapping) else {}
    section = cfg.data.get("train") or cfg.data.val
    return {
        "dataset": section["type"],
        "split": section.get("split"),
        "epoch": content.get("epoch"),
        "iteration": content.get("iteration"),
        "seed": cfg.get("seed"),
        "model": cfg.model["type"],
        "batch_size": cfg.get("batch_size"),
        "versions": dict(content.get("versions") or {}),
    }


def _metrics(weight: Path) -> list[dict[str, Any]]:
    """What is known of the weights' quality, each figure with its protocol."""
    found: list[dict[str, Any]] = []
    content = read_checkpoint(weight)
    best = content.get("best_metric") if isinstance(content, Mapping) else None
    if isinstance(best, float) and np.isfinite(best) and content.get("best_iteration") == content.get("iteration"):
        what = "the metric that model_best.pth was chosen by, on data.val during training"
        found.append({"protocol": "quick", "value": best, "what": what})
    for kind in ("quick", "precise"):
        path = weight.absolute().parent.parent / report_file(kind)  # type: ignore[arg-type]
        try:
            report = read_json(path, ("kind", "weight"))
        except (OSError, DataError):
            continue
        if report["kind"] == kind and report["weight"] and Path(report["weight"]).resolve() == weight.resolve():
            means = {key: value for key, value in report.items() if key.endswith(f"_{kind}")}
            found.append({"protocol": kind, **{key: report.get(key) for key in _REPORTED if key != "kind"}, **means})
    return found


def _provenance(weight: Path) -> dict[str, Any]:
    return {
        "pointcept": __version__,
        **git_state(),
        "torch": torch.__version__,
        "weight": {"name": weight.name, "sha256": hashlib.sha256(weight.read_bytes()).hexdigest()},
    }


def card_text(card: Mapping[str, Any]) -> str:
    """The card as JSON."""
    return json.dumps(card, indent=1, allow_nan=False, default=str) + "\n"
