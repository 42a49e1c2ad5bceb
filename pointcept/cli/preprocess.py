"""Prepare raw data sets: ``pointcept preprocess nuscenes|waymo --dataset_root RAW --output_root OUT``."""

from __future__ import annotations

import argparse

from pointcept.datasets.preprocessing.nuscenes import preprocess_nuscenes_info
from pointcept.datasets.preprocessing.waymo import preprocess_waymo

DATASETS = {
    "nuscenes": (preprocess_nuscenes_info, "write the info files of nuScenes lidarseg"),
    "waymo": (preprocess_waymo, "convert Waymo Open into arrays"),
}


def argument_parser() -> argparse.ArgumentParser:
    """The command line: one command for each data set that needs preparing."""
    parser = argparse.ArgumentParser(
        prog="pointcept preprocess", description="Prepare a raw data set. SemanticKITTI needs no preparing."
    )
    commands = parser.add_subparsers(dest="dataset", required=True, metavar="|".join(DATASETS))
    for name, (module, what) in DATASETS.items():
        commands.add_parser(
            name,
            help=what,
            parents=[module.argument_parser(add_help=False)],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    return parser


def main(args: argparse.Namespace) -> int:
    """Prepare the data set that the arguments name; returns the exit code of its module."""
    return DATASETS[args.dataset][0].run(args)
