"""Convert the Waymo Open Dataset (v1.3.2 to 1.4.2) into arrays, without TensorFlow.

    python pointcept/datasets/preprocessing/waymo/preprocess_waymo.py \\
        --dataset_root WAYMO --output_root data/waymo --splits training validation --num_workers 8

reads ``WAYMO/{training,validation,testing}/*.tfrecord`` and writes
``data/waymo/<split>/<segment>/<timestamp>/{coord,strength,pose,segment,mask}.npy`` (``convert.frame_arrays``).
Stopped at any moment, it leaves no half-written frame, and the same command goes on where it was. Damaged records are
listed with file and byte offset at the end, the exit code is then 1; wrong arguments give 2.

``testing`` needs ``--test_frames``, the official list ``tutorial/3d_semseg_test_set_frames.txt`` of the
waymo-open-dataset repository (lines ``<context>,<timestamp>``), which no wheel contains.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pointcept.datasets.preprocessing.waymo import protos
from pointcept.datasets.preprocessing.waymo.convert import SPLITS, SegmentReport, convert_segment, segment_context
from pointcept.utils.errors import DataError
from pointcept.utils.faults import guarded

logger = logging.getLogger("preprocess_waymo")

TEST_LIST = "tutorial/3d_semseg_test_set_frames.txt"
Job = tuple[Path, Path, str, "frozenset[int] | None"]


def read_test_frames(path: Path | None) -> dict[str, frozenset[int]]:
    """Read the official list of test frames into context name -> timestamps in microseconds.

    Raises:
        DataError: if there is no file, or a line is not ``<context>,<timestamp>``.
    """
    advice = f"get the official list {TEST_LIST} of the waymo-open-dataset repository and pass --test_frames FILE"
    if path is None:
        raise DataError(f"the split 'testing' has no labels: its frames are chosen by a list; {advice}")
    if not path.is_file():
        raise DataError(f"--test_frames: there is no file {path}; {advice}")
    frames: dict[str, set[int]] = defaultdict(set)
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        context, comma, stamp = line.strip().partition(",")
        if not (context and comma and stamp.strip().isdigit()):
            raise DataError(f"{path}, line {number}: expected '<context>,<timestamp>', got {line!r}")
        frames[context].add(int(stamp))
    if not frames:
        raise DataError(f"{path} names no frame; {advice}")
    return {context: frozenset(stamps) for context, stamps in frames.items()}


def collect_jobs(
    dataset_root: Path, output_root: Path, splits: list[str], test_frames: dict[str, frozenset[int]] | None
) -> list[Job]:
    """List the segments to convert; segments of ``testing`` without any wanted frame are left out.

    Raises:
        DataError: if a split has no folder or no tfrecord file, or none of the test frames is in the files.
    """
    jobs: list[Job] = []
    for split in splits:
        folder = dataset_root / split
        if not folder.is_dir():
            raise DataError(
                f"--dataset_root: there is no folder {folder}; expected {dataset_root}/{{{','.join(SPLITS)}}}"
            )
        files = sorted(folder.glob("*.tfrecord"))
        if not files:
            raise DataError(f"--dataset_root: there is no *.tfrecord file in {folder}")
        wanted = [
            test_frames.get(segment_context(f.stem)) if test_frames and split == "testing" else None for f in files
        ]
        found: list[Job] = [
            (file, output_root, split, stamps)
            for file, stamps in zip(files, wanted, strict=True)
            if stamps is not None or split != "testing"
        ]
        if not found:
            raise DataError(f"none of the {len(files)} segments in {folder} is named by the list of test frames")
        jobs += found
    return jobs


def run_jobs(jobs: list[Job], num_workers: int) -> Iterator[SegmentReport]:
    """Convert the segments, in this process for one worker; yields the reports as they come.

    Raises:
        OSError: if the output cannot be written; no further segment is begun then.
        BrokenProcessPool: if a worker was killed.
    """
    if num_workers <= 1:
        yield from (convert_segment(*job) for job in jobs)
        return
    # Started afresh rather than forked: a forked copy of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=min(num_workers, len(jobs)), mp_context=context)
    try:
        futures: list[Future[SegmentReport]] = [pool.submit(convert_segment, *job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def convert(jobs: list[Job], num_workers: int) -> int:
    """Convert the segments with a progress bar and log the outcome; returns the exit code."""
    total = SegmentReport("all")
    try:
        with logging_redirect_tqdm(), tqdm(total=len(jobs), unit="segment") as bar:
            for report in run_jobs(jobs, num_workers):
                for error in report.errors:
                    logger.error("%s", error)
                total.errors += report.errors
                total.written += report.written
                total.existing += report.existing
                total.unused += report.unused
                bar.set_postfix(frames=total.written + total.existing, faults=len(total.errors))
                bar.update()
    except OSError as error:
        logger.error("writing failed: %s. Whole frames are kept; the same command continues", error)
        return 1
    except BrokenProcessPool:
        logger.error("a worker was killed (out of memory?). Whole frames are kept; try fewer --num_workers")
        return 1
    except KeyboardInterrupt:
        logger.error("stopped. Whole frames are kept; the same command continues")
        return 130
    logger.info("%d frames written, %d were there already, %d not used", total.written, total.existing, total.unused)
    if total.errors:
        logger.error("%d faults, the frames concerned are missing:\n%s", len(total.errors), "\n".join(total.errors))
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 after damaged records or failed writing, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_root", type=Path, required=True, help="folder with training/ validation/ testing/")
    parser.add_argument("--output_root", type=Path, required=True, help="where the splits are written")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, required=True, help="splits to convert")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() or 1, help="processes, one segment each")
    parser.add_argument("--test_frames", type=Path, help=f"the official list {TEST_LIST}, for testing")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        protos.dataset_pb2()
        protos.optional_import("google_crc32c")
        test_frames = read_test_frames(args.test_frames) if "testing" in args.splits else None
        jobs = collect_jobs(args.dataset_root, args.output_root, args.splits, test_frames)
    except (DataError, ImportError) as error:
        logger.error("%s", error)
        return 2
    return convert(jobs, args.num_workers)


if __name__ == "__main__":
    sys.exit(guarded(main))
