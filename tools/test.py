"""Evaluate weights: python tools/test.py --config configs/semantic_kitti/student.py --options weight=PATH."""

import sys

from pointcept.utils.faults import guarded


def main() -> int:
    """Read the command line and test; returns the exit code."""
    from pointcept.engines.defaults import argument_parser, config_from_args, test_main
    from pointcept.engines.launch import exit_code, launch

    args = argument_parser("Evaluate weights at full point resolution.", test=True).parse_args()

    def run() -> None:
        cfg = config_from_args(args)
        launch(test_main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, cfg)

    return exit_code(run, args.traceback)


if __name__ == "__main__":
    sys.exit(guarded(main))
