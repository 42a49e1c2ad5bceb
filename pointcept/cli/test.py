"""Evaluate weights: ``pointcept test --config semantic_kitti/student --options weight=PATH``."""

from __future__ import annotations

import argparse

from pointcept.engines import defaults
from pointcept.engines.launch import launch


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    return defaults.argument_parser("Evaluate weights at full point resolution.", test=True)


def main(args: argparse.Namespace) -> None:
    """Test what the arguments name, in as many processes as they say.

    Raises:
        ConfigError, DataError, CheckpointError: see ``pointcept.engines.defaults.test_main``.
    """
    cfg = defaults.config_from_args(args)
    launch(defaults.test_main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, cfg)
