"""The campaign of injected faults as tests: a quick part with all others, the whole with ``-m faults``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.campaign import table
from tests.faults.case import FAILURES, KINDS, Verdict
from tests.faults.kinds import FAULTS
from tests.paths import REPO


def campaign(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.faults", *arguments], cwd=REPO, capture_output=True, text=True)


def test_the_campaign_is_as_large_as_it_says() -> None:
    assert len(FAULTS) >= 300
    assert {fault.kind for fault in FAULTS} == set(KINDS)
    assert all(any(fault.quick for fault in FAULTS if fault.kind == kind) for kind in KINDS)


def test_a_table_counts_every_outcome_once() -> None:
    verdicts = [Verdict("A", f"{outcome}", outcome, [], 0.0) for outcome in ("survived", *FAILURES, "not here")]
    last = [cell.strip() for cell in table(verdicts).splitlines()[-1].strip("|").split("|")]
    assert last == ["all", str(1 + len(FAILURES)), *["1"] * (2 + len(FAILURES))]


def test_quick_faults() -> None:
    done = campaign("--quick")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.faults
@pytest.mark.slow
def test_all_faults() -> None:
    done = campaign()
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
