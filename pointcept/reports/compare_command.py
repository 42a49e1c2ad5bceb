"""The command that puts runs side by side.

    python tools/compare.py teacher=exp/teacher student=exp/student --out compare.html
    python tools/compare.py docs/studies/semantic_kitti

The first prints the results of runs in one table, and draws them on a page; the second prints the rows of a study.
Results stand side by side only if they were made in the same way on the same points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pointcept.evaluation.report import align, report_file
from pointcept.reports.compare_page import comparison_page
from pointcept.reports.comparison import compare
from pointcept.reports.run import read_run
from pointcept.reports.study import Row, is_study, read_study
from pointcept.utils.errors import ConfigError, DataError
from pointcept.utils.files import write_text_atomic


def argument_parser() -> argparse.ArgumentParser:
    """The command line of ``tools/compare.py``."""
    parser = argparse.ArgumentParser(description="Compare results of runs, and what the most frequent class would get.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]PATH",
        help=f"a run's save_path, with {report_file('precise')} in it, or such a JSON file; or the folder of a study "
        "or of an ablation. NAME heads its column",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="draw curves and differences on a page, too")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the tables, and write the page where one is asked for.

    Raises:
        ConfigError: two runs of one name, or a page that is no HTML file.
        DataError: a result is missing or malformed, or they are not comparable; or the page cannot be written.
    """
    if args.out is not None and args.out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out {args.out}: expected a file that ends in .html")
    named = _named(args.runs)
    studies = {name: read_study(path) for name, path in named.items() if is_study(path)}
    runs = {name: path for name, path in named.items() if name not in studies}
    texts = [f"{name}\n{study_table(rows)}" for name, rows in studies.items()]
    texts += [compare(f"{name}={path}" for name, path in runs.items())] if runs else []
    if args.out is not None:
        folders = {name: read_run(path) for name, path in runs.items() if path.is_dir()}
        try:
            write_text_atomic(args.out, comparison_page(folders, studies))
        except OSError as error:
            raise DataError(f"cannot write {args.out}: {error.strerror or error}") from error
        texts.append(f"{args.out}\n")
    sys.stdout.write("\n".join(texts))


def _named(runs: Sequence[str]) -> Mapping[str, Path]:
    """``NAME=PATH`` or ``PATH``, which is its own name."""
    named: dict[str, Path] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if name in named:
            raise ConfigError(f"two runs are called {name!r}: give each a name of its own, NAME=PATH")
        named[name] = Path(path if equals else name)
    return named


def study_table(rows: Sequence[Row]) -> str:
    """Rows of a study as aligned text: mean mIoU, standard deviation over the seeds, and how many."""
    cells = [["row", "mIoU [%]", "std", "seeds"]]
    for row in rows:
        mean, spread = ("-" if value is None else f"{100 * value:.2f}" for value in (row.mean, row.spread))
        cells.append([row.name, mean, spread, str(len(row.values))])
    return "\n".join(align(cells, len(cells))[:-1]) + "\n"
