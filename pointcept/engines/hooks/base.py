"""What a hook is: code that the training loop calls at fixed moments.

A new hook is one class with ``@HOOKS.register_module()`` and the moments that it needs. Hooks talk
through typed attributes of the trainer (``trainer.evaluation``, ``trainer.eta``), and their
``phase`` says who comes first at one moment; their order in the config means nothing. A constructor checks its
arguments and does nothing else: it is called once more before the run, to find wrong values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pointcept.engines.step import StepResult

if TYPE_CHECKING:
    from pointcept.engines.train import DefaultTrainer


class Phase(IntEnum):
    """Who comes first when several hooks are called at one moment; equal phases keep the config's order."""

    LOAD = 0
    MEASURE = 10
    LOG = 20
    DEFAULT = 30
    EVALUATE = 40
    SAVE = 50
    FINISH = 60


class HookBase:
    """A hook that does nothing; ``trainer`` is set before the first call."""

    phase: Phase = Phase.DEFAULT
    needs: Mapping[Phase, str] = MappingProxyType({})
    """Phases of which there has to be a hook too, and what for."""
    trainer: DefaultTrainer

    def sections(self, cfg: Any) -> Sequence[str]:
        """The sections of ``cfg.data`` that the hook will read itself; they are checked before the run."""
        return ()

    def carried(self) -> dict[str, Any]:
        """What a resumed run has to know, for a checkpoint: plain values and tensors."""
        return {}

    def carry_on(self, carried: Mapping[str, Any]) -> None:
        """Go on with what :meth:`carried` returned, after ``before_train`` of all hooks."""

    def before_train(self) -> None:
        """Everything is built; nothing has been loaded or trained."""

    def before_epoch(self) -> None:
        """An evaluation epoch begins, or goes on after a resume."""

    def before_step(self) -> None:
        """The batches of an optimizer step have been read."""

    def after_step(self, result: StepResult) -> None:
        """The optimizer has stepped."""

    def after_steps(self) -> None:
        """The steps of ``trainer.epoch`` are done.

        A run that is cut in what follows, ``after_epoch`` of all hooks, goes on here.
        """

    def after_epoch(self) -> None:
        """The steps of ``trainer.epoch`` are done; evaluation and saving happen here."""

    def after_train(self) -> None:
        """Training is over, also by an error or an interrupt: then ``trainer.completed`` is false."""
