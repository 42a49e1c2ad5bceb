"""Train a network: python tools/train.py --config configs/semantic_kitti/teacher.py [--options key=value ...]."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and train; returns the exit code."""
    from pointcept.engines.defaults import argument_parser, config_from_args, train_main
    from pointcept.engines.launch import exit_code, launch

    args = argument_parser("Train a network.").parse_args()

    def run() -> None:
        cfg = config_from_args(args)
        launch(train_main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, cfg)

    return exit_code(run, args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
