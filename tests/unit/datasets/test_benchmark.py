"""The timing of the input pipeline, its targets, and the memory of loading processes."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointcept.datasets import Draw, SemanticKITTIDataset
from pointcept.datasets.benchmark import argument_parser, benchmark, format_result, measure, one_core
from pointcept.utils.config import Config
from pointcept.utils.errors import ConfigError
from tests.paths import CONFIGS

TRAIN = [
    {"type": "RandomRotate", "angle": [-1, 1], "axis": "z", "center": [0, 0, 0], "p": 0.5},
    {"type": "RandomFlip", "p": 0.5},
    {"type": "GridSample", "grid_size": 0.5, "return_grid_coord": True},
    {"type": "ToTensor"},
    {"type": "Collect", "keys": ("coord", "grid_coord", "segment"), "feat_keys": ("coord", "strength")},
]
POST = [{"type": "ToTensor"}, {"type": "Collect", "keys": ("coord", "grid_coord", "index"), "feat_keys": ("coord",)}]
TEST_CFG = {
    "voxelize": {"type": "GridSample", "grid_size": 0.5, "mode": "test", "return_grid_coord": True},
    "post_transform": POST,
    "aug_transform": [[], [{"type": "RandomFlip", "p": 1}]],
}


def section(root: Path, **changes: Any) -> dict[str, Any]:
    base = {"type": "SemanticKITTIDataset", "data_root": str(root), "sequences": [0, 8], "transform": TRAIN}
    return {**base, **changes}


def steps(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["stage"], row["step"]) for row in result["rows"]]


def test_every_transform_and_stage_has_its_time(tiny_root: Path) -> None:
    result = measure(section(tiny_root), samples=7, batch_size=2)
    names = [f"{i} {cfg['type']}" for i, cfg in enumerate(TRAIN)]
    chain = [("transforms", name) for name in names]
    assert steps(result) == [("read", ""), *chain, ("transforms", ""), ("collate", ""), ("sum", "")]
    assert (result["scans"], result["points"], result["dataset"]) == (7, 200, "SemanticKITTIDataset")
    rows = {(row["stage"], row["step"]): row for row in result["rows"]}
    assert all(0 < row["median"] <= row["p90"] for row in rows.values())
    own = [rows[step]["median"] for step in chain]
    assert max(own) <= rows["transforms", ""]["median"] <= rows["sum", ""]["median"]


def test_a_slow_transform_shows(tiny_root: Path) -> None:
    def slow(sample: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        return sample

    result = measure(section(tiny_root, transform=[slow, *TRAIN]), samples=3, warmup=0)
    assert 20 <= result["rows"][1]["median"] < 60
    assert result["rows"][1]["step"] == "0 function"


def test_a_mix_owns_the_time_of_its_partner(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = SemanticKITTIDataset.get_data
    monkeypatch.setattr(SemanticKITTIDataset, "get_data", lambda self, idx: (time.sleep(0.02), read(self, idx))[1])
    mixed = [{"type": "LaserMix", "p": 1}, *TRAIN]
    result = measure(section(tiny_root, transform=mixed), samples=3, warmup=0)
    first, second = (row["median"] for row in result["rows"][:2])
    assert 20 <= first < 35, "one scan is read for itself"
    assert 20 <= second < 40, "and one is mixed in"


def test_test_mode_times_fragments(tiny_root: Path) -> None:
    result = measure(section(tiny_root, transform=[], test_mode=True, test_cfg=TEST_CFG), samples=2)
    parts = [("fragments", step) for step in ("aug_transform", "voxelize", "crop", "post_transform")]
    assert steps(result) == [("read", ""), *parts, ("fragments", ""), ("sum", "")]


def test_command_prints_a_table_and_writes_json(tiny_root: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIGS / "semantic_kitti" / "student.py", {"data_root": str(tiny_root)})
    cfg.data.train.sequences = [0]
    arguments = ["--config", "c.py", "--samples", "4", "--clock", "cpu", "--json", str(tmp_path / "out" / "b.json")]
    text = benchmark(cfg, argument_parser().parse_args(arguments))
    saved = json.loads((tmp_path / "out" / "b.json").read_text())
    assert text == format_result(saved)
    assert "4 GridSample" in text
    assert "cpu time" in text
    assert (saved["config"], saved["split"], saved["batch_size"], saved["scans"]) == ("c.py", "train", 1, 4)


def test_wrong_numbers(tiny_root: Path) -> None:
    for wrong in ({"samples": 0}, {"batch_size": 0}, {"warmup": -1}, {"clock": "sun"}):
        with pytest.raises(ConfigError, match="cannot be"):
            measure(section(tiny_root), **wrong)  # type: ignore[arg-type]


def test_one_core_is_left_as_it_was_found() -> None:
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
        assert torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (cores, threads)


def test_real_scans_are_sampled_much_faster_than_by_sorting_rows(kitti_root: Path) -> None:
    """Against a baseline of the same run, since this machine's speed varies; docs/results.md has milliseconds."""
    cfg = Config.fromfile(CONFIGS / "semantic_kitti" / "teacher.py", {"data_root": str(kitti_root)})
    train = {**cfg.data.train.to_dict(), "sequences": ["00"]}
    result = measure(train, samples=20, batch_size=4, clock="cpu")
    assert 115_000 < result["points"] < 130_000
    median = {(row["stage"], row["step"]): row["median"] for row in result["rows"]}
    coord = SemanticKITTIDataset("train", kitti_root, sequences=["00"]).get_data(0)["coord"]
    start = time.process_time()
    np.unique(np.floor(coord / 0.05).astype(np.int64), axis=0, return_inverse=True)
    baseline = 1000 * (time.process_time() - start)
    assert median["transforms", "4 GridSample"] < baseline / 2
    assert median["sum", ""] < 1.5 * baseline


# --- memory ---


ROLLUP = Path("/proc/self/smaps_rollup")


def own_memory() -> int:
    """Bytes that this process has written to; what a fork shares with its parent does not count."""
    return 1024 * int(re.findall(r"Private_Dirty: +(\d+) kB", ROLLUP.read_text())[0])


def growth(root: Path, leak: int = 0, samples: int = 400) -> float:
    """MB by which a loading process grows between its hundredth and its last sample; ``leak`` bytes are kept each."""
    kept: list[np.ndarray] = []

    def measure_memory(sample: dict[str, Any]) -> dict[str, Any]:
        if leak:
            kept.append(np.ones(leak, np.uint8))
        return {**sample, "memory": own_memory()}

    chain = Config.fromfile(CONFIGS / "semantic_kitti" / "teacher.py").to_dict()["data"]["train"]["transform"]
    data = SemanticKITTIDataset("val", root, [*chain, measure_memory])
    draws = [Draw(i % len(data), i) for i in range(samples)]
    loader = torch.utils.data.DataLoader(
        data, sampler=draws, num_workers=1, collate_fn=lambda batch: batch[0]["memory"]
    )
    memory = np.array(list(loader)) / 1e6
    assert len(memory) == samples
    return float(memory[-20:].mean() - memory[100:120].mean())


@pytest.fixture
def scan_root(tmp_path: Path) -> Path:
    """One scan of 20 000 points in sequence 08."""
    folder = tmp_path / "dataset" / "sequences" / "08"
    (folder / "velodyne").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    rng.uniform((-20, -20, -20, 0), (20, 20, 20, 1), (20_000, 4)).astype(np.float32).tofile(
        folder / "velodyne" / "000000.bin"
    )
    np.full(20_000, 10, np.uint32).tofile(folder / "labels" / "000000.label")
    return tmp_path


@pytest.mark.skipif(not ROLLUP.exists(), reason="reads the memory of a process from /proc")
def test_loading_processes_do_not_grow(scan_root: Path) -> None:
    # Pages that a fork shares with a large parent become its own as reference counts change: some MB in any case.
    assert growth(scan_root) < 12
    assert growth(scan_root, leak=100_000) > 24, "a leak of 100 kB per sample would be seen"
