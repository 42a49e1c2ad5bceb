"""What configs may leave out and how far their values may go: a default or a bound that moves changes runs silently."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pointcept.datasets.builder import TRANSFORMS
from pointcept.engines.hooks import HOOKS
from pointcept.models.builder import MODELS
from pointcept.models.losses import DISTILL_LOSSES, LOSSES
from pointcept.utils.errors import ConfigError
from pointcept.utils.optimizer import build_optimizer
from pointcept.utils.registry import Registry
from pointcept.utils.scheduler import SCHEDULERS, build_scheduler

COMMON = {"loss_weight": 1.0, "ignore_index": -1}
LOGITS = {"standardise": False, "balanced": False, "sure": 0.0, "right": False}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "losses": {
        "CrossEntropyLoss": {"weight": None, "label_smoothing": 0.0, **COMMON},
        "DiceLoss": {"smooth": 1.0, "exponent": 2.0, **COMMON},
        "FocalLoss": {"gamma": 2.0, "alpha": 0.5, **COMMON},
        "LovaszLoss": {"mode": "multiclass", "class_seen": None, **COMMON},
        "SmoothCELoss": {"smoothing_ratio": 0.1, **COMMON},
    },
    "distillation losses": {
        "AffinityLoss": {
            "loss_weight": 1.0, "supervoxels": 16, "edge": 8, "max_voxels": 64, "difficult": True, "stage": -1,
            "seed": 0,
        },
        "AttentionTransferLoss": {"loss_weight": 500.0, "p": 2.0, "stage": -1},
        "DKDLoss": {"loss_weight": 1.0, "alpha": 1.0, "beta": 2.0, "temperature": 1.0, **LOGITS},
        "FeatureMatchingLoss": {"loss_weight": 1.0, "stage": -1},
        "GradGuidedLoss": {"loss_weight": 10.0, "stage": -1, "normalisation": "minmax"},
        "KLDLoss": {"loss_weight": 0.3, "temperature": 1.0, **LOGITS},
        "RTDLiteLoss": {"loss_weight": 1.0, "stage": -1},
        "SimilarityLoss": {"loss_weight": 3000.0, "max_points": 512, "stage": -1, "seed": 0},
        "TopoLoss": {
            "loss_weight": 0.1, "dims": (0, 1), "distance": "chamfer", "normalisation": "rms", "max_points": 256,
            "subsample": "farthest", "engine": "redzed", "stage": -1, "seed": 0, "published": False,
        },
    },
    "transforms": {
        "CenterShift": {"apply_z": True},
        "Collect": {"offset_keys_dict": None},
        "Copy": {"keys_dict": None},
        "ElasticDistortion": {"distortion_params": ((0.2, 0.4), (0.8, 1.6))},
        "GridSample": {
            "grid_size": 0.05, "hash_type": "fnv", "mode": "train", "keys": None, "return_inverse": False,
            "return_grid_coord": False, "return_min_coord": False, "return_displacement": False,
            "project_displacement": False,
        },
        "InstancePaste": {
            "p": 0.5, "classes": None, "scans": 1000, "count": (1, 10), "angle": (0, 360), "min_points": 20,
            "cell": 0.5, "clear": True,
        },
        "LaserMix": {"p": 0.5, "num_areas": (3, 4, 5, 6), "pitch_range": None},
        "PointClip": {"point_cloud_range": (-80, -80, -3, 80, 80, 1)},
        "PolarMix": {
            "p": 0.5, "swap_ratio": 0.5, "sector": (180, 180), "rotate_paste_ratio": 1.0, "classes": None,
            "turns": ((0, 0), (0, 120), (120, 240)),
        },
        "RandomDropout": {"dropout_ratio": 0.2, "dropout_application_ratio": 0.5},
        "RandomFlip": {"p": 0.5},
        "RandomJitter": {"sigma": 0.01, "clip": 0.05},
        "RandomRotate": {"angle": (-1, 1), "center": None, "axis": "z", "always_apply": False, "p": 0.5},
        "RandomRotateTargetAngle": {
            "angle": (1 / 2, 1, 3 / 2), "center": None, "axis": "z", "always_apply": False, "p": 0.75,
        },
        "RandomScale": {"scale": (0.95, 1.05), "anisotropic": False},
        "RandomShift": {"shift": ((-0.2, 0.2), (-0.2, 0.2), (0, 0))},
        "ShufflePoint": {},
        "SphereCrop": {"point_max": 80000, "sample_rate": None, "mode": "random"},
        "ToTensor": {},
        "Update": {"keys_dict": None},
    },
    "schedulers": {
        "ConstantLR": {},
        "CosineAnnealingLR": {"eta_min": 0.0},
        "ExpLR": {"gamma": 0.9},
        "MultiStepLR": {"gamma": 0.1},
        "MultiStepWithWarmupLR": {"gamma": 0.1, "warmup_rate": 0.05, "warmup_scale": 1e-6},
        "OneCycleLR": {
            "pct_start": 0.3, "anneal_strategy": "cos", "cycle_momentum": True, "base_momentum": 0.85,
            "max_momentum": 0.95, "div_factor": 25.0, "final_div_factor": 1e4, "three_phase": False,
        },
        "PolyLR": {"power": 0.9},
    },
    "hooks": {
        "CheckpointLoader": {"keywords": "", "replacement": None, "strict": True},
        "IterationTimer": {"warmup_iter": 1},
        "PreciseEvaluator": {"test_last": False},
        "SemSegEvaluator": {"metric": "miou_present"},
    },
}  # fmt: skip


@pytest.mark.parametrize("registry", [LOSSES, DISTILL_LOSSES, TRANSFORMS, SCHEDULERS, HOOKS], ids=lambda r: r.name)
def test_defaults_are_those_that_configs_count_on(registry: Registry) -> None:
    expected = DEFAULTS[registry.name]
    ours = [name for name in registry.names() if registry.get(name).__module__.startswith("pointcept.")]
    assert registry is HOOKS or sorted(expected) == ours
    for name, defaults in expected.items():
        parameters = inspect.signature(registry.get(name)).parameters
        assert {key: p.default for key, p in parameters.items() if p.default is not p.empty} == defaults, name


NETWORK = {
    "type": "PT-v3m1", "in_channels": 4, "stride": (2,), "enc_depths": (1, 1), "enc_channels": (32, 32),
    "enc_num_head": (1, 1), "enc_patch_size": (8, 8), "dec_depths": (1,), "dec_channels": (32,), "dec_num_head": (1,),
    "dec_patch_size": (8,),
}  # fmt: skip
UNET = {
    "type": "SpUNet-v1m1", "in_channels": 1, "num_classes": 0, "base_channels": 1, "channels": (1, 1), "layers": (0, 0),
}  # fmt: skip


def pair(value: Any) -> list[Any]:
    return [value, value]


def alone(value: Any) -> list[Any]:
    return [value]


# registry -> (type or what else is needed, argument, range, "int" before it for integers; how a value is given)
RANGES: dict[str, list[tuple[Any, ...]]] = {
    "losses": [
        ("CrossEntropyLoss", "label_smoothing", "[0, 1]"),
        ("CrossEntropyLoss", "loss_weight", "[0, inf)"),
        ("CrossEntropyLoss", "weight", "[0, inf)", lambda v: [v, 1]),
        ("SmoothCELoss", "smoothing_ratio", "[0, 1]"),
        ("FocalLoss", "gamma", "[0, inf)"),
        ("FocalLoss", "alpha", "[0, 1]"),
        ("FocalLoss", "alpha", "[0, 1]", pair),
        ("DiceLoss", "smooth", "(0, inf)"),
        ("DiceLoss", "exponent", "[1, inf)"),
        ("LovaszLoss", "class_seen", "int[0, inf)", alone),
    ],
    "distillation losses": [
        *((kind, "stage", "int(-inf, inf)") for kind, has in DEFAULTS["distillation losses"].items() if "stage" in has),
        ("KLDLoss", "temperature", "(0, inf)"),
        ("DKDLoss", "temperature", "(0, inf)"),
        ("DKDLoss", "alpha", "[0, inf)"),
        ("DKDLoss", "beta", "[0, inf)"),
        ("AffinityLoss", "supervoxels", "int[1, inf)"),
        ("AffinityLoss", "edge", "int[2, inf)"),
        ("AffinityLoss", "max_voxels", "int[2, inf)"),
        ("KLDLoss", "loss_weight", "[0, inf)"),
        ("AttentionTransferLoss", "p", "[1, inf)"),
        ("SimilarityLoss", "max_points", "int[2, inf)"),
        ("SimilarityLoss", "seed", f"int[0, {2**63 - 1}]"),
        ("TopoLoss", "max_points", "int[4, inf)"),
        ("TopoLoss", "dims", "int[0, 2]", alone),
        ("TopoLoss", "seed", f"int[0, {2**63 - 1}]"),
    ],
    "transforms": [
        ("GridSample", "grid_size", "(0, inf)"),
        ("GridSample", "grid_size", "(0, inf)", lambda v: [v, 1, 1]),
        ("SphereCrop", "point_max", "int[1, inf)"),
        ("SphereCrop", "sample_rate", "(0, 1]"),
        ("RandomDropout", "dropout_ratio", "[0, 1]"),
        ("RandomDropout", "dropout_application_ratio", "[0, 1]"),
        ("RandomRotate", "p", "[0, 1]"),
        ("RandomRotateTargetAngle", "p", "[0, 1]"),
        ("RandomScale", "scale", "(0, inf)", pair),
        ("RandomFlip", "p", "[0, 1]"),
        ("RandomJitter", "sigma", "[0, inf)"),
        ("RandomJitter", "clip", "(0, inf)"),
        ("ElasticDistortion", "distortion_params", "(0, inf)", lambda v: [[v, 1.0]]),
        ("ElasticDistortion", "distortion_params", "[0, inf)", lambda v: [[1.0, v]]),
        ("PolarMix", "p", "[0, 1]"),
        ("PolarMix", "swap_ratio", "[0, 1]"),
        ("PolarMix", "rotate_paste_ratio", "[0, 1]"),
        ("PolarMix", "sector", "[0, 360]", pair),
        ("LaserMix", "p", "[0, 1]"),
        ("LaserMix", "num_areas", "int[2, inf)", alone),
        ("LaserMix", "pitch_range", "[-90, 90]", lambda v: [v, 90] if v <= 0 else [-90, v]),
        ("InstancePaste", "p", "[0, 1]"),
        ("InstancePaste", "scans", "int[1, inf)"),
        ("InstancePaste", "count", "int[1, inf)", pair),
        ("InstancePaste", "min_points", "int[1, inf)"),
        ("InstancePaste", "cell", "(0, inf)"),
    ],
    "schedulers": [
        ({"type": "OneCycleLR"}, "max_lr", "(0, inf)"),
        ({"type": "OneCycleLR"}, "max_lr", "(0, inf)", alone),
        ({"type": "OneCycleLR", "max_lr": 0.1}, "pct_start", "[0, 1]"),
        ({"type": "OneCycleLR", "max_lr": 0.1, "three_phase": True}, "pct_start", "[0, 0.5]"),
        ({"type": "OneCycleLR", "max_lr": 0.1}, "base_momentum", "[0, 0.95]"),
        ({"type": "OneCycleLR", "max_lr": 0.1}, "max_momentum", "[0.85, 1]"),
        ({"type": "OneCycleLR", "max_lr": 0.1}, "div_factor", "[1, inf)"),
        ({"type": "OneCycleLR", "max_lr": 0.1}, "final_div_factor", "[1, inf)"),
        ({"type": "MultiStepLR"}, "milestones", "(0, 1)", alone),
        ({"type": "MultiStepLR", "milestones": [0.5]}, "gamma", "[0, inf)"),
        ({"type": "MultiStepWithWarmupLR"}, "milestones", "(0, 1)", alone),
        ({"type": "MultiStepWithWarmupLR", "milestones": [0.5]}, "gamma", "[0, inf)"),
        ({"type": "MultiStepWithWarmupLR", "milestones": [0.5]}, "warmup_rate", "[0, 1]"),
        ({"type": "MultiStepWithWarmupLR", "milestones": [0.5]}, "warmup_scale", "[0, 1]"),
        ("PolyLR", "power", "[0, inf)"),
        ("ExpLR", "gamma", "(0, inf)"),
        ("CosineAnnealingLR", "eta_min", "[0, inf)"),
    ],
    "optimizers": [
        ("AdamW", "lr", "[0, inf)"),
        ("AdamW", "weight_decay", "[0, inf)"),
        ("AdamW", "betas", "[0, 1)", pair),
        ("AdamW", "eps", "(0, inf)"),
        ({"type": "SGD", "lr": 0.1}, "momentum", "[0, 1)"),
        ({"type": "SGD", "lr": 0.1}, "dampening", "[0, 1)"),
    ],
    "hooks": [
        ("IterationTimer", "warmup_iter", "int[0, inf)"),
        ("InformationWriter", "log_freq", "int[1, inf)"),
        ("CheckpointSaver", "save_freq", "int[1, inf)"),
        ("CheckpointSaver", "save_iter", "int[1, inf)"),
    ],
    "models": [
        (NETWORK, "in_channels", "int[1, inf)"),
        (NETWORK, "drop_path", "[0, 1)"),
        (NETWORK, "bn_momentum", "(0, 1]"),
        (NETWORK, "mlp_ratio", "(0, inf)"),
        (NETWORK, "attn_drop", "[0, 1)"),
        (NETWORK, "proj_drop", "[0, 1)"),
        (NETWORK, "qk_scale", "(0, inf)"),
        (NETWORK, "enc_depths", "int[0, inf)", pair),
        (NETWORK, "enc_patch_size", "int[1, inf)", pair),
        (UNET, "in_channels", "int[1, inf)"),
        (UNET, "num_classes", "int[0, inf)"),
        (UNET, "base_channels", "int[1, inf)"),
        (UNET, "channels", "int[1, inf)", pair),
        (UNET, "layers", "int[0, inf)", pair),
    ],
}  # fmt: skip
BUILDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "losses": LOSSES.build,
    "distillation losses": DISTILL_LOSSES.build,
    "transforms": TRANSFORMS.build,
    "schedulers": lambda cfg: build_scheduler(cfg, torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]), 100),
    "optimizers": lambda cfg: build_optimizer(cfg, torch.nn.Linear(1, 1)),
    "hooks": HOOKS.build,
    "models": MODELS.build,
}


def probes(words: str) -> tuple[list[float], list[float]]:
    """Numbers at the ends of a range, inside and outside."""
    integers = words.startswith("int")
    words = words.removeprefix("int")
    inside: list[float] = []
    outside: list[float] = [math.nan]
    for end, bracket, sign in zip(words[1:-1].split(", "), (words[0], words[-1]), (1, -1), strict=True):
        if math.isinf(float(end)):
            outside.append(float(end))
        elif integers:
            inside.append(int(end))
            outside.append(int(end) - sign)
        else:
            (inside if bracket in "[]" else outside).append(float(end))
            inside.append(float(end) + sign * 0.04)
            outside.append(math.nextafter(float(end), -sign * math.inf))
    return inside, outside


ROWS = [(registry, row) for registry, rows in RANGES.items() for row in rows]


@pytest.mark.parametrize(("registry", "row"), ROWS, ids=[f"{row[1]} {row[2]}" for _, row in ROWS])
def test_a_range_ends_where_the_documentation_says(registry: str, row: tuple[Any, ...]) -> None:
    entry, argument, words, *shape = row
    cfg = {"type": entry} if isinstance(entry, str) else entry
    inside, outside = probes(words)
    for value in inside:
        BUILDERS[registry]({**cfg, argument: shape[0](value) if shape else value})
    for value in outside:
        with pytest.raises(ConfigError, match=rf"(?<!\w){argument}(?!\w).*: got "):
            BUILDERS[registry]({**cfg, argument: shape[0](value) if shape else value})


CHOICES = [
    (LOSSES, "LovaszLoss", "mode"),
    (DISTILL_LOSSES, "GradGuidedLoss", "normalisation"),
    (DISTILL_LOSSES, "TopoLoss", "distance"),
    (DISTILL_LOSSES, "TopoLoss", "normalisation"),
    (DISTILL_LOSSES, "TopoLoss", "subsample"),
    (DISTILL_LOSSES, "TopoLoss", "engine"),
    (TRANSFORMS, "GridSample", "hash_type"),
    (TRANSFORMS, "GridSample", "mode"),
    (TRANSFORMS, "SphereCrop", "mode"),
    (TRANSFORMS, "RandomRotate", "axis"),
]


@pytest.mark.parametrize(("registry", "kind", "argument"), CHOICES)
def test_an_unknown_choice_is_refused_by_its_argument(registry: Registry, kind: str, argument: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?<!\w){argument}: got 'nonsense': .*Allowed: "):
        registry.build({"type": kind, argument: "nonsense"})
