"""The config that a checkpoint carries: what ``predict``, ``view`` and ``export`` need beside its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointcept.engines.defaults import load_config
from pointcept.utils.checkpoint import read_checkpoint
from pointcept.utils.config import Config
from pointcept.utils.config_diff import parse_config
from pointcept.utils.errors import ConfigError


def config_of(weight: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """The config of the run that wrote a checkpoint, with ``weight`` set to that checkpoint.

    Args:
        weight: ``model_best.pth``, ``model_last.pth`` or what was made of them.
        options: overrides, as of ``--options``; ``weight`` among them has no effect.

    Raises:
        CheckpointError: the file is missing or damaged.
        ConfigError: it carries no config, or an option does not fit.
    """
    content = read_checkpoint(weight)
    text = content.get("config") if isinstance(content, Mapping) else None
    if not isinstance(text, str):
        raise ConfigError(f"{weight} carries no config (weights of another program?): name one with --config")
    try:
        # A config file is code, and this text may come from anywhere: it must be the plain values that a run writes.
        parse_config(text)
    except ValueError as error:
        raise ConfigError(f"{weight}: 'config' is {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.py"
        path.write_text(text, encoding="utf-8")
        return load_config(path, {**(options or {}), "weight": str(weight)})
