"""Train a network: ``pointcept train --config semantic_kitti/teacher [--options key=value ...]``."""

from __future__ import annotations

import argparse

from pointcept.engines import defaults
from pointcept.engines.dry_run import dry_main
from pointcept.engines.launch import launch


def argument_parser() -> argparse.ArgumentParser:
    """The command line."""
    return defaults.argument_parser("Train a network.")


def main(args: argparse.Namespace) -> None:
    """Train what the arguments name, in as many processes as they say.

    Raises:
        ConfigError, DataError, CheckpointError, FloatingPointError: see ``pointcept.engines.defaults.train_main``.
    """
    cfg = defaults.config_from_args(args)
    work = dry_main if args.dry_run else defaults.train_main
    launch(work, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, cfg)
