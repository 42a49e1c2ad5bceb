"""Inject faults and count what survives: python -m tests.faults [--quick] [--kind A B] [--only NAME] [--json FILE]."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tests.faults.campaign import NOT_HERE, run, table
from tests.faults.case import KINDS, SURVIVED, Verdict
from tests.faults.kinds import FAULTS
from tests.paths import REPO

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    """Play the cases that the arguments choose; 0 if all survived, 1 if not, 2 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the part that runs with the other tests")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS), help="only these kinds")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="only cases whose names contain NAME")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every verdict there")
    parser.add_argument("--list", action="store_true", help="name the cases and play none")
    parser.add_argument("--keep", action="store_true", help="leave the folders of cases that did not survive")
    args = parser.parse_args()
    faults = [
        fault
        for fault in FAULTS
        if fault.kind in args.kind
        and (fault.quick or not args.quick)
        and (not args.only or any(word in fault.name for word in args.only))
    ]
    if args.list:
        sys.stdout.write("".join(f"{fault.kind} {fault.name}\n" for fault in faults))
        return 0
    if not faults:
        sys.stderr.write("no case has such a name: python -m tests.faults --list\n")
        return 2
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # Threads of NumPy's libraries start with it, and a fork would lose them.
        path = os.pathsep.join([str(REPO), str(REPO / "libs" / "pointops")])
        os.chdir(REPO)
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.faults", *sys.argv[1:]],
            {**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )
    start = time.monotonic()
    verdicts: list[Verdict] = []
    for verdict in run(faults, args.jobs, args.keep):
        verdicts.append(verdict)
        show(verdict, len(verdicts), len(faults))
    seconds = time.monotonic() - start
    sys.stdout.write(f"\n{table(verdicts)}\n\n{len(verdicts)} cases in {seconds:.0f} s\n")
    if args.json:
        content = {"seconds": round(seconds, 1), "verdicts": [asdict(verdict) for verdict in verdicts]}
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(verdict.outcome in (SURVIVED, NOT_HERE) for verdict in verdicts) else 1


def show(verdict: Verdict, number: int, of: int) -> None:
    """One line for a case, and what is wrong where it did not survive."""
    head = f"[{number}/{of}] {verdict.kind} {verdict.outcome:9} {verdict.seconds:5.1f} s  {verdict.name}\n"
    sys.stdout.write(head)
    if verdict.outcome != SURVIVED:
        sys.stdout.writelines(f"    {line}\n" for text in verdict.messages for line in text.splitlines())
        if verdict.outcome != NOT_HERE:
            sys.stdout.write(f"    alone: python -m tests.faults --only {shlex.quote(verdict.name)} --keep\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
