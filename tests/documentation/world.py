"""A small world in which the commands of the documentation run as they stand.

It is a folder that looks like a clone. Its tools, scripts and package are the repository's; its configs are copies in
which every network is tiny, every training two steps long, and every scan small.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np

from tests.integration.scans import write_scan
from tests.paths import REPO

POINTS = 600

TINY = """
{name} = dict({name}, backbone_out_channels=8, backbone=dict({name}["backbone"], stride=(2,),
    enc_depths=(1, 1), enc_channels=(8, 16), enc_num_head=(1, 2), enc_patch_size=(64, 64),
    dec_depths=(1,), dec_channels=(8,), dec_num_head=(1,), dec_patch_size=(64,)))
"""
TINY_SPUNET = """
{name} = dict({name}, backbone=dict({name}["backbone"], base_channels=8, channels=(8, 8), layers=(1, 1)))
"""
SHORT = """
epoch = 1
eval_epoch = 1
batch_size = 1
train = dict(max_iter=2)
"""
"""After every schedule."""
QUIET = """
num_worker = 0
log_freq = 1
enable_amp = False
"""
"""After every runtime."""
FEW_ROWS = """
folds = [[0, 1, 2, 3], [4, 5, 8, 9, 10]]
seeds = [0]
rows = {name: dict(rows[name], seeds=[0]) for name in ("teacher", "seg", "seg_fast")}
"""
"""After every study."""
SHORTER = [
    (re.compile(r"\b(train\.max_iter)=\d+"), r"\1=2"),
    (re.compile(r"\b(eval_epoch)=\d+"), r"\1=1"),
    (re.compile(r"\b(num_worker)=\d+"), r"\1=0"),
    (re.compile(r"(--iterations) \d+"), r"\1 1"),
    (re.compile(r"(--frames) \d+"), r"\1 1"),
    (re.compile(r"(--jobs) \d+"), r"\1 1"),
    (re.compile(r"(--dtype) fp16"), r"\1 fp32"),
    (re.compile(r"(--num-gpus|-g) \d+"), r"\1 1"),
]
"""What is changed in a command, so that it takes seconds on a CPU."""


def build(root: Path) -> dict[str, str]:
    """Make the world below ``root``; returns the environment of its commands."""
    for name in ("tools", "scripts", "pointcept", "libs", "README.md"):
        (root / name).symlink_to(REPO / name)
    (root / "docs").mkdir()
    (root / "docs/studies").symlink_to(REPO / "docs/studies")
    shutil.copytree(REPO / "configs", root / "configs")
    shrink(root / "configs/_base_")
    rng = np.random.default_rng(0)
    for sequence in ("00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "30"):
        points = rng.uniform((-15, -15, -2, 0), (15, 15, 1, 1), (POINTS, 4))
        write_scan(root / "data/semantic_kitti", sequence, 0, points)
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{REPO}:{REPO / 'libs/pointops'}",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "POINTCEPT_DEVICE": "cpu",
    }


def shrink(base: Path) -> None:
    """Make networks, trainings and tests of all configs small."""
    for path in base.glob("models/*.py"):
        name = re.findall(r"^(\w+) = dict\($", path.read_text(), re.MULTILINE)[0]
        append(path, (TINY_SPUNET if "spunet" in path.name else TINY).format(name=name))
    for path in base.glob("schedules/*.py"):
        append(path, SHORT)
    for path in base.glob("*runtime*.py"):
        append(path, QUIET)
    for path in (base.parent / "studies").glob("*.py"):
        append(path, FEW_ROWS)


def append(path: Path, text: str) -> None:
    """Add text to a copied config."""
    path.write_text(path.read_text() + text)
