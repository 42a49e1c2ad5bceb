"""What is timed: the modes of the benchmark, each a function from a config to a call on a batch.

A new mode is one function in ``MODES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from pointcept.engines.deploy import InferenceEngine
from pointcept.engines.inference import Precision, forward
from pointcept.engines.scores import check_scores, network_name
from pointcept.models import MODELS, Distiller, build_inference_model, build_model, deployable, use_graphs
from pointcept.models.output import Output
from pointcept.ops import backend
from pointcept.utils import device
from pointcept.utils.checkpoint import load_weights
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError
from pointcept.utils.optimizer import build_optimizer

# name -> precision of the forward pass, and whether float32 products may use TF32
DTYPES: dict[str, tuple[Precision, bool]] = {
    "fp32": (Precision(), False),
    "tf32": (Precision(), True),
    "fp16": (Precision(True, torch.float16), False),
    "bf16": (Precision(True, torch.bfloat16), False),
}


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    Attributes:
        networks: those that run, for their parameters and FLOPs.
        call: does the work once on a batch.
        before_timing: called on the batch once FLOPs are counted; its time and its memory do not count.
        labels: the classes (N,) that the plain network gives a batch in float32, where ``call`` returns logits (N, K);
            called before ``before_timing``.
    """

    networks: Sequence[nn.Module]
    call: Callable[[Mapping[str, Tensor]], Any]
    before_timing: Callable[[Mapping[str, Tensor]], Any] | None = None
    labels: Callable[[Mapping[str, Tensor]], Tensor] | None = None


def is_distillation(cfg: Config) -> bool:
    """Whether the config trains another network than the one that it deploys."""
    return hasattr(MODELS.get(cfg.model.type), "inference_config")


def build_workload(mode: str, cfg: Config, precision: Precision) -> Workload:
    """Build the networks on the device.

    Args:
        mode: a key of ``MODES``.
        cfg: ``weight`` is loaded if it is set; otherwise the weights are random.
        precision: of the forward pass.

    Raises:
        ConfigError, CheckpointError: the model or the weights are wrong.
    """
    return MODES[mode](cfg, precision)


def _network(cfg: Config) -> nn.Module:
    return _loaded(build_inference_model(cfg.model), cfg)


def _loaded(model: nn.Module, cfg: Config) -> nn.Module:
    if cfg.weight:
        load_weights(deployable(model), cfg.weight)
    return model.to(device.get_device())


def _infer(cfg: Config, precision: Precision) -> Workload:
    """The deployed network, from coordinates and features to logits."""
    model = _network(cfg).eval()
    return Workload([model], partial(_logits, model, precision), labels=partial(_labels, model))


def _logits(model: nn.Module, precision: Precision, batch: Mapping[str, Tensor]) -> Tensor:
    return forward(model, {key: batch[key] for key in batch if key != "segment"}, precision)["seg_logits"]


def _labels(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    with backend.override(backend.AUTO), float32_products(False):
        scores = _logits(model, Precision(), batch)
    return check_scores(scores, network_name(model), Precision().hint).argmax(1)


def _engine(cfg: Config, precision: Precision) -> Workload:
    """The deployed network in the inference engine."""
    model = _network(cfg).eval()
    engine = InferenceEngine(model, precision.dtype if precision.enabled else torch.float32)

    def call(batch: Mapping[str, Tensor]) -> Tensor:
        return engine.logits(batch["grid_coord"], batch["feat"], batch["offset"])

    # The engine has its own copies of the weights: the plain model serves to count FLOPs and then leaves.
    return Workload([model], call, before_timing=lambda _: model.cpu(), labels=partial(_labels, model))


def _train(cfg: Config, precision: Precision) -> Workload:
    """Forward and backward of the deployed network with its own criteria."""
    return _training(_network(cfg), cfg, precision)


def _distill(cfg: Config, precision: Precision) -> Workload:
    """Forward and backward of the distiller: teacher, student and all losses."""
    return _training(_whole_model(cfg), cfg, precision)


def _losses(cfg: Config, precision: Precision) -> Workload:
    """The distillation losses alone, forward and backward to the student's features, for the same outputs each time."""
    model = cast(Distiller, _whole_model(cfg)).train()
    fixed: list[tuple[Output, Output]] = []

    def run_networks(batch: Mapping[str, Tensor]) -> None:
        with precision.context():
            student, teacher = model.outputs(batch)
            fixed[:] = [(model.student_leaves(student), teacher)]

    def call(batch: Mapping[str, Tensor]) -> Tensor:
        ((student, teacher),) = fixed
        with precision.context():
            loss = model.distillation_loss(model.student_leaves(student), replace(teacher, shared={}), batch)
        loss.backward()
        return loss.detach()

    return Workload([], call, before_timing=run_networks)


def _step(cfg: Config, precision: Precision) -> Workload:
    """What a training does with one batch: forward and backward of the config's model, and the optimizer's step."""
    if cfg.optimizer is None:
        raise ConfigError("mode step needs the config key 'optimizer'")
    model = _whole_model(cfg)
    return _training(model, cfg, precision, build_optimizer(cfg.optimizer, model, cfg.param_dicts))


def _whole_model(cfg: Config) -> nn.Module:
    """The model that the config trains; of a distillation with a random teacher unless its weights are set."""
    return _loaded(build_model(cfg.model), cfg)


def _training(
    model: nn.Module, cfg: Config, precision: Precision, optimizer: torch.optim.Optimizer | None = None
) -> Workload:
    model.train()
    if cfg.cuda_graphs:
        use_graphs(model, device.get_device())
    scaler = device.make_grad_scaler(precision.enabled, precision.dtype)

    def call(batch: Mapping[str, Tensor]) -> Tensor:
        model.zero_grad(set_to_none=True)
        with precision.context():
            loss: Tensor = model(batch)["loss"]
        scaler.scale(loss).backward()
        if optimizer is not None:
            scaler.step(optimizer)
            scaler.update()
        return loss.detach()

    teacher = getattr(model, "teacher", None)
    return Workload([deployable(model), *([teacher] if isinstance(teacher, nn.Module) else [])], call)


MODES: dict[str, Callable[[Config, Precision], Workload]] = {
    "infer": _infer,
    "engine": _engine,
    "train": _train,
    "distill": _distill,
    "losses": _losses,
    "step": _step,
}
FOR_DISTILLATIONS = ("distill", "losses")


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Let products of float32 matrices use TF32 inside ``with``, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
