"""Which rows a command line asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointcept.engines.benchmark.inputs import Input, find_inputs
from pointcept.engines.benchmark.workloads import FOR_DISTILLATIONS, MODES, is_distillation
from pointcept.engines.defaults import load_config
from pointcept.ops import backend
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError

TEACHER_WEIGHT = "model.teacher_weight"
# NVIDIA's data sheet of the H100 SXM: half-precision products without sparsity, and its HBM3
PEAK_TFLOPS, PEAK_GBS = 989.0, 3350.0


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        config: name of the config.
        cfg: the config.
        source: what the network reads.
        mode: a key of ``MODES``.
        backend: what :func:`pointcept.ops.backend.override` takes.
        dtype: a key of ``DTYPES``.
        scans: size of the batch.
    """

    config: str
    cfg: Config
    source: Input
    mode: str
    backend: str
    dtype: str
    scans: int


@dataclass(frozen=True)
class Settings:
    """How every row is measured.

    Attributes:
        iterations: that are timed.
        warmup: iterations before these.
        profiled: iterations after these, whose kernels are counted.
        top: kernels to name.
        seed: of weights and of what training draws.
        stages: also measure each stage of the network, in mode ``infer``.
        peak_tflops, peak_gbs: what the device reaches at most, in 10¹² operations and 10⁹ bytes per second.

    Raises:
        ConfigError: no iteration, a negative number, or a peak of nothing.
    """

    iterations: int = 20
    warmup: int = 5
    profiled: int = 5
    top: int = 0
    seed: int = 0
    stages: bool = False
    peak_tflops: float = PEAK_TFLOPS
    peak_gbs: float = PEAK_GBS

    def __post_init__(self) -> None:
        if min(self.peak_tflops, self.peak_gbs) <= 0:
            raise ConfigError(f"--peak-tflops {self.peak_tflops} --peak-gbs {self.peak_gbs}: peaks are more than 0")
        if min(self.iterations, self.profiled) < 1 or min(self.warmup, self.top) < 0:
            raise ConfigError(f"{self}: iterations and profiled must be at least 1, warmup and top at least 0")


def read_configs(paths: Sequence[str], options: dict[str, Any]) -> dict[str, Config]:
    """Read the configs; a teacher without weights in ``options`` is a random one.

    Returns:
        Name (folder and file, ``nuscenes/teacher``) -> config.

    Raises:
        ConfigError: anything wrong in one of them.
    """
    configs = {}
    for path in paths:
        cfg = load_config(path, options)
        if is_distillation(cfg) and TEACHER_WEIGHT not in options:
            cfg.model.teacher_weight = "random"
        name = "/".join(Path(path).resolve().with_suffix("").parts[-2:])
        configs[path if name in configs else name] = cfg
    return configs


def plan_cases(
    configs: dict[str, Config],
    scans: Sequence[Path],
    points: Sequence[int],
    modes: Sequence[str],
    backends: Sequence[str],
    dtypes: Sequence[str],
    batches: Sequence[int],
) -> list[Case]:
    """Every combination; ``distill`` and ``losses`` apply to configs of distillations only.

    Raises:
        ConfigError: an unknown backend, a batch without a scan, or a mode that applies to no config.
        DataError: there is no scan.
    """
    for name in backends:
        backend.parse(name, "--backend")
    if min(batches) < 1:
        raise ConfigError(f"--batch {' '.join(map(str, batches))}: a batch has at least one scan")
    cases = [
        Case(config, cfg, source, mode, name, dtype, size)
        for config, cfg in configs.items()
        for source, mode, size, dtype, name in itertools.product(
            find_inputs(cfg, scans, points), _modes_of(cfg, modes), batches, dtypes, backends
        )
    ]
    if not cases:
        raise ConfigError(f"no row: mode {' '.join(modes)} applies to none of {', '.join(configs)}")
    return cases


def _modes_of(cfg: Config, modes: Sequence[str]) -> Iterator[str]:
    assert set(modes) <= set(MODES)
    for mode in modes:
        if mode not in FOR_DISTILLATIONS or is_distillation(cfg):
            yield mode
