"""Label scan files on the command line.

pointcept-runtime student/ --scan scan.bin --out labels.npy
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

from pointcept_runtime.card import Card, read_card
from pointcept_runtime.errors import ExportError, ScanError
from pointcept_runtime.measure import measure
from pointcept_runtime.scans import check_suffix, find_scans, output_paths, read_scan, write_labels
from pointcept_runtime.student import PROVIDERS, load

logger = logging.getLogger("pointcept_runtime")


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``pointcept-runtime``."""
    parser = argparse.ArgumentParser(prog="pointcept-runtime", description="Label scans with an exported student.")
    parser.add_argument("folder", type=Path, help="what `pointcept export` wrote")
    parser.add_argument("--scan", type=Path, help="a scan, or a folder of them; without it the folder is only verified")
    parser.add_argument("--out", type=Path, help="for a scan: FILE.npy (int16 classes) or the benchmark's own format")
    parser.add_argument("--suffix", default=".npy", help="for a folder of scans: format of the labels, .npy by default")
    parser.add_argument("--device", choices=sorted(PROVIDERS), default="cpu")
    parser.add_argument("--threads", type=int, help="of a product on the CPU; by default as many as there are cores")
    parser.add_argument("--repeat", type=int, help="only measure: label the scans so many times")
    parser.add_argument("--parallel", type=int, default=1, help="with --repeat: threads that share the scans")
    return parser


def main(args: argparse.Namespace) -> None:
    """Verify the folder, label what the arguments name.

    Raises:
        ExportError: the folder is damaged or not what it should be.
        ScanError: a scan is missing or malformed, or labels cannot be written.
    """
    card = read_card(args.folder)
    card.verify()
    logger.info("%s: %d files as the card says, %d classes", args.folder, len(card.files), len(card.names))
    if args.scan is None:
        return
    if args.repeat is not None:
        _measure(args, card)
        return
    if args.out is None:
        raise ScanError("--out is missing: where do the labels go?")
    scans = find_scans(args.scan)
    targets = output_paths(args.scan, scans, args.out, args.suffix)
    for target in targets[:1]:
        check_suffix(target.suffix, card)
    student = load(args.folder, args.device, args.threads)
    for number, (scan, target) in enumerate(zip(scans, targets, strict=True), start=1):
        start = time.perf_counter()
        try:
            labels = student.label(read_scan(scan, card))
        except ScanError as error:
            raise ScanError(str(error) if str(scan) in str(error) else f"{scan}: {error}") from None
        write_labels(target, labels, card)
        seconds = time.perf_counter() - start
        logger.info("[%d/%d] %d points in %.2f s: %s", number, len(scans), len(labels), seconds, target)


def _measure(args: argparse.Namespace, card: Card) -> None:
    if min(args.repeat, args.parallel) < 1:
        raise ScanError(f"--repeat {args.repeat} --parallel {args.parallel}: expected at least 1")
    scans = [read_scan(path, card) for path in find_scans(args.scan)[: args.repeat]]
    for line in measure(load(args.folder, args.device, args.threads), scans, args.repeat, args.parallel):
        logger.info("%s", line)


def run() -> None:
    """The door: an error of the user's is one line and the exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        main(argument_parser().parse_args())
    except (ExportError, ScanError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    run()
