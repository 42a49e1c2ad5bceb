"""Scalars for Weights & Biases, off unless a config asks for them."""

from __future__ import annotations

import importlib
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointcept.engines.hooks.base import HookBase, Phase
from pointcept.engines.hooks.builder import HOOKS
from pointcept.utils import comm
from pointcept.utils.errors import ConfigError
from pointcept.utils.patience import waiting

logger = logging.getLogger(__name__)

EXTRA = "pip install 'pointcept[wandb]'"


@HOOKS.register_module()
class WandbWriter(HookBase):
    """Sends every scalar to Weights & Biases too; ``enable_wandb=True`` adds this hook.

    ``WANDB_MODE=offline`` writes below ``save_path/wandb`` alone. A resumed run goes on with its page. The project is
    ``cfg.wandb_project``, the account that of ``cfg.wandb_key`` or of ``wandb login``.

    Args:
        required: without the package, or a connection at the start, the run ends; otherwise it goes on without a page.

    Raises:
        ConfigError: ``required``, and the package is not installed.
    """

    phase = Phase.MEASURE

    def __init__(self, required: bool = True) -> None:
        self.required = required
        self.page: Any = None
        self._refused = False
        self._id: str | None = None
        if required:
            _package()

    def carried(self) -> dict[str, Any]:
        return {"id": self._id}

    def carry_on(self, carried: Mapping[str, Any]) -> None:
        self._id = carried["id"]

    def before_epoch(self) -> None:
        """Open the page, once it is known whether there is one already."""
        if self.page is not None or self._refused or not comm.is_main_process():
            return
        cfg = self.trainer.cfg
        try:
            wandb = _package()
            self._id = self._id or secrets.token_hex(6)
            own = {"id": self._id, "resume": "allow", "dir": cfg.save_path, "name": Path(cfg.save_path).name}
            self.page = wandb.init(project=cfg.wandb_project, config=cfg.to_dict(), **own)
        except Exception as error:  # a package of others, and a network: whatever it is, it is not worth a training
            if self.required:
                raise ConfigError(f"Weights & Biases: {error}") from error
            self._refused = True
            logger.warning("Weights & Biases: %s; the run goes on without it", error)
            return
        self.trainer.writer.attach(self._send)

    def _send(self, values: Mapping[str, float], iteration: int) -> None:
        if self.page is None:
            return
        try:
            self.page.log({**values, "iteration": iteration}, step=iteration)
        except Exception as error:  # see above
            self.page = None
            logger.warning("Weights & Biases: %s; nothing more is sent, the run goes on", error)

    def after_train(self) -> None:
        page, self.page = self.page, None
        if page is not None:
            with waiting("Weights & Biases to take the last numbers"):
                page.finish(exit_code=0 if self.trainer.completed else 1)


def _package() -> Any:
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(f"enable_wandb and WandbWriter need the package wandb ({error}): {EXTRA}") from error
