"""What runs beside the training loop. Importing this package registers every hook."""

from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS, build_hooks
from pointcept.engines.hooks.checkpoint import CheckpointLoader, CheckpointSaver
from pointcept.engines.hooks.evaluator import PreciseEvaluator, SemSegEvaluator
from pointcept.engines.hooks.progress import InformationWriter, IterationTimer

__all__ = [
    "HOOKS",
    "CheckpointLoader",
    "CheckpointSaver",
    "HookBase",
    "InformationWriter",
    "IterationTimer",
    "Phase",
    "PreciseEvaluator",
    "SemSegEvaluator",
    "build_hooks",
]
