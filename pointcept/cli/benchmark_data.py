"""Time the input pipeline: ``pointcept benchmark-data --config semantic_kitti/teacher --options data_root=PATH``."""

from __future__ import annotations

import argparse
import sys

from pointcept.datasets.benchmark import argument_parser, benchmark
from pointcept.engines.defaults import load_config
from pointcept.utils.config import parse_options

__all__ = ["argument_parser", "main"]


def main(args: argparse.Namespace) -> None:
    """Time the data of the config that the arguments name, and show the table.

    Raises:
        ConfigError, DataError: see ``pointcept.datasets.benchmark.benchmark``.
    """
    sys.stdout.write(benchmark(load_config(args.config, parse_options(args.options)), args))
