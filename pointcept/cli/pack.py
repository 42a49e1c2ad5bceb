"""Make the shipped student out of a training: ``python -m pointcept.cli.pack CHECKPOINT [--out FILE]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pointcept.assets import SHIPPED
from pointcept.cli.door import run_module
from pointcept.utils.checkpoint import damage, extract_state_dict, read_checkpoint, save_atomically
from pointcept.utils.errors import CheckpointError, ConfigError
from pointcept.utils.faults import guarded

MOST_BYTES = 6 * 2**20
KEPT = ("running_mean", "running_var")
"""Statistics of batch norms stay float32: they are few, and a variance may lie beyond half precision."""


def halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in half precision.

    Raises:
        CheckpointError: a weight lies beyond the largest half, 65504, or is no number.
    """
    result = {
        key: value.half() if value.is_floating_point() and not key.endswith(KEPT) else value.clone()
        for key, value in state.items()
    }
    wrong = damage(result)
    if wrong is not None:
        raise CheckpointError(f"in half precision {wrong}")
    return result


def pack(path_in: str | Path, path_out: str | Path = SHIPPED) -> int:
    """Write the weights of a checkpoint in half precision, with its config and nothing else; return the bytes.

    Raises:
        CheckpointError: ``path_in`` is missing, damaged, or holds what half precision cannot, or more than 6 MiB of it.
        ConfigError: it carries no config.
    """
    content: Any = read_checkpoint(path_in)
    state = halved(extract_state_dict(content, path_in))
    if not isinstance(content, Mapping) or not isinstance(content.get("config"), str):
        raise ConfigError(f"{path_in} carries no config; take model_best.pth or model_last.pth of a run")
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > MOST_BYTES:
        raise CheckpointError(f"{path_in}: {size} bytes in half precision, at most {MOST_BYTES} ship with the package")
    save_atomically({"state_dict": state, "config": content["config"]}, path_out)
    return Path(path_out).stat().st_size


def argument_parser() -> argparse.ArgumentParser:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m pointcept.cli.pack", description="Make the shipped student out of a checkpoint of its run."
    )
    parser.add_argument("checkpoint", help="model_last.pth or model_best.pth")
    parser.add_argument("--out", default=str(SHIPPED), metavar="FILE", help="default: the place in this package")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    return parser


def main(args: argparse.Namespace) -> None:
    """Pack what the arguments name.

    Raises:
        CheckpointError, ConfigError: see :func:`pack`.
    """
    size = pack(args.checkpoint, args.out)
    sys.stdout.write(f"{args.out}: {size} bytes\n")


if __name__ == "__main__":
    sys.exit(guarded(lambda: run_module("pointcept.cli.pack", sys.argv[1:])))
