"""Affinities within supervoxels against loops over voxels, and what is drawn how often."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pointcept.models.losses import AffinityLoss
from pointcept.models.losses.distill.affinity import _difficulty, _keys
from pointcept.utils.errors import ConfigError


def naive(pair, edge):
    """All supervoxels with all of their voxels."""
    values, begin = [], 0
    for n in pair.grid.counts:
        cells = (pair.grid.grid_coord[begin : begin + n] // edge).tolist()
        for cell in {tuple(c) for c in cells}:
            rows = [begin + i for i, c in enumerate(cells) if tuple(c) == cell]
            if len(rows) > 1:
                maps = [F.cosine_similarity(x[rows][:, None], x[rows][None], dim=2) for x in pair.features]
                values.append((maps[0] - maps[1]).square().mean())
        begin += n
    return torch.stack(values).mean()


@pytest.fixture
def dense(build):
    """Two scans in which supervoxels of some voxels have several."""
    pair = build.Pair((60, 90))
    pair.grid.grid_coord = pair.grid.grid_coord % 6
    pair.features = (pair.student_feat, pair.teacher_feat)
    return pair


def test_against_its_definition(dense):
    loss = AffinityLoss(supervoxels=1000, edge=3, difficult=False)
    value = loss(dense.student(dense.student_feat), dense.teacher, {})
    torch.testing.assert_close(value, naive(dense, 3))
    value.backward()
    assert dense.student_feat.grad.any()
    assert dense.teacher_feat.grad is None


def test_one_supervoxel_is_the_whole_scan(pair):
    pair.features = (pair.student_feat, pair.teacher_feat)
    loss = AffinityLoss(edge=1000, difficult=False)
    torch.testing.assert_close(loss(pair.student(pair.student_feat), pair.teacher, {}), naive(pair, 1000))


def test_as_many_as_asked_for_and_the_same_of_both_networks(dense, build):
    loss = AffinityLoss(supervoxels=3, edge=3, max_voxels=4, difficult=False, seed=1)
    rows, real = [], []
    draw = loss._draw

    def drawn(*arguments):
        found = draw(*arguments)
        rows.append(found[0])
        real.append(found[1])
        return found

    loss._draw = drawn
    student = dense.student(dense.student_feat)
    before = torch.get_rng_state()
    assert loss(student, build.output(3.0 * dense.student_feat.detach(), dense.grid), {}) < 1e-20
    loss(student, dense.teacher, {})
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(rows[0], rows[1])
    for chosen, there in zip(rows, real, strict=True):
        assert chosen.shape == there.shape == (6, 4)
        scans = [dense.grid.batch[r[t]].unique().tolist() for r, t in zip(chosen, there, strict=True)]
        assert scans == [[0]] * 3 + [[1]] * 3 or sorted(scans) == [[0]] * 3 + [[1]] * 3
        for r, t in zip(chosen, there, strict=True):
            assert len(r[t].unique()) == t.sum() >= 2
            assert len((dense.grid.grid_coord[r[t]] // 3).unique(dim=0)) == 1


def test_chances_are_those_of_rare_classes_and_distance():
    """Two scans: a frequent class near and far, a rare one; a point of another network's supervoxel does not count."""
    grid_coord = torch.tensor([[0, 0, 0], [1, 1, 1], [8, 0, 0], [9, 0, 0], [0, 8, 0], [40, 0, 0]])
    batch = {
        "grid_coord": grid_coord,
        "offset": torch.tensor([4, 6]),
        "segment": torch.tensor([0, 0, 0, -1, 1, 0]),
        "coord": torch.tensor([[3.0, 4, 9], [3, 4, 9], [0, 10, 0], [0, 20, 0], [1, 0, 0], [1, 0, 0]]),
    }
    logits = torch.zeros(6, 3)
    logits[3, 2] = 1.0  # the class of the point without a label
    keys = _keys(torch.tensor([0, 0, 1]), torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]]))
    rarity = torch.tensor([6 / 4, (6 / 4 + 6) / 2, 6.0], dtype=torch.float64)
    torch.testing.assert_close(_difficulty(keys, logits, batch, 8), rarity * torch.tensor([5.0, 15.0, 1.0]).double())
    del batch["coord"]
    torch.testing.assert_close(_difficulty(keys, logits, batch, 8), rarity)


def test_draws_follow_the_chances():
    loss = AffinityLoss(supervoxels=1, max_voxels=2)
    scans, cell, sizes = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1, 1, 2]), torch.tensor([2, 2, 1])
    chances = torch.tensor([1.0, 3.0, 100.0], dtype=torch.float64)
    firsts = [int(cell[loss._draw(scans, cell, sizes, chances)[0][0, 0]]) for _ in range(2000)]
    assert set(firsts) == {0, 1}  # a voxel alone has no pair
    assert sum(firsts) / 2000 == pytest.approx(0.75, abs=0.04)


def test_nothing_to_compare(build):
    pair = build.Pair((3, 2))
    pair.grid.grid_coord = torch.arange(5)[:, None].expand(5, 3) * 10
    value = AffinityLoss(edge=4, difficult=False)(pair.student(pair.student_feat), pair.teacher, {})
    value.backward()
    assert value == 0
    assert not pair.student_feat.grad.any()


def test_wrong_options():
    for options, message in (
        ({"supervoxels": 0}, "supervoxels: got 0"),
        ({"edge": 1}, "edge: got 1"),
        ({"max_voxels": 1}, "max_voxels: got 1"),
        ({"difficult": "yes"}, "difficult: got 'yes'"),
    ):
        with pytest.raises(ConfigError, match=message):
            AffinityLoss(**options)
