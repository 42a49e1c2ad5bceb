"""The scans with the most errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pointcept.evaluation.worst import KEPT, SHOWN, WorstScans, read_points
from pointcept.utils import comm
from pointcept.utils.errors import DataError


def scan(wrong: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Twenty points, one of them without a label."""
    target = torch.zeros(20, dtype=torch.int64)
    target[0] = -1
    pred = torch.zeros(20, dtype=torch.int64)
    pred[: wrong + 1] = 1
    return pred, target, np.full((20, 3), float(wrong), np.float32)


def test_the_worst_come_first_and_the_points_of_a_few_are_kept(tmp_path: Path) -> None:
    worst = WorstScans()
    order = [int(n) for n in np.random.default_rng(0).permutation(19)]
    for wrong in order:
        worst.add(f"scan{wrong:02d}", *scan(wrong))
    worst.add("unlabelled", torch.zeros(3).long(), torch.full((3,), -1))
    expected = [{"name": f"scan{n:02d}", "points": 19, "wrong": n} for n in range(18, 18 - KEPT, -1)]
    assert worst.report() == expected
    path = worst.write(tmp_path / "a" / "worst.npz", ["#ff0000", "#00ff00"])
    assert path is not None
    points, colours = read_points(path)
    assert list(points) == [f"scan{n:02d}" for n in range(18, 18 - SHOWN, -1)]
    assert colours == ["#ff0000", "#00ff00"]
    first = points["scan18"]
    assert first.coord.shape == (20, 3)
    assert first.coord[0, 0] == 18
    assert first.target.tolist() == [-1] + [0] * 19
    assert first.pred.tolist() == [1] * 19 + [0]


def test_processes_share_what_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = WorstScans(), WorstScans()
    for wrong in range(0, 18, 2):
        one.add(f"scan{wrong:02d}", *scan(wrong))
        other.add(f"scan{wrong + 1:02d}", *scan(wrong + 1))
    monkeypatch.setattr(comm, "gather_objects", lambda scores: [scores, other.scores])
    one.gather()
    assert [entry["wrong"] for entry in one.report()] == list(range(17, 17 - KEPT, -1))
    assert [score.shown is not None for score in one.scores] == [True] * SHOWN + [False] * (KEPT - SHOWN)


def test_without_coordinates_there_are_scores_and_no_points(tmp_path: Path) -> None:
    worst = WorstScans()
    worst.add("a", *scan(3)[:2])
    assert len(worst.report()) == 1
    assert worst.write(tmp_path / "worst.npz") is None
    assert not list(tmp_path.iterdir())
    (tmp_path / "worst.npz").write_bytes(b"PK and no more")
    with pytest.raises(DataError, match=r"worst\.npz is damaged or something else"):
        read_points(tmp_path / "worst.npz")
